"""The paths of a workspace and its locks.

Folders that the pipeline creates are accessible by their owner alone (mode 0700).
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from hip_mri.disk_errors import explain_write_errors
from hip_mri.errors import SettingsError, WorkspaceError
from hip_mri.locks import hold_lock
from hip_mri.storage import make_private_folder, read_json, remove_leftovers, write_bytes, write_json

FORMAT: Final = 2
"""Version of the format of a workspace; raised when files of an earlier version can no longer be used."""

LOCK_TIMEOUT_SECONDS: Final = 1.0
"""How long a run waits for a workspace: longer than `check_free` holds it, short enough for a quick answer."""

_ADVICE: Final = "Wait for that run to end, or give another workspace"


def resolve_path(path: str | Path, setting: str) -> Path:
    """Resolve a path that a user wrote, with `~` or `~name` for a home folder; it need not exist.

    Args:
        path: As it was written.
        setting: Its name in errors.

    Raises:
        SettingsError: There is no such home folder, symbolic links form a loop, or the full path is not UTF-8, which
            Parquet files and Prefect need.
    """
    try:
        resolved = Path(path).expanduser().resolve()
    except (RuntimeError, ValueError) as error:
        raise SettingsError(f"{setting}: {str(path)!r} is not a path ({error}). Give the path in full.") from error
    try:
        str(resolved).encode()
    except UnicodeEncodeError as error:
        raise SettingsError(
            f"{setting}: the full path of {str(path)!r}, with the current folder and symbolic links, has bytes that "
            "are not UTF-8. Give a path whose folders all have names in UTF-8."
        ) from error
    return resolved


class _Below:
    """A path below the root of a workspace, read as an attribute of type `Path`."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __get__(self, workspace: "Workspace", owner: type) -> Path:
        return workspace.root / self.path


