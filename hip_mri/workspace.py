"""Every path that the pipeline writes, and the atomic write.

workspace/
├── DATA/<split>/<label>/<image id>.png   the images as the network sees them (hard links into preprocessed/)
├── manifest.parquet                      one row per image
├── quarantine.csv                        what could not be used, and why
├── splits.parquet                        which split each image was given, for good
├── test_set.json                         hash of the test set, locked at its first use
├── ties.parquet                          what ties images together: patients, equal and nearly equal images
├── entries/<delivery>.parquet            what each delivery held when it was read
├── identities/<delivery>.parquet         what is known of its images: keyed hashes of patients, columns of the user's
├── attributes/<digest>.parquet           further columns of the user's table of patients
├── pseudonyms.key                        key of the hashes that stand for patients
├── runs/0001/                            finished runs: metrics, predictions, model, figures, report
├── retrainings/0001/                     reports of retrainings: what came in, what changed, who won and why
├── releases/                             what was released
│   ├── versions/0001/                    registered models, each with what it came from
│   ├── champion.json                     which version serves, and all that served before
│   └── ledger.json                       every look that decisions took at the test set
├── sources/                              fetched or drawn source files
├── images/ab/<sha256>                    source images, stripped of all but pixels
├── fingerprints/<recipe>/                what copies of an image are found by, in shards
├── preprocessed/<set>/ab/<sha256>.png    contrast-enhanced, resized; one set per settings
├── backbones/<digest>/                   frozen networks, ready to run
├── features/<set>/                       feature rows, in shards; one set per backbone and settings
├── models/<digest>/                      trained networks
├── folds/<digest>.csv                    scores of cross-validation
├── drift/<digest>.png                    new images beside those of training
├── neighbours/<digest>.csv               nearest training images, by features
├── novelty/<digest>.npz                  what tells images that a model knows from others
├── predictions/0001/                     scores of new images: table, sheet, explanations, names
├── serving/                              work in progress on new images, a workspace of its own; may be removed
├── shards/<digest>.parquet               which images a task run handles
└── cache/                                Prefect's records of finished task runs
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from hip_mri.errors import WorkspaceError

_NUMBERED_FOLDER: Final = re.compile(r"(\d+)|\.(\d+)-.+")
"""A finished run or its like, or one that `publish_folder` is filling."""


@dataclass(frozen=True)
class Workspace:
    """Names the places below one root folder; creates nothing by itself.

    Attributes:
        root: The folder that holds everything.
    """

    root: Path

    @property
    def manifest_file(self) -> Path:
        return self.root / "manifest.parquet"

    @property
    def quarantine_file(self) -> Path:
        return self.root / "quarantine.csv"

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
    def attributes_folder(self) -> Path:
        return self.root / "attributes"

    @property
    def pseudonym_key_file(self) -> Path:
        return self.root / "pseudonyms.key"

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
            (self.root / ".gitignore").write_text("*\n")  # images never enter a repository by mistake
        except OSError as error:
            raise WorkspaceError(
                f"workspace: {self.root} cannot be written ({error.strerror}). "
                "Give a folder on a disk that you may write to with --workspace."
            ) from error

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep every other run out of this workspace, and remove what killed runs left half-written.

        The hold ends with the block or with the process, however it ends.

        Raises:
            WorkspaceError: Another process holds it, or the folder cannot be written.
        """
        self.prepare()
        with (self.root / ".lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                raise WorkspaceError(
                    f"workspace: {self.root} is in use by {lock.read().strip() or 'another process'}. "
                    "Wait for that run to end, or give another folder with --workspace."
                ) from error
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {platform.node()}\n")
            lock.flush()
            self._sweep()
            yield

    @contextlib.contextmanager
    def hold_serving(self) -> Iterator[None]:
        """Be the only one to score new images here; a run that trains meanwhile is not in the way.

        Raises:
            WorkspaceError: Another process scores, or the folder cannot be written.
        """
        self.prepare()
        with self.serving.hold():
            _remove_leftovers((self.predictions_folder,))
            yield

    @contextlib.contextmanager
    def hold_releases(self, timeout_seconds: float = 20.0) -> Iterator[None]:
        """Be the only one to change releases; a run that trains meanwhile is not in the way.

        Args:
            timeout_seconds: How long to wait for another process, which needs seconds at most.

        Raises:
            WorkspaceError: Another process still holds the releases, or the folder cannot be written.
        """
        with _explained(self.releases_folder):
            self.versions_folder.mkdir(parents=True, exist_ok=True)
            with (self.releases_folder / ".lock").open("a+") as lock:
                if not _wait_for_lock(lock, timeout_seconds):
                    raise WorkspaceError(
                        f"{self.releases_folder} has been in use by another process for {timeout_seconds:g} seconds. "
                        "Wait for it to end, or end it, then start again."
                    )
                _remove_leftovers((self.releases_folder, self.versions_folder))
                yield

    def _sweep(self) -> None:
        """Remove temporary files and folders; nobody else is writing them now."""
        parents = [self.root, self.runs_folder, self.sources_folder, self.shards_folder, self.backbones_folder]
        parents += [self.entries_folder, self.identities_folder, self.retrainings_folder, self.drift_folder]
        parents += [self.models_folder, *self.models_folder.glob("*-checkpoint"), *self.features_folder.glob("*")]
        parents += self.fingerprints_folder.glob("*")
        _remove_leftovers(parents)

    def next_run_number(self) -> int:
        """Number of the next run: one more than the highest run folder, finished or not."""
        return _find_next_number(self.runs_folder)

    def next_retraining_number(self) -> int:
        """Number of the next report of a retraining, likewise."""
        return _find_next_number(self.retrainings_folder)

    def next_prediction_number(self) -> int:
        """Number of the next folder of predictions, counted like runs."""
        return _find_next_number(self.predictions_folder)


