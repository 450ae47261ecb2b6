"""A zip file or a folder, seen as a list of entries: labelled by two class folders, or without labels."""

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from hip_mri.config import LABELS, SourceLimits
from hip_mri.data.archive import Archive, check_archive, open_archive
from hip_mri.data.entry_names import escape_name, find_name_fault, show_name
from hip_mri.data.folder_listing import list_folder
from hip_mri.errors import ImageError, SourceError, list_offenders

_LITTER = re.compile(r"(^|/)(__MACOSX/|\._|\.DS_Store$|Thumbs\.db$|desktop\.ini$)", re.IGNORECASE)
"""What operating systems leave in archives and folders."""

_PATIENTS_TABLE = re.compile(r"(.*-)?patients\.csv", re.IGNORECASE)

SYNTHETIC_MARK: Final = "SYNTHETIC.txt"
"""File at the top of a delivery, or one folder below, by which it says that no patient is in it."""

SHOWN: Final = "the file"
"""What messages call a zip file: its name, like those in it, can identify a patient, and messages reach logs."""

_NEEDED = f"Needed are two class folders with images, {LABELS[0]} and {LABELS[1]}, at the same depth, and no third."

_HIDDEN = "Names of other folders are not shown, since they can identify patients: look at them in the source."

_TOP = "(top)"
"""Stands for the top of a source."""

_NEEDED_WITHOUT_LABELS = "Needed are images, in folders of any kind, in a zip file, or a single one."

_ZIP_STARTS: Final = (b"PK\3\4", b"PK\5\6")
"""First bytes of a zip file with entries, and of an empty one."""

_MOST_TABLE_BYTES: Final = 2**27
"""Largest table of patients: a hundred bytes for each of a million images."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file below a class folder, or of a source without labels.

    Attributes:
        name: Path inside the source, with forward slashes.
        label: Name of the class folder; empty in a source without labels.
        num_bytes: Size of the file.
        version: Changes when the content changes: checksum and size in a zip, time and size in a folder.
    """

    name: str
    label: str
    num_bytes: int
    version: str

    @property
    def storable_name(self) -> str:
        """The name as text that any file can hold and any terminal can show: what is not becomes escapes."""
        return escape_name(self.name)


class Source(Protocol):
    """Where entries are read from."""

    entries: list[Entry]
    num_ignored: int

    def read(self, entry: Entry) -> bytes:
        """Content of one entry; `ImageError` when this entry alone is damaged."""
        ...


NameReader = Callable[[Sequence[str]], tuple[list[tuple[str, str]], int]]
"""Takes the paths of a source and gives path and label of each entry, and the number of files that are ignored."""


@contextlib.contextmanager
def open_source(
    path: Path, limits: SourceLimits = SourceLimits(), *, needs_all_classes: bool = True
) -> Iterator[Source]:
    """Open a zip file or a folder and find its class folders.

    Args:
        path: A zip file or a folder that holds the folders `normal` and `osseous_lesion`, both at one depth.
        limits: How much it may hold.
        needs_all_classes: Whether one class folder is too few.

    Yields:
        The entries below the class folders; nothing is read or unpacked yet.

    Raises:
        SourceError: There is no such file, class folders are missing or unknown, they hold no files, or a folder
            cannot be read or holds what no folder of images does.
        ArchiveError: The file is not a zip file, or one that cannot be trusted.
    """
    read_names = partial(label_names, needs_all_classes=needs_all_classes)
    if path.is_dir():
        yield _FolderSource(path, list_folder(path, limits), read_names)
    elif path.is_file():
        with open_archive(path, SHOWN, limits, _NEEDED) as archive:
            yield _ZipSource(archive, read_names)
    else:
        raise SourceError(
            "source: there is no file or folder at the given path. Give the path of a zip file or of a folder."
        )


@contextlib.contextmanager
def open_unlabelled(path: Path, limits: SourceLimits = SourceLimits()) -> Iterator[Source]:
    """Open images that nobody has sorted into classes: every file but the litter of operating systems is an entry.

    Args:
        path: A zip file or a folder with folders of any kind, or a single image.
        limits: How much it may hold.

    Yields:
        The entries, with empty labels; nothing is read or unpacked yet.

    Raises:
        SourceError: There is no such file, there are no files in it, or a folder cannot be read or holds what no
            folder of images does.
        ArchiveError: The zip file cannot be trusted.
    """
    if path.is_dir():
        yield _FolderSource(path, list_folder(path, limits), list_names)
    elif _looks_like_zip(path):
        with open_archive(path, SHOWN, limits, _NEEDED_WITHOUT_LABELS) as archive:
            yield _ZipSource(archive, list_names)
    elif path.is_file():
        yield _FolderSource(path.parent, {path.name: path.stat()}, list_names)
    else:
        raise SourceError(f"source: there is no file or folder at the given path. {_NEEDED_WITHOUT_LABELS}")


