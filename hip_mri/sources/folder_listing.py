"""Lists the files of a folder; links out of it, pipes and devices are rejected."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hip_mri.config import SourceLimits
from hip_mri.errors import LimitError, SourceError
from hip_mri.sources.entry_names import MAX_LEVELS
from hip_mri.sources.ignored_files import is_ignored_folder

_FAULTS: Final = {
    "link": "links to folders, to missing files or out of the folder (`find . -type l` lists all links)",
    "special": "pipes, sockets or devices (see `find . ! -type f ! -type d ! -type l`)",
    "folder": "folders with the name of a table",
    "gone": "files that were removed during the listing, or that cannot be accessed",
    "deep": f"files or folders below more than {MAX_LEVELS - 1} others (see `find . -mindepth {MAX_LEVELS + 1}`)",
}


@dataclass
class SkippedFolders:
    """Folders of a source that are skipped: hidden folders, system folders and the workspace.

    Attributes:
        own: Path of the workspace, without links.
        num_skipped: Number of folders skipped so far.
    """

    own: Path | None = None
    num_skipped: int = 0

    def remove_from(self, folders: list[str], place: str) -> None:
        """Remove such folders from the names of the folders at a place."""
        kept = [name for name in folders if not is_ignored_folder(name) and not self._is_own(name, place)]
        self.num_skipped += len(folders) - len(kept)
        folders[:] = kept

    def _is_own(self, name: str, place: str) -> bool:
        return self.own is not None and Path(os.path.realpath(Path(place, name))) == self.own


def list_folder(folder: Path, limits: SourceLimits, skipped: SkippedFolders | None = None) -> dict[str, os.stat_result]:
    """List all files below a folder, except those in skipped folders.

    Links to files inside the folder are followed. Offenders are counted, not named: names can identify patients.

    Args:
        folder: The folder.
        limits: Maximum size and number of files.
        skipped: Folders that are skipped; counts them.

    Returns:
        Status of each file, by its path in the folder, with forward slashes.

    Raises:
        SourceError: A folder cannot be read, a limit is exceeded, or there are links that lead out of the folder,
            pipes, devices or too many levels.
    """
    return _check_files(_walk(folder, skipped or SkippedFolders()), folder, limits)


def list_near_top(folder: Path, is_wanted: Callable[[str], bool], limits: SourceLimits) -> dict[str, os.stat_result]:
    """List files with certain names at the top of a folder, or one folder below.

    Two levels are fast to list, while `list_folder` reads the size of all images. Folders that cannot be read are
    skipped: `list_folder` reports them.

    Args:
        folder: The folder.
        is_wanted: Whether a file of this name, without folders, is listed.
        limits: Maximum size and number of these files.

    Returns:
        As `list_folder`.

    Raises:
        SourceError: A limit is exceeded, or such a name is that of a folder, a pipe, a device or a link that leads out
            of the folder.
    """
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        found += [Path(place, name) for name in (*folders, *files) if is_wanted(name)]
        folders[:] = [name for name in folders if Path(place) == folder and not is_ignored_folder(name)]
    return _check_files(found, folder, limits)


def holds_files(folder: Path) -> bool:
    """Whether there are any files below a folder that is not skipped; folders that cannot be read count as empty."""
    return folder.is_dir() and any(_descend(folder, lambda error: None, SkippedFolders()))


def _check_files(paths: Iterable[Path], folder: Path, limits: SourceLimits) -> dict[str, os.stat_result]:
    files: dict[str, os.stat_result] = {}
    faults: Counter[str] = Counter()
    root, num_bytes = folder.resolve(), 0
    for path in paths:
        found = _read_status(path, root, folder)
        if isinstance(found, str):
            faults[found] += 1
            continue
        files[path.relative_to(folder).as_posix()] = found
        num_bytes += found.st_size
        _check_limits(len(files), num_bytes, limits)
    if faults:
        found = "; ".join(f"{count} {_FAULTS[fault]}" for fault, count in sorted(faults.items()))
        raise SourceError(f"source: the folder contains {found}. Replace them by regular files, or remove them.")
    return files


def _walk(folder: Path, skipped: SkippedFolders) -> Iterator[Path]:
    """Paths of `_descend`; `SourceError` if a folder cannot be read."""
    unreadable: list[OSError] = []
    yield from _descend(folder, unreadable.append, skipped)
    if unreadable:
        raise SourceError(
            f"source: {len(unreadable)} of its folders cannot be read ({unreadable[0].strerror}). "
            "Change their permissions, or remove them from the source."
        )


def _descend(folder: Path, on_error: Callable[[OSError], None], skipped: SkippedFolders) -> Iterator[Path]:
    """All files, links to folders, and folders at the first level that is too deep."""
    for place, folders, files in os.walk(folder, onerror=on_error):
        skipped.remove_from(folders, place)
        folders.sort()
        is_last = len(Path(place).relative_to(folder).parts) == MAX_LEVELS
        not_entered = [name for name in folders if is_last or Path(place, name).is_symlink()]
        yield from (Path(place, name) for name in (*not_entered, *files))
        if is_last:
            folders.clear()


def _read_status(path: Path, root: Path, folder: Path) -> os.stat_result | str:
    """Status of a file, or a key of `_FAULTS`."""
    if len(path.relative_to(folder).parts) > MAX_LEVELS:
        return "deep"
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            target = Path(os.path.realpath(path))  # `resolve` raises on loops
            if not target.is_file() or not target.is_relative_to(root):
                return "link"
            status = target.stat()
    except OSError:  # the error contains the path
        return "gone"
    if stat.S_ISDIR(status.st_mode):
        return "folder"
    return status if stat.S_ISREG(status.st_mode) else "special"


def _check_limits(num_files: int, num_bytes: int, limits: SourceLimits) -> None:
    if num_files > limits.max_entries:
        raise LimitError(
            f"source: the folder contains more than {limits.max_entries:,} files. "
            "Divide it, or allow more with --limits.max-entries."
        )
    if num_bytes > limits.max_bytes:
        raise LimitError(
            f"source: the folder contains more than {limits.max_bytes:,} bytes. "
            "Divide it, or allow more with --limits.max-bytes."
        )