@contextlib.contextmanager
def replace_file(file: Path, *, is_private: bool = False) -> Iterator[Path]:
    """Write a file so that readers see the old content or the new one, never a part, even after a power cut.

    Args:
        file: The file to write; its folder is created.
        is_private: Whether only the owner may read it.

    Yields:
        A temporary path in the same folder with the same ending. When the block ends well, it takes the place of
        `file`; when the block raises, it is removed and `file` stays as it was.

    Raises:
        WorkspaceError: The disk is full or not writable.
    """
    with _explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{os.getpid()}-{os.urandom(4).hex()}{''.join(file.suffixes[-2:])}")
        try:
            if is_private:
                temporary.touch(mode=0o600)
            yield temporary
            _flush_to_disk(temporary)
            os.replace(temporary, file)
            _flush_to_disk(file.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(file: Path, content: bytes, *, is_private: bool = False) -> None:
    """Write a whole file atomically; see `replace_file`."""
    with replace_file(file, is_private=is_private) as temporary:
        temporary.write_bytes(content)


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file atomically, indented and with a final line break; NaN and infinity are refused."""
    write_bytes(file, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(file: Path) -> Any:
    """Read a JSON file that `write_json` wrote.

    Raises:
        WorkspaceError: The file is missing or damaged.
    """
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise WorkspaceError(
            f"{file} cannot be read. Restore it from a backup, or start in an empty workspace."
        ) from error


@contextlib.contextmanager
def publish_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder so that it appears whole or not at all.

    Args:
        folder: The folder to publish. What stands there already is replaced.

    Yields:
        An empty folder beside it, which is renamed when the block ends well and removed when it raises.

    Raises:
        WorkspaceError: The disk is full or not writable; what stood there already stays.
    """
    with _explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            for file in temporary.rglob("*"):
                _flush_to_disk(file)
            _exchange(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_small_file(file: Path, content: bytes) -> None:
    """Write one of very many small files: whole or not at all, but without waiting for the disk.

    After a power cut such a file can be empty; whoever reads it checks its content. The temporary name is random:
    process and thread ids repeat between machines and containers, where two attempts at one file could meet.

    Raises:
        WorkspaceError: The disk is full or not writable.
    """
    temporary = file.with_name(f".{os.urandom(8).hex()}-{file.name}")
    with _explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, file)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def link_or_copy(original: Path, place: Path) -> None:
    """Let a file, which is never changed afterwards, stand in a second place; copied where the disk knows no links."""
    try:
        os.link(original, place)
    except OSError:
        shutil.copyfile(original, place)


def digest(content: Any) -> str:
    """SHA-256 of a JSON-like value, independent of the order of keys; 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_file(file: Path) -> str:
    """SHA-256 of a file's content; 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _wait_for_lock(lock: IO[str], timeout_seconds: float) -> bool:
    """Lock a file for this process alone; whether that came about in time."""
    end = time.monotonic() + timeout_seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        else:
            return True


def _remove_leftovers(folders: Iterable[Path]) -> None:
    """Remove what killed processes left half-written: temporary files and folders begin with a dot."""
    hidden = (path for folder in folders for path in folder.glob(".*"))
    for leftover in [path for path in hidden if path.name not in (".lock", ".gitignore")]:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Tell the user what to do where the disk refuses to hold a path."""
    try:
        yield
    except OSError as error:
        raise WorkspaceError(
            f"{path} could not be written ({error.strerror or error}). Make room on the disk or free the folder, "
            "then start again: finished work is kept."
        ) from error


def _find_next_number(parent: Path) -> int:
    folders = [folder for folder in parent.glob("*") if folder.is_dir()]
    matches = [match for folder in folders if (match := _NUMBERED_FOLDER.fullmatch(folder.name))]
    return max((int(match[1] or match[2]) for match in matches), default=0) + 1


def _exchange(fresh: Path, folder: Path) -> None:
    """Put a folder in the place of another, which is then removed, or put back where the exchange fails."""
    former = fresh.with_name(fresh.name + ".old")
    if folder.exists():
        os.replace(folder, former)
    try:
        os.replace(fresh, folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.replace(former, folder)
        raise
    _flush_to_disk(folder.parent)
    shutil.rmtree(former, ignore_errors=True)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
