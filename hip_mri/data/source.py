"""A zip file or a folder, seen as a list of entries: labelled by two class folders, or without labels."""

import contextlib
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from hip_mri.config import LABELS
from hip_mri.errors import ArchiveError, ImageError, SourceError, list_offenders

_LITTER = re.compile(r"(^|/)(__MACOSX/|\._|\.DS_Store$|Thumbs\.db$|desktop\.ini$)", re.IGNORECASE)
"""What operating systems leave in archives and folders."""

_PATIENTS_TABLE = re.compile(r"(.*-)?patients\.csv", re.IGNORECASE)

_NEEDED = f"Needed are two class folders with images, {LABELS[0]} and {LABELS[1]}, at the same depth, and no third."

_NEEDED_WITHOUT_LABELS = "Needed are images, in folders of any kind, in a zip file, or a single one."

_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
"""What `zipfile` and the decompressors raise for bytes that are not as they should be."""


@dataclass(frozen=True)
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
        """The name as text that any file can hold: bytes of a file name that are not UTF-8 become escapes."""
        return self.name.encode("utf-8", "backslashreplace").decode()


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
def open_source(path: Path, *, needs_all_classes: bool = True) -> Iterator[Source]:
    """Open a zip file or a folder and find its class folders.

    Args:
        path: A zip file or a folder that holds the folders `normal` and `osseous_lesion`, both at one depth.
        needs_all_classes: Whether one class folder is too few.

    Yields:
        The entries below the class folders; nothing is read or unpacked yet.

    Raises:
        SourceError: There is no such file, class folders are missing or unknown, they hold no files, or a folder
            cannot be read.
        ArchiveError: The file is not a zip file, or one that cannot be read safely.
    """
    read_names = partial(label_names, needs_all_classes=needs_all_classes)
    if path.is_dir():
        yield _FolderSource(path, read_names)
    elif path.is_file():
        with _open_zip(path, path.name) as archive:
            yield _ZipSource(archive, read_names)
    else:
        raise SourceError(f"source: there is no file or folder {path}. Give the path of a zip file or of a folder.")


@contextlib.contextmanager
def open_unlabelled(path: Path) -> Iterator[Source]:
    """Open images that nobody has sorted into classes: every file but the litter of operating systems is an entry.

    Args:
        path: A zip file or a folder with folders of any kind, or a single image.

    Yields:
        The entries, with empty labels; nothing is read or unpacked yet.

    Raises:
        SourceError: There is no such file, there are no files in it, or a folder cannot be read.
        ArchiveError: The zip file cannot be read safely.
    """
    if path.is_dir():
        yield _FolderSource(path, list_names)
    elif _looks_like_zip(path):
        with _open_zip(path, path.name, _NEEDED_WITHOUT_LABELS) as archive:
            yield _ZipSource(archive, list_names)
    elif path.is_file():
        yield _FolderSource(path.parent, list_names, [path.name])
    else:
        raise SourceError(f"source: there is no file or folder {path}. {_NEEDED_WITHOUT_LABELS}")


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
    return file.is_file() and (file.suffix.lower() == ".zip" or zipfile.is_zipfile(file))


def check_zip(file: Path, name: str) -> None:
    """See that a file is a zip file, without looking at its entries.

    Args:
        file: The file.
        name: What the user knows it by.

    Raises:
        ArchiveError: The file is not a zip file, or one that cannot be read.
    """
    _open_zip(file, name).close()


def read_patients_table(path: Path) -> bytes | None:
    """Read the table of patients that lies beside the class folders or one folder above: `...patients.csv`.

    Args:
        path: A zip file or a folder.

    Returns:
        The file's content; `None` where there is none.

    Raises:
        SourceError: There are several, or the file cannot be read.
    """
    if path.is_dir():
        tables = sorted([*path.glob("*patients.csv"), *path.glob("*/*patients.csv")])
        names = [file.relative_to(path).as_posix() for file in tables if _PATIENTS_TABLE.fullmatch(file.name)]
        return (path / names[0]).read_bytes() if _is_one(names) else None
    with _open_zip(path, path.name) as archive:
        names = [name for name in archive.namelist() if _PATIENTS_TABLE.fullmatch(name.rpartition("/")[2])]
        names = sorted(name for name in names if name.count("/") <= 1)
        return archive.read(names[0]) if _is_one(names) else None


def _is_one(names: Sequence[str]) -> bool:
    if len(names) > 1:
        raise SourceError(
            f"source: it holds {len(names)} tables of patients: {list_offenders(names)}. Keep one, or give the right "
            "one with --data.patients-file."
        )
    return bool(names)


