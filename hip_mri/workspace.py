"""Every path that the pipeline writes, and who may write there.

workspace/
├── DATA/<split>/<label>/<image id>.png   the images as the network sees them (hard links into preprocessed/)
├── format.json                           version of the format of all these files
├── manifest.parquet                      one row per image
├── quarantine.csv                        what could not be used, and why
├── text_in_images.csv                    images that were searched for text in their pixels, and what was found
├── deliveries.json                       names of the deliveries that the manifest lists
├── splits.parquet                        which split each image was given, for good
├── test_set.json                         hash of the test set, locked at its first use
├── ties.parquet                          what ties images together: patients, equal and nearly equal images
├── entries/<delivery>.parquet            what each delivery held when it was read
├── identities/<delivery>.parquet         what is known of its images: keyed hashes of patients and the user's columns
├── identities/ignored_patients.json      hashes of patients who were taken for none, since all images named them
├── attributes/<digest>.parquet           further columns of the user's table of patients, hashed
├── pseudonyms.key                        key of the hashes that stand for patients and names
├── names.parquet                         what pseudonyms stand for, in one private file
├── runs/0001/                            finished runs: metrics, predictions, model, figures, report
├── retrainings/0001/                     reports of retrainings: what came in, what changed, who won and why
├── releases/                             what was released
│   ├── versions/0001/                    registered models, each with what it came from
│   ├── champion.json                     which version serves, and all that served before
│   └── ledger.json                       every look that decisions took at the test set
├── sources/                              fetched or drawn source files
├── images/ab/<sha256>                    source images: gray levels as PNG, named by the hash of their pixels
├── fingerprints/<recipe>/                what copies of an image are found by, in shards
├── preprocessed/<set>/ab/<sha256>.png    contrast-enhanced, resized; one set per settings
├── backbones/<digest>/                   frozen networks, ready to run
├── features/<set>/                       feature rows, in shards; one set per backbone and settings
├── models/<digest>/                      trained networks
├── folds/<digest>.csv                    scores of cross-validation
├── drift/<digest>.png                    new images beside those of training
├── neighbours/<digest>.csv               nearest training images, by features
├── novelty/<digest>.npz                  what tells images that a model knows from others
├── explanations/<digest>.npy             where networks looked, for images that were explained
├── predictions/0001/                     scores of new images: table, sheet, explanations, names
├── serving/                              work in progress on new images, a workspace of its own; may be removed
├── shards/<digest>.parquet               which images a task run handles
└── cache/                                Prefect's records of finished task runs
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from hip_mri.errors import SettingsError, WorkspaceError
from hip_mri.locks import hold_lock
from hip_mri.storage import explain_write_errors, find_next_number, read_json, remove_leftovers, write_bytes, write_json

FORMAT: Final = 2
"""Version of the format of a workspace; raised when files of an earlier version can no longer be used."""

LOCK_TIMEOUT_SECONDS: Final = 1.0
"""How long a run waits for a workspace: longer than `check_free` holds it, short enough for a quick answer."""

ELSEWHERE: Final = "Wait for that run to end, or give another folder with --workspace"


def resolve_path(path: str | Path, setting: str) -> Path:
    """Full form of a path that a person wrote, with `~` or `~name` for a home folder; nothing need be there yet.

    Args:
        path: As it was written.
        setting: What an error calls it.

    Raises:
        SettingsError: Nobody has that home folder, links lead in a circle, or the full path is not UTF-8, which
            Parquet files and Prefect need.
    """
    try:
        place = Path(path).expanduser().resolve()
    except (RuntimeError, ValueError) as error:
        raise SettingsError(f"{setting}: {str(path)!r} names no place ({error}). Give the path in full.") from error
    try:
        str(place).encode()
    except UnicodeEncodeError as error:
        raise SettingsError(
            f"{setting}: the full path of {str(path)!r}, with the current folder or behind links, has bytes that are "
            "not UTF-8. Give a path whose folders all have names in UTF-8."
        ) from error
    return place


@dataclass(frozen=True)
class Workspace:
    """Names the places below one root folder; creates nothing by itself.

    Attributes:
        root: The folder that holds everything.
    """

    root: Path

    @classmethod
    def at(cls, folder: Path) -> Self:
        """The workspace that a setting names; see `resolve_path`."""
        return cls(resolve_path(folder, "workspace"))

    @property
    def format_file(self) -> Path:
        return self.root / "format.json"

    @property
    def manifest_file(self) -> Path:
        return self.root / "manifest.parquet"

    @property
    def quarantine_file(self) -> Path:
        return self.root / "quarantine.csv"

    @property
    def text_file(self) -> Path:
        return self.root / "text_in_images.csv"

    @property
    def splits_file(self) -> Path:
        return self.root / "splits.parquet"

    @property
    def test_set_file(self) -> Path:
        return self.root / "test_set.json"

    @property
    def ties_file(self) -> Path:
        return self.root / "ties.parquet"

    @property
    def entries_folder(self) -> Path:
        return self.root / "entries"

    @property
    def identities_folder(self) -> Path:
        return self.root / "identities"

    @property
    def ignored_patients_file(self) -> Path:
        """Keyed hashes of patients who are taken for none."""
        return self.identities_folder / "ignored_patients.json"

    @property
    def attributes_folder(self) -> Path:
        return self.root / "attributes"

    @property
    def pseudonym_key_file(self) -> Path:
        return self.root / "pseudonyms.key"

    @property
    def names_file(self) -> Path:
        return self.root / "names.parquet"

    @property
    def deliveries_file(self) -> Path:
        return self.root / "deliveries.json"

    @property
    def batch_names_file(self) -> Path:
        """Names of the files that are being scored, on their way to their predictions."""
        return self.root / "names.csv"

    @property
    def data_folder(self) -> Path:
        return self.root / "DATA"

    @property
    def runs_folder(self) -> Path:
        return self.root / "runs"

    @property
    def releases_folder(self) -> Path:
        return self.root / "releases"

    @property
    def versions_folder(self) -> Path:
        return self.releases_folder / "versions"

    @property
    def champion_file(self) -> Path:
        return self.releases_folder / "champion.json"

    @property
    def looks_file(self) -> Path:
        return self.releases_folder / "ledger.json"

    @property
    def retrainings_folder(self) -> Path:
        return self.root / "retrainings"

    @property
    def drift_folder(self) -> Path:
        return self.root / "drift"

    @property
    def sources_folder(self) -> Path:
        return self.root / "sources"

    @property
    def backbones_folder(self) -> Path:
        return self.root / "backbones"

    @property
    def features_folder(self) -> Path:
        return self.root / "features"

    @property
    def models_folder(self) -> Path:
        return self.root / "models"

    @property
    def images_folder(self) -> Path:
        return self.root / "images"

    @property
    def fingerprints_folder(self) -> Path:
        return self.root / "fingerprints"

    @property
    def preprocessed_folder(self) -> Path:
        return self.root / "preprocessed"

    @property
    def folds_folder(self) -> Path:
        return self.root / "folds"

    @property
    def neighbours_folder(self) -> Path:
        return self.root / "neighbours"

    @property
    def novelty_folder(self) -> Path:
        return self.root / "novelty"

    @property
    def explanations_folder(self) -> Path:
        return self.root / "explanations"

    @property
    def predictions_folder(self) -> Path:
        return self.root / "predictions"

    @property
    def serving(self) -> "Workspace":
        """Where new images are worked on, beside a run that trains and apart from what it trains on."""
        return Workspace(self.root / "serving")

    @property
    def shards_folder(self) -> Path:
        return self.root / "shards"

    @property
    def cache_folder(self) -> Path:
        return self.root / "cache"

    def image_file(self, sha256: str) -> Path:
        """Where the stripped source image with this SHA-256 (64 hexadecimal digits) is kept."""
        return self.images_folder / sha256[:2] / sha256

    def preprocessed_file(self, settings_digest: str, sha256: str) -> Path:
        """Where the preprocessed form of a source image is kept, for one set of settings."""
        return self.preprocessed_folder / settings_digest / sha256[:2] / f"{sha256}.png"

    def prepare(self) -> None:
        """Create the root folder and see that it can be written.

        Raises:
            WorkspaceError: The folder cannot be created or written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for folder in (self.sources_folder, self.images_folder, self.cache_folder):
                folder.mkdir(mode=0o700, exist_ok=True)  # source names, original bytes, records that are loaded again
            if not (ignored := self.root / ".gitignore").exists():
                write_bytes(ignored, b"*\n")  # images never enter a repository by mistake
        except OSError as error:
            raise WorkspaceError(
                f"workspace: {self.root} cannot be written ({error.strerror}). "
                "Give a folder on a disk that you may write to with --workspace."
            ) from error

    @contextlib.contextmanager
    def hold(self, timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> Iterator[None]:
        """Keep every other run out of this workspace, and remove what killed runs left half-written.

        The hold ends with the block or with the process, however it ends.

        Args:
            timeout_seconds: How long to wait for another run to end.

        Raises:
            WorkspaceError: Another process holds it, or the folder cannot be written.
        """
        self.prepare()
        with hold_lock(self._lock_file, timeout_seconds, f"workspace: {self.root} is in use by", ELSEWHERE):
            self._check_format()
            remove_leftovers(self._list_folders())
            yield

    def _check_format(self) -> None:
        """Check that the files of the workspace are of this version's format; an empty workspace becomes so."""
        found = read_json(self.format_file) if self.format_file.exists() else {}
        has_images = self.splits_file.exists() or any(self.entries_folder.glob("*.parquet"))
        if found.get("format") == FORMAT:
            return
        if found or has_images:
            raise WorkspaceError(
                f"workspace: {self.root} has format {found.get('format', 1)}, and this version writes format {FORMAT}: "
                "image ids are hashes of pixels now, where they were hashes of files. Give an empty folder with "
                "--workspace; the old one can be used with the version that wrote it."
            )
        write_json(self.format_file, {"format": FORMAT})

    def check_free(self) -> None:
        """See that no other process holds the workspace now; for a quick answer before the expensive work begins.

        Raises:
            WorkspaceError: Another process holds it.
        """
        if self._lock_file.exists():
            with hold_lock(self._lock_file, LOCK_TIMEOUT_SECONDS, f"workspace: {self.root} is in use by", ELSEWHERE):
                pass

    @contextlib.contextmanager
    def hold_serving(self) -> Iterator[None]:
        """Be the only one to score new images here; a run that trains meanwhile is not in the way.

        Raises:
            WorkspaceError: Another process scores, or the folder cannot be written.
        """
        self.prepare()
        with self.serving.hold():
            remove_leftovers((self.predictions_folder,))
            yield

    @contextlib.contextmanager
    def hold_releases(self, timeout_seconds: float = 20.0) -> Iterator[None]:
        """Be the only one to change releases; a run that trains meanwhile is not in the way.

        Args:
            timeout_seconds: How long to wait for another process, which needs seconds at most.

        Raises:
            WorkspaceError: Another process still holds the releases, or the folder cannot be written.
        """
        with explain_write_errors(self.releases_folder):
            self.versions_folder.mkdir(parents=True, exist_ok=True)
        refusal = f"{self.releases_folder} has for {timeout_seconds:g} seconds been in use by"
        with hold_lock(self.releases_folder / ".lock", timeout_seconds, refusal, "Wait for it to end, or end it"):
            remove_leftovers((self.releases_folder, self.versions_folder))
            yield

    @property
    def _lock_file(self) -> Path:
        return self.root / ".lock"

    def _list_folders(self) -> list[Path]:
        """Every folder in which the holder of the workspace may find what a killed run left half-written."""
        tops = [folder for folder in self.root.glob("[!.]*") if folder.is_dir() and folder not in self._apart]
        sets = (
            *(self.features_folder, self.fingerprints_folder, self.preprocessed_folder),
            *(self.backbones_folder, self.folds_folder),
        )
        inside = [folder for parent in sets for folder in parent.glob("[!.]*")]
        return [self.root, *tops, *inside, *self.models_folder.glob("*-checkpoint")]

    @property
    def _apart(self) -> tuple[Path, ...]:
        """Folders with a lock of their own, or where nothing half-written can lie."""
        return self.data_folder, self.releases_folder, self.predictions_folder, self.serving.root

    def next_run_number(self) -> int:
        """Number of the next run: one more than the highest run folder, finished or not."""
        return find_next_number(self.runs_folder)

    def next_retraining_number(self) -> int:
        """Number of the next report of a retraining, likewise."""
        return find_next_number(self.retrainings_folder)

    def next_prediction_number(self) -> int:
        """Number of the next folder of predictions, counted like runs."""
        return find_next_number(self.predictions_folder)
