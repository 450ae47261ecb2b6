"""Opens a zip file or a folder as a list of entries, with or without labels."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from hip_mri.config import SYNTHETIC_MARK, SourceLimits
from hip_mri.errors import ImageError, SourceError
from hip_mri.images.file_kinds import LFS_ADVICE, NUM_BYTES_NEEDED, is_lfs_pointer, is_web_page, is_zip, name_archive
from hip_mri.sources.class_folders import NEEDED, NEEDED_WITHOUT_LABELS, label_names, list_names
from hip_mri.sources.class_names import ClassNames
from hip_mri.sources.entry_names import escape_name, find_name_fault
from hip_mri.sources.folder_listing import SkippedFolders, list_folder
from hip_mri.sources.zip_files.archive import Archive, open_archive
from hip_mri.sources.zip_files.end_record import explain_unreadable

if TYPE_CHECKING:
    from hip_mri.sources.tables.patient_table import PatientTable

logger = logging.getLogger(__name__)

SHOWN: Final = "the file"
"""What messages call a zip file: its name, like those in it, can identify a patient, and messages reach logs."""


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


@dataclass(frozen=True)
class Labelling:
    """How the files of a source are labelled.

    Attributes:
        class_names: Finds the class that the name of a folder, or a value in the table, stands for.
        table: The table of patients; where it has labels, they take the place of class folders.
    """

    class_names: ClassNames = field(default_factory=ClassNames)
    table: "PatientTable | None" = None


@contextlib.contextmanager
def open_source(
    path: Path,
    limits: SourceLimits = SourceLimits(),
    labelling: Labelling = Labelling(),
    *,
    needs_all_classes: bool = True,
    own_folder: Path | None = None,
) -> Iterator[Source]:
    """Open a zip file or a folder and find its labelled images.

    Args:
        path: A zip file or a folder that holds class folders, both at one depth, or the images that a table labels.
        limits: How much it may hold.
        labelling: Names of class folders, and the table.
        needs_all_classes: Whether one class is too few.
        own_folder: The workspace, which is no part of a source that it lies in.

    Yields:
        The labelled entries; nothing is read or unpacked yet.

    Raises:
        SourceError: There is no such file, class folders are missing or unknown, they hold no files, or a folder
            cannot be read or holds what no folder of images does.
        ArchiveError: The file is not a zip file, or one that cannot be trusted.
    """
    read_names = partial(
        label_names, class_names=labelling.class_names, table=labelling.table, needs_all_classes=needs_all_classes
    )
    if path.is_dir():
        yield _open_folder(path, limits, read_names, own_folder)
    elif path.is_file():
        with open_archive(path, SHOWN, limits, NEEDED) as archive:
            yield _ZipSource(archive, read_names)
    else:
        raise SourceError(
            "source: there is no file or folder at the given path. Give the path of a zip file or of a folder."
        )


@contextlib.contextmanager
def open_unlabelled(
    path: Path, limits: SourceLimits = SourceLimits(), *, own_folder: Path | None = None
) -> Iterator[Source]:
    """Open images without labels: every file that is not ignored is an entry.

    Args:
        path: A zip file or a folder with folders of any kind, or a single image.
        limits: How much it may hold.
        own_folder: The workspace, which is no part of a source that it lies in.

    Yields:
        The entries, with empty labels; nothing is read or unpacked yet.

    Raises:
        SourceError: There is no such file, there are no files in it, or a folder cannot be read or holds what no
            folder of images does.
        ArchiveError: The zip file cannot be trusted.
    """
    if path.is_dir():
        yield _open_folder(path, limits, list_names, own_folder)
    elif path.is_file():
        status, is_archive = _inspect(path)
        if is_archive:
            with open_archive(path, SHOWN, limits, NEEDED_WITHOUT_LABELS) as archive:
                yield _ZipSource(archive, list_names)
        else:
            yield _FolderSource(path.parent, {path.name: status}, lambda names: ([(name, "") for name in names], 0))
    else:
        raise SourceError(f"source: there is no file or folder at the given path. {NEEDED_WITHOUT_LABELS}")


def _open_folder(path: Path, limits: SourceLimits, read_names: NameReader, own_folder: Path | None) -> "_FolderSource":
    """The files of a folder but those in hidden and system folders and in the workspace, which are not looked into.

    Raises:
        SourceError: It is the workspace itself.
    """
    own = Path(os.path.realpath(own_folder)) if own_folder else None
    if own and own == Path(os.path.realpath(path)):
        raise SourceError(
            "source: it is the workspace itself, in which the images of the source and what is made of them could not "
            "be told apart. Give another folder with --workspace."
        )
    skipped = SkippedFolders((own,) if own else ())
    source = _FolderSource(path, list_folder(path, limits, skipped), read_names)
    if skipped.num_skipped:
        logger.info("%d hidden or system folders, or workspaces, are not looked into", skipped.num_skipped)
        source.num_ignored += skipped.num_skipped
    return source


def _inspect(file: Path) -> tuple[os.stat_result, bool]:
    """Status of a file, and whether its suffix or first bytes are those of an archive."""
    with explain_unreadable(SHOWN), file.open("rb") as stream:
        start = stream.read(NUM_BYTES_NEEDED)
        is_archive = file.suffix.lower() == ".zip" or is_zip(start) or bool(name_archive(start))
        return os.fstat(stream.fileno()), is_archive


def is_marked_synthetic(path: Path, limits: SourceLimits = SourceLimits()) -> bool:
    """Whether a zip file or a folder contains the file `SYNTHETIC_MARK`, which marks its images as synthetic."""
    if path.is_dir():
        return any(path.glob(SYNTHETIC_MARK)) or any(path.glob(f"*/{SYNTHETIC_MARK}"))
    try:
        with open_archive(path, SHOWN, limits, NEEDED) as archive:
            upper = [name for name in archive.names if name.count("/") <= 1]  # deeper ones may be part of the data
            return any(name.rpartition("/")[2] == SYNTHETIC_MARK for name in upper)
    except SourceError:
        return False  # a single image, or a file of which its reader says what is wrong


class _FolderSource:
    def __init__(self, folder: Path, files: Mapping[str, os.stat_result], read_names: NameReader) -> None:
        self._folder = folder
        labelled, self.num_ignored = read_names(sorted(files))
        self.entries = [
            Entry(name, label, files[name].st_size, _describe_version(files[name])) for name, label in labelled
        ]

    def read(self, entry: Entry) -> bytes:
        _refuse_by_name(entry.name)
        try:
            with (self._folder / entry.name).open("rb") as stream:
                content = stream.read(entry.num_bytes + 1)
        except OSError as error:
            raise ImageError("unreadable_file", f"the file cannot be read ({error.strerror})") from error
        if len(content) != entry.num_bytes:
            raise ImageError("unreadable_file", "the file has changed since the folder was listed")
        return _refuse_other_kinds(content)


def _describe_version(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_size}"


class _ZipSource:
    def __init__(self, archive: Archive, read_names: NameReader) -> None:
        self._archive = archive
        labelled, self.num_ignored = read_names(sorted(archive.names))
        self.entries = [
            Entry(name, label, archive.get_size(name), f"{archive.get_checksum(name):08x}-{archive.get_size(name)}")
            for name, label in labelled
        ]

    def read(self, entry: Entry) -> bytes:
        _refuse_by_name(entry.name)
        return _refuse_other_kinds(self._archive.read(entry.name))


def _refuse_by_name(name: str) -> None:
    """`ImageError` for a file that is not even read."""
    if fault := find_name_fault(name):
        raise ImageError(fault, "the file has a name that cannot be kept")
    if name.lower().endswith(".zip"):
        raise ImageError("nested_archive", "the file is a zip file inside the source")


def _refuse_other_kinds(content: bytes) -> bytes:
    """`ImageError` for a file that stands in the place of images: an archive, a pointer to a file, a web page."""
    start = content[:NUM_BYTES_NEEDED]
    if is_zip(start):
        raise ImageError("nested_archive", "the file is a zip file inside the source")
    if kind := name_archive(start):
        raise ImageError("nested_archive", f"the file is {kind} inside the source")
    if is_lfs_pointer(start):
        raise ImageError("git_lfs_pointer", f"the file is a Git LFS pointer, not the image itself. {LFS_ADVICE}")
    if is_web_page(start):
        raise ImageError("web_page", "the file is a web page, not an image")
    return content