class _FolderSource:
    def __init__(self, folder: Path, read_names: NameReader, names: Iterable[str] | None = None) -> None:
        self._folder = folder
        status = {name: (folder / name).stat() for name in (_walk(folder) if names is None else names)}
        labelled, self.num_ignored = read_names(sorted(status))
        self.entries = [
            Entry(
                name,
                label,
                status[name].st_size,
                f"{status[name].st_mtime_ns}-{status[name].st_ctime_ns}-{status[name].st_size}",
            )
            for name, label in labelled
        ]

    def read(self, entry: Entry) -> bytes:
        try:
            return (self._folder / entry.name).read_bytes()
        except OSError as error:
            raise ImageError("unreadable_file", f"the file cannot be read ({error.strerror})") from error


class _ZipSource:
    def __init__(self, archive: zipfile.ZipFile, read_names: NameReader) -> None:
        self._archive = archive
        infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        _refuse_unsafe(archive.infolist())
        labelled, self.num_ignored = read_names(sorted(infos))
        self.entries = [
            Entry(name, label, infos[name].file_size, f"{infos[name].CRC:08x}-{infos[name].file_size}")
            for name, label in labelled
        ]

    def read(self, entry: Entry) -> bytes:
        try:
            return self._archive.read(entry.name)
        except NotImplementedError as error:
            raise ImageError("unsupported_compression", "the entry is packed in a way that is not supported") from error
        except _DAMAGE as error:
            raise ImageError("damaged_entry", "the entry's checksum or compressed data are wrong") from error


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
    unknown = sorted({label for _, label in below} - set(LABELS))
    missing = [label for label in LABELS if label not in {label for _, label in below}]
    if unknown or (missing and needs_all_classes) or not below:
        found = sorted({label for _, label in below})
        raise SourceError(
            f"source: found the folders {list_offenders(found)}"
            + (f"; unknown: {list_offenders(unknown)}" if unknown else "")
            + (f"; missing or empty: {', '.join(missing)}" if missing else "")
            + f". {_NEEDED}"
        )
    return below, len(names) - len(below)


def _find_depth(parts: Sequence[tuple[str, ...]]) -> int:
    """Depth at which class folders stand; the shallowest where any stands."""
    depths = [part[:-1].index(label) for part in parts for label in LABELS if label in part[:-1]]
    if depths:
        return min(depths)
    found = sorted({"/".join(part[:-1]) or "(top)" for part in parts})
    raise SourceError(f"source: found no class folder, but files in {list_offenders(found)}. {_NEEDED}")


def _walk(folder: Path) -> Iterator[str]:
    unreadable: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=unreadable.append):
        folders.sort()
        for file in files:
            path = Path(root, file)
            if path.is_file():
                yield path.relative_to(folder).as_posix()
    if unreadable:
        raise SourceError(
            f"source: {len(unreadable)} of its folders cannot be read ({unreadable[0].strerror}). "
            "Give yourself the right to read them, or take them out of the source."
        )


def _open_zip(file: Path, name: str, needed: str = _NEEDED) -> zipfile.ZipFile:
    try:
        with file.open("rb") as stream:
            start = stream.read(512)
    except OSError as error:
        raise ArchiveError(
            f"source: {name} cannot be read ({error.strerror}). Give a file on a sound disk that you may read."
        ) from error
    try:
        return zipfile.ZipFile(file)
    except NotImplementedError as error:
        raise ArchiveError(f"source: {name} cannot be read ({error}). Pack the folders again.") from error
    except _DAMAGE as error:
        raise ArchiveError(
            f"source: {name} is {_describe_start(start)}. Fetch it again, or give a zip file or a folder. {needed}"
        ) from error


def _describe_start(start: bytes) -> str:
    start = start.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page (a download page or an error page was saved instead of the file)"
    return "a damaged or truncated zip file" if start.startswith(b"pk") else "no zip file"


def _refuse_unsafe(infos: Sequence[zipfile.ZipInfo]) -> None:
    names = [info.filename for info in infos]
    escaping = [repr(name) for name in names if name.startswith("/") or "\\" in name or ".." in name.split("/")]
    if escaping:
        raise ArchiveError(
            f"source: entries with unsafe paths: {list_offenders(escaping)}. Pack the folders again with plain paths."
        )
    encrypted = [repr(info.filename) for info in infos if info.flag_bits & 1]
    if encrypted:
        raise ArchiveError(
            f"source: encrypted entries: {list_offenders(encrypted)}. Unpack with the password, then give the folder."
        )
    repeated = [repr(name) for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ArchiveError(f"source: names that occur twice: {list_offenders(repeated)}. Pack the folders again.")