def list_names(names: Sequence[str]) -> tuple[list[tuple[str, str]], int]:
    """Take all paths of a source but litter; see `label_names`, whose form this has with empty labels.

    Raises:
        SourceError: There are no files.
    """
    kept = [name for name in names if not _LITTER.search(name)]
    if not kept:
        raise SourceError(f"source: it holds no files. {_NEEDED_WITHOUT_LABELS}")
    return [(name, "") for name in kept], len(names) - len(kept)


def _looks_like_zip(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return file.suffix.lower() == ".zip" or stream.read(4) in _ZIP_STARTS


def check_zip(file: Path, name: str) -> None:
    """See that a file is a zip file, without looking at its entries.

    Args:
        file: The file.
        name: What the user knows it by.

    Raises:
        ArchiveError: The file is not a zip file, or one that cannot be read.
    """
    check_archive(file, name, _NEEDED)


def read_patients_table(path: Path, limits: SourceLimits = SourceLimits()) -> bytes | None:
    """Read the table of patients that lies beside the class folders or one folder above: `...patients.csv`.

    Args:
        path: A zip file or a folder.
        limits: How much the source may hold.

    Returns:
        The file's content; `None` where there is none.

    Raises:
        SourceError: There are several, or the file cannot be read.
    """
    if path.is_dir():
        tables = sorted([*path.glob("*patients.csv"), *path.glob("*/*patients.csv")])
        names = [file.relative_to(path).as_posix() for file in tables if _PATIENTS_TABLE.fullmatch(file.name)]
        if not _is_one(names):
            return None
        return _read_table(path / names[0])
    with open_archive(path, SHOWN, limits, _NEEDED) as archive:
        names = [name for name in archive.names if _PATIENTS_TABLE.fullmatch(name.rpartition("/")[2])]
        names = sorted(name for name in names if name.count("/") <= 1)
        if not _is_one(names):
            return None
        _check_table_size(archive.tell_size(names[0]))
        try:
            return archive.read(names[0])
        except ImageError as error:
            raise SourceError(
                "source: the table of patients in it is damaged. Pack the folders again, or give the table with "
                "--data.patients-file."
            ) from error


def _read_table(file: Path) -> bytes:
    try:
        _check_table_size(file.stat().st_size)
        return file.read_bytes()
    except OSError as error:
        raise SourceError(
            f"source: its table of patients cannot be read ({error.strerror}). Give yourself the right to read it, or "
            "give the table with --data.patients-file."
        ) from None  # the error names the file


def _check_table_size(num_bytes: int) -> None:
    if num_bytes > _MOST_TABLE_BYTES:
        raise SourceError(
            f"source: its table of patients has {num_bytes:,} bytes, above {_MOST_TABLE_BYTES:,}. "
            "Keep the rows of its images alone."
        )


def says_synthetic(path: Path, limits: SourceLimits = SourceLimits()) -> bool:
    """Whether a zip file or a folder says by a file `SYNTHETIC.txt` that no patient is in it."""
    if path.is_dir():
        return any(path.glob(SYNTHETIC_MARK)) or any(path.glob(f"*/{SYNTHETIC_MARK}"))
    try:
        with open_archive(path, SHOWN, limits, _NEEDED) as archive:
            return any(name.rpartition("/")[2] == SYNTHETIC_MARK for name in archive.names)
    except SourceError:
        return False  # a single image, or a file of which its reader says what is wrong


def _is_one(names: Sequence[str]) -> bool:
    if len(names) > 1:
        raise SourceError(
            f"source: it holds {len(names)} tables of patients, files whose names end in patients.csv. Keep one, or "
            "give the right one with --data.patients-file."
        )
    return bool(names)


class _FolderSource:
    def __init__(self, folder: Path, files: Mapping[str, os.stat_result], read_names: NameReader) -> None:
        self._folder = folder
        labelled, self.num_ignored = read_names(sorted(files))
        self.entries = [Entry(name, label, files[name].st_size, _tell_version(files[name])) for name, label in labelled]

    def read(self, entry: Entry) -> bytes:
        _refuse_by_name(entry.name)
        try:
            with (self._folder / entry.name).open("rb") as stream:
                content = stream.read(entry.num_bytes + 1)
        except OSError as error:
            raise ImageError("unreadable_file", f"the file cannot be read ({error.strerror})") from error
        if len(content) != entry.num_bytes:
            raise ImageError("unreadable_file", "the file has changed since the folder was listed")
        return _refuse_nested(content)


def _tell_version(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_size}"


class _ZipSource:
    def __init__(self, archive: Archive, read_names: NameReader) -> None:
        self._archive = archive
        labelled, self.num_ignored = read_names(sorted(archive.names))
        self.entries = [
            Entry(name, label, archive.tell_size(name), f"{archive.tell_checksum(name):08x}-{archive.tell_size(name)}")
            for name, label in labelled
        ]

    def read(self, entry: Entry) -> bytes:
        _refuse_by_name(entry.name)
        return _refuse_nested(self._archive.read(entry.name))


def _refuse_by_name(name: str) -> None:
    """`ImageError` for a file that is not even read."""
    if fault := find_name_fault(name):
        raise ImageError(fault, "the file has a name that cannot be kept")
    if name.lower().endswith(".zip"):
        raise ImageError("nested_archive", "the file is a zip file inside the source")


def _refuse_nested(content: bytes) -> bytes:
    if content.startswith(_ZIP_STARTS):
        raise ImageError("nested_archive", "the file is a zip file inside the source")
    return content


def label_names(names: Sequence[str], *, needs_all_classes: bool = True) -> tuple[list[tuple[str, str]], int]:
    """Find the class folders among the paths of a source.

    The class folders may stand at any depth that is the same for both. Every folder at that depth must be one.

    Args:
        names: Paths with forward slashes.
        needs_all_classes: Whether one class folder is too few.

    Returns:
        Path and label of each file below a class folder, and the number of files that were ignored: litter of
        operating systems and files above the class folders.

    Raises:
        SourceError: A class folder is missing or unknown, or there are no files.
    """
    kept = [name for name in names if not _LITTER.search(name)]
    if not kept:
        raise SourceError(f"source: it holds no images. {_NEEDED}")
    parts = [PurePosixPath(name).parts for name in kept]
    depth = _find_depth(parts)
    below = [(name, part[depth]) for name, part in zip(kept, parts, strict=True) if len(part) > depth + 1]
    unknown = {label for _, label in below} - set(LABELS)
    missing = [label for label in LABELS if label not in {label for _, label in below}]
    if unknown or (missing and needs_all_classes) or not below:
        raise SourceError(
            f"source: found the folders {_show_folders({label for _, label in below})}"
            + (f"; unknown: {_show_folders(unknown)}" if unknown else "")
            + (f"; missing or empty: {', '.join(missing)}" if missing else "")
            + f". {_NEEDED}"
            + (f" {_HIDDEN}" if not all(map(_looks_like_label, unknown)) else "")
        )
    return below, len(names) - len(below)


def _find_depth(parts: Sequence[tuple[str, ...]]) -> int:
    """Depth at which class folders stand; the shallowest where any stands."""
    depths = [part[:-1].index(label) for part in parts for label in LABELS if label in part[:-1]]
    if depths:
        return min(depths)
    found = {"/".join(part[:-1]) or _TOP for part in parts}
    hidden = f" {_HIDDEN}" if not all(map(_looks_like_label, found - {_TOP})) else ""
    raise SourceError(f"source: found no class folder, but files in {_show_folders(found)}. {_NEEDED}{hidden}")


def _show_folders(names: Collection[str]) -> str:
    """Those that are meant for class folders by their names, which differ in spelling alone, and the others' number."""
    shown = sorted(name for name in names if name == _TOP or _looks_like_label(name))
    num_others = len(names) - len(shown)
    others = [f"{num_others} of {'another name' if num_others == 1 else 'other names'}"] if num_others else []
    return " and ".join([part for part in (list_offenders([show_name(name) for name in shown]),) if part] + others)


def _looks_like_label(name: str) -> bool:
    return _spell_plainly(name) in map(_spell_plainly, LABELS)


def _spell_plainly(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower()).removesuffix("s")
