"""Lists the files of a folder; links that lead out of it, pipes and devices are rejected."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hip_mri.config import SourceLimits
from hip_mri.errors import LimitError, SourceError
from hip_mri.sources.entry_names import MAX_LEVELS
from hip_mri.sources.ignored_files import is_ignored_folder

_MEANINGS: Final = {
    "link": "links that lead out of it, to folders or nowhere (find all links with `find . -type l`)",
    "special": "pipes, sockets or devices (find them with `find . ! -type f ! -type d ! -type l`)",
    "folder": "folders under the name of a file",
    "gone": "files that went away while it was listed, or that nobody may look at",
    "deep": f"files or folders below more than {MAX_LEVELS - 1} others (see `find . -mindepth {MAX_LEVELS + 1}`)",
}


@dataclass
class SkippedFolders:
    """Folders of a source that are not looked into: hidden ones, those of systems, and the workspace.

    Attributes:
        own: Full paths, without links, of folders of this program's own.
        num_skipped: How many were left out.
    """

    own: Collection[Path] = field(default_factory=tuple)
    num_skipped: int = 0

    def remove_from(self, folders: list[str], place: str | Path) -> None:
        """Take the names of such folders out of those that stand at a place."""
        kept = [name for name in folders if not self._is_skipped(name, place)]
        self.num_skipped += len(folders) - len(kept)
        folders[:] = kept

    def _is_skipped(self, name: str, place: str | Path) -> bool:
        return is_ignored_folder(name) or (bool(self.own) and Path(os.path.realpath(Path(place, name))) in self.own)


def list_folder(folder: Path, limits: SourceLimits, skipped: SkippedFolders | None = None) -> dict[str, os.stat_result]:
    """List every file below a folder but those in folders that are skipped.

    Links to files inside the folder are followed. Offenders are counted, not named: names can identify patients.

    Args:
        folder: The folder.
        limits: How much it may hold.
        skipped: What is not looked into; counts it.

    Returns:
        What the system tells of each file, by its path in the folder, with forward slashes.

    Raises:
        SourceError: A folder cannot be read, there is too much, or there are links that lead out of the folder,
            pipes, devices or too many levels.
    """
    return _look_at_all(_walk(folder, skipped or SkippedFolders()), folder, limits)


def list_near_top(folder: Path, is_wanted: Callable[[str], bool], limits: SourceLimits) -> dict[str, os.stat_result]:
    """List what stands at the top of a folder, or one folder below, under certain names.

    A look at two levels is cheap where `list_folder` asks for the size of a million images.

    Args:
        folder: The folder.
        is_wanted: Says of a name, without folders, whether it is one of them.
        limits: How much may be found.

    Returns:
        As `list_folder`.

    Raises:
        SourceError: As `list_folder`, about what is found; it is also raised for a folder under such a name.
    """
    unreadable: list[OSError] = []
    found: list[Path] = []
    skipped = SkippedFolders()
    for place, folders, files in os.walk(folder, onerror=unreadable.append):
        skipped.remove_from(folders, place)
        found += [Path(place, name) for name in sorted([*folders, *files]) if is_wanted(name)]
        if Path(place) != folder:
            folders.clear()
    _refuse_unreadable(unreadable)
    return _look_at_all(found, folder, limits)


def holds_files(folder: Path) -> bool:
    """Whether there is anything below a folder that `list_folder` takes or refuses, but for what cannot be read."""
    return folder.is_dir() and any(_descend(folder, lambda error: None, SkippedFolders()))


def _look_at_all(paths: Iterable[Path], folder: Path, limits: SourceLimits) -> dict[str, os.stat_result]:
    files: dict[str, os.stat_result] = {}
    faults: Counter[str] = Counter()
    root, num_bytes = folder.resolve(), 0
    for path in paths:
        found = _look_at(path, root, folder)
        if isinstance(found, str):
            faults[found] += 1
            continue
        files[path.relative_to(folder).as_posix()] = found
        num_bytes += found.st_size
        _check_limits(len(files), num_bytes, limits)
    if faults:
        told = "; ".join(f"{count} {_MEANINGS[fault]}" for fault, count in sorted(faults.items()))
        raise SourceError(f"source: the folder holds {told}. Put the files themselves in their place, or remove them.")
    return files


def _walk(folder: Path, skipped: SkippedFolders) -> Iterator[Path]:
    """What `_descend` finds; `SourceError` where a folder cannot be read."""
    unreadable: list[OSError] = []
    yield from _descend(folder, unreadable.append, skipped)
    _refuse_unreadable(unreadable)


def _refuse_unreadable(unreadable: Sequence[OSError]) -> None:
    if unreadable:
        raise SourceError(
            f"source: {len(unreadable)} of its folders cannot be read ({unreadable[0].strerror}). "
            "Give yourself the right to read them, or take them out of the source."
        )


def _descend(folder: Path, on_error: Callable[[OSError], None], skipped: SkippedFolders) -> Iterator[Path]:
    """Every file, every link in the place of a folder, and every folder at the first level that is too deep."""
    for place, folders, files in os.walk(folder, onerror=on_error):
        skipped.remove_from(folders, place)
        folders.sort()
        is_last = len(Path(place).relative_to(folder).parts) == MAX_LEVELS
        not_entered = [name for name in folders if is_last or Path(place, name).is_symlink()]
        yield from (Path(place, name) for name in (*not_entered, *files))
        if is_last:
            folders.clear()


def _look_at(path: Path, root: Path, folder: Path) -> os.stat_result | str:
    """What the system tells of a file, or a key of `_MEANINGS`."""
    if len(path.relative_to(folder).parts) > MAX_LEVELS:
        return "deep"
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            target = Path(os.path.realpath(path))  # `resolve` raises on loops
            if not target.is_file() or not target.is_relative_to(root):
                return "link"
            status = target.stat()
    except OSError:  # it names the file
        return "gone"
    if stat.S_ISDIR(status.st_mode):
        return "folder"
    return status if stat.S_ISREG(status.st_mode) else "special"


def _check_limits(num_files: int, num_bytes: int, limits: SourceLimits) -> None:
    if num_files > limits.max_entries:
        raise LimitError(
            f"source: the folder holds more than {limits.max_entries:,} files. "
            "Divide it, or allow more with --limits.max-entries."
        )
    if num_bytes > limits.max_bytes:
        raise LimitError(
            f"source: the folder holds more than {limits.max_bytes:,} bytes. "
            "Divide it, or allow more with --limits.max-bytes."
        )