@dataclass(frozen=True)
class Workspace:
    """Names the paths below one root folder; creates nothing by itself.

    Attributes:
        root: The folder that holds everything.
    """

    root: Path

    format_file = _Below("format.json")  # version of the format of all these files
    manifest_file = _Below("manifest.parquet")  # one row per image
    quarantine_file = _Below("quarantine.csv")  # what could not be used, and why
    corrections_file = _Below("corrections.csv")  # corrected labels of the current manifest
    text_file = _Below("text_in_images.csv")  # result of the search for text in pixels
    deliveries_file = _Below("deliveries.json")  # names of the deliveries that the manifest lists
    splits_file = _Below("splits.parquet")  # the split of each image, kept for later runs
    test_set_file = _Below("test_set.json")  # hash of the test set, locked at its first use
    ties_file = _Below("ties.parquet")  # evidence that relates images: patients, series, nearly equal images
    order_file = _Below("order.parquet")  # the place of each image in its folder or series: sha256, sequence, place
    examinations_file = _Below("examinations.parquet")  # inferred examination of each image, kept for later runs
    borders_file = _Below("borders.parquet")  # neighbors and near images that were compared to infer examinations
    pseudonym_key_file = _Below("pseudonyms.key")  # key of the hashes that replace patient ids and names
    names_file = _Below("names.parquet")  # the name behind each pseudonym, in one private file
    batch_names_file = _Below("names.csv")  # of a workspace that serves: names of the files that are being scored
    entries_folder = _Below("entries")  # <delivery>.parquet: its files when it was read
    identities_folder = _Below("identities")  # <delivery>.parquet: keyed hashes of patients, the user's columns
    split_tables_file = _Below("identities/split_tables.json")  # SHA-256 of the tables of the publisher's split
    ignored_patients_file = _Below("identities/ignored_patients.json")  # hashes of placeholders, which all images had
    attributes_folder = _Below("attributes")  # <digest>.parquet: hashed columns of the user's table of patients
    data_folder = _Below("DATA")  # <split>/<label>/<image id>.png: copies from preprocessed/
    runs_folder = _Below("runs")  # 0001/: metrics, predictions, model, figures, report
    retrainings_folder = _Below("retrainings")  # 0001/: reports: new images, changes, decision and its reasons
    model_comparisons_folder = _Below("comparisons")  # 0001/: candidates for the model, compared by cross-validation
    releases_folder = _Below("releases")
    versions_folder = _Below("releases/versions")  # 0001/: registered models, each with its origin
    champion_file = _Below("releases/champion.json")  # the version that serves, and all earlier ones
    audit_file = _Below("releases/audit.jsonl")  # every decision on a version: who, how and why
    comparisons_folder = _Below("releases/comparisons")  # 0004-over-0002/: what a decision on a challenger is based on
    conclusions_file = _Below("releases/conclusions.json")  # how each retraining ended
    ledger_file = _Below("releases/ledger.json")  # every comparison on the test set
    sources_folder = _Below("sources")  # fetched or drawn source files
    images_folder = _Below("images")  # ab/<sha256>: gray levels as PNG, named by the hash of their pixels
    fingerprints_folder = _Below("fingerprints")  # <recipe>/: hashes and thumbnails that find copies
    preprocessed_folder = _Below("preprocessed")  # <set>/ab/<sha256>.png: after CLAHE and resizing
    backbones_folder = _Below("backbones")  # <digest>/: frozen networks, ready to run
    features_folder = _Below("features")  # <set>/: feature rows, in shards; one set per backbone and settings
    models_folder = _Below("models")  # <digest>/: trained networks
    folds_folder = _Below("folds")  # <digest>.csv: scores of cross-validation
    drift_folder = _Below("drift")  # <digest>.png: new images beside training images
    neighbors_folder = _Below("neighbours")  # <digest>.csv: nearest training images, by features
    leakage_folder = _Below("leakage")  # <digest>.csv: AUC of labels drawn at random for blocks of images
    shortcuts_folder = _Below("shortcuts")  # <digest>.csv: numbers of test images that need no anatomy, and scores
    label_review_folder = _Below("label_review")  # <digest>.csv: images ranked by how probably their label is wrong
    training_sizes_folder = _Below("training_sizes")  # <digest>.csv: AUC by number of training groups
    novelty_folder = _Below("novelty")  # <digest>.npz: out-of-distribution detectors
    explanations_folder = _Below("explanations")  # <digest>.npy: class activation maps
    predictions_folder = _Below("predictions")  # 0001/: scores of new images: table, sheet, explanations, names
    shards_folder = _Below("shards")  # <digest>.parquet: the images of a task run
    cache_folder = _Below("cache")  # Prefect's records of finished task runs
    _serving_folder = _Below("serving")  # work on new images, a workspace of its own; may be removed
    _lock_file = _Below(".lock")

    @classmethod
    def at(cls, folder: Path) -> Self:
        """The workspace that a setting names; see `resolve_path`."""
        return cls(resolve_path(folder, "workspace"))

    @property
    def serving(self) -> "Workspace":
        """A workspace for new images that are being scored, independent of a run that trains."""
        return Workspace(self._serving_folder)

    def image_file(self, sha256: str) -> Path:
        """Where the stripped source image with this SHA-256 (64 hexadecimal digits) is kept."""
        return self.images_folder / sha256[:2] / sha256

    def preprocessed_file(self, settings_digest: str, sha256: str) -> Path:
        """Where the preprocessed form of a source image is kept, for one set of settings."""
        return self.preprocessed_folder / settings_digest / sha256[:2] / f"{sha256}.png"

    def prepare(self) -> None:
        """Create the root folder, check that it can be written, and restrict folders that hold pictures to the owner.

        Raises:
            WorkspaceError: The folder cannot be created or written.
        """
        try:
            make_private_folder(self.root)
            for folder in (self.sources_folder, self.images_folder, self.cache_folder):
                make_private_folder(folder)
            for folder in self._picture_folders:
                with contextlib.suppress(FileNotFoundError, PermissionError):  # the latter: of another owner
                    folder.chmod(0o700)  # earlier versions made some of them readable by others
            if not (ignored := self.root / ".gitignore").exists():
                write_bytes(ignored, b"*\n")  # images never enter a repository by mistake
        except OSError as error:
            raise WorkspaceError(
                f"workspace: {self.root} cannot be written ({error.strerror}). "
                "Give a workspace on a disk that you may write to."
            ) from error

    @property
    def _picture_folders(self) -> tuple[Path, ...]:
        """Folders that hold pictures of patients, thumbnails and figures included."""
        return (
            *(self.data_folder, self.sources_folder, self.images_folder, self.fingerprints_folder),
            *(self.preprocessed_folder, self.runs_folder, self.retrainings_folder, self.drift_folder),
            *(self.explanations_folder, self.predictions_folder, self._serving_folder),
        )

    @contextlib.contextmanager
    def hold(self, timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> Iterator[None]:
        """Lock this workspace for one run, and remove what killed runs left half-written.

        The lock ends with the block or with the process.

        Args:
            timeout_seconds: How long to wait for another run to end.

        Raises:
            WorkspaceError: Another process holds it, or the folder cannot be written.
        """
        self.prepare()
        with hold_lock(self._lock_file, timeout_seconds, f"workspace: {self.root} is in use by", _ADVICE):
            self._check_format()
            remove_leftovers(self._list_folders())
            yield

    def _check_format(self) -> None:
        """Check that the workspace has the format of this version; an empty one is given it."""
        found = read_json(self.format_file) if self.format_file.exists() else {}
        has_images = self.splits_file.exists() or any(self.entries_folder.glob("*.parquet"))
        if found.get("format") == FORMAT:
            return
        if found or has_images:
            raise WorkspaceError(
                f"workspace: {self.root} has format {found.get('format', 1)}, this version needs {FORMAT}, whose "
                "image ids are hashes of pixels instead of files. Give an empty folder; the old one "
                "can be used with the version that wrote it."
            )
        write_json(self.format_file, {"format": FORMAT})

    def check_free(self) -> None:
        """Check that no other process has locked the workspace, before the expensive work begins.

        Raises:
            WorkspaceError: Another process holds it.
        """
        if self._lock_file.exists():
            with hold_lock(self._lock_file, LOCK_TIMEOUT_SECONDS, f"workspace: {self.root} is in use by", _ADVICE):
                pass

    @contextlib.contextmanager
    def hold_serving(self) -> Iterator[None]:
        """Lock the scoring of new images; a run may train meanwhile.

        Raises:
            WorkspaceError: Another process scores images, or the folder cannot be written.
        """
        self.prepare()
        with self.serving.hold():
            remove_leftovers((self.predictions_folder,))
            yield

    @contextlib.contextmanager
    def hold_releases(self, timeout_seconds: float = 20.0) -> Iterator[None]:
        """Lock the releases for a change; a run may train meanwhile.

        Args:
            timeout_seconds: How long to wait for another process, which needs seconds at most.

        Raises:
            WorkspaceError: Another process still holds the releases, or the folder cannot be written.
        """
        with explain_write_errors(self.releases_folder):
            make_private_folder(self.versions_folder)
        refusal = f"{self.releases_folder} has been in use for {timeout_seconds:g} seconds by"
        with hold_lock(self.releases_folder / ".lock", timeout_seconds, refusal, "Wait for it to end, or end it"):
            parents = self.releases_folder, self.versions_folder, self.comparisons_folder
            remove_leftovers((*parents, *self.versions_folder.glob("[0-9]*")))
            yield

    def _list_folders(self) -> list[Path]:
        """Folders in which killed runs may have left files, except those with locks of their own and DATA."""
        excluded = (self.data_folder, self.releases_folder, self.predictions_folder, self._serving_folder)
        tops = [folder for folder in self.root.glob("[!.]*") if folder.is_dir() and folder not in excluded]
        sets = (
            *(self.features_folder, self.fingerprints_folder, self.preprocessed_folder),
            *(self.backbones_folder, self.folds_folder),
        )
        inside = [folder for parent in sets for folder in parent.glob("[!.]*")]
        return [self.root, *tops, *inside, *self.models_folder.glob("*-checkpoint")]


TOP_LEVEL_NAMES: Final = frozenset(
    {".gitignore", *(below.path.partition("/")[0] for below in vars(Workspace).values() if isinstance(below, _Below))}
)
"""Names of the files and folders at the top of a workspace."""
