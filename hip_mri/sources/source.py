"""Opens a zip file or a folder as a list of entries, with or without labels."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hip_mri.config import SYNTHETIC_MARK, SourceLimits
from hip_mri.errors import ImageError, SourceError
from hip_mri.images.file_kinds import LFS_ADVICE, NUM_BYTES_NEEDED, is_lfs_pointer, is_web_page, is_zip, name_archive
from hip_mri.sources.class_folders import NEEDED, NEEDED_WITHOUT_LABELS, label_names, list_names
from hip_mri.sources.class_names import ClassNames
from hip_mri.sources.entry_names import escape_name, find_name_fault
from hip_mri.sources.folder_listing import SkippedFolders, list_folder
from hip_mri.sources.zip_files.archive import open_archive
from hip_mri.sources.zip_files.end_record import explain_unreadable

if TYPE_CHECKING:
    from hip_mri.sources.tables.patient_table import PatientTable

logger = logging.getLogger(__name__)

SHOWN: Final = "the file"
"""Name of a source file in messages: its own name can identify a patient, and messages reach logs."""


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
        """The name with escapes for characters that cannot be stored or shown."""
        return escape_name(self.name)


NameReader = Callable[[Sequence[str]], tuple[list[tuple[str, str]], int]]
"""Takes the paths of a source and returns path and label of each entry, and the number of ignored files."""


class Source:
    """The entries of a zip file or folder.

    Args:
        files: Size and version of each file, by its path; see `Entry`.
        read_names: Selects and labels the entries.
        read_content: Reads one entry.

    Attributes:
        entries: The entries, sorted by name.
        num_ignored: Number of files that are no entries, and of folders that were skipped.
    """

    def __init__(
        self, files: Mapping[str, tuple[int, str]], read_names: NameReader, read_content: Callable[[Entry], bytes]
    ) -> None:
        labeled, self.num_ignored = read_names(sorted(files))
        self.entries = [Entry(name, label, *files[name]) for name, label in labeled]
        self._read_content = read_content

    def read(self, entry: Entry) -> bytes:
        """Read the content of one entry.

        Raises:
            ImageError: Only this entry is damaged, or it is no image but an archive, a Git LFS pointer or a web page.
            SourceError: The source cannot be read.
        """
        if fault := find_name_fault(entry.name):
            raise ImageError(fault, "the file has a name that cannot be stored")
        if entry.name.lower().endswith(".zip"):
            raise ImageError("nested_archive", "the file is a zip file inside the source")
        content = self._read_content(entry)
        start = content[:NUM_BYTES_NEEDED]
        if kind := "a zip file" if is_zip(start) else name_archive(start):
            raise ImageError("nested_archive", f"the file is {kind} inside the source")
        if is_lfs_pointer(start):
            raise ImageError("git_lfs_pointer", f"the file is a Git LFS pointer, not the image itself. {LFS_ADVICE}")
        if is_web_page(start):
            raise ImageError("web_page", "the file is a web page, not an image")
        return content


@dataclass(frozen=True)
class Labeling:
    """How the files of a source are labeled.

    Attributes:
        class_names: Maps names of folders and values of the table to labels.
        table: The table of patients; its labels, if any, replace class folders.
    """

    class_names: ClassNames = field(default_factory=ClassNames)
    table: "PatientTable | None" = None


@contextlib.contextmanager
def open_source(
    path: Path,
    limits: SourceLimits = SourceLimits(),
    labeling: Labeling = Labeling(),
    *,
    needs_all_classes: bool = True,
    own_folder: Path | None = None,
) -> Iterator[Source]:
    """Open a zip file or a folder and find its labeled images.

    Args:
        path: A zip file or a folder with class folders, both at one depth, or with the images that a table labels.
        limits: Maximum size and number of files.
        labeling: Names of class folders, and the table.
        needs_all_classes: Whether both classes are required.
        own_folder: The workspace, which is skipped if it is inside the source.

    Yields:
        The labeled entries; nothing is read or unpacked yet.

    Raises:
        SourceError: There is no such file, class folders are missing, unknown or empty, or a folder cannot be read or
            contains links out of it, pipes or devices.
        ArchiveError: The file is no zip file, or is rejected.
    """
    read_names = partial(
        label_names, class_names=labeling.class_names, table=labeling.table, needs_all_classes=needs_all_classes
    )
    with _open(path, limits, read_names, own_folder, NEEDED) as source:
        yield source


@contextlib.contextmanager
def open_unlabeled(
    path: Path, limits: SourceLimits = SourceLimits(), *, own_folder: Path | None = None
) -> Iterator[Source]:
    """Open images without labels: every file that is not ignored is an entry.

    Args:
        path: A zip file or a folder with folders of any kind, or a single image.
        limits: Maximum size and number of files.
        own_folder: The workspace, which is skipped if it is inside the source.

    Yields:
        The entries, with empty labels; nothing is read or unpacked yet.

    Raises:
        SourceError: There is no such file, there are no files in it, or a folder cannot be read or contains links out
            of it, pipes or devices.
        ArchiveError: The zip file is rejected.
    """
    if is_single_image(path):
        files = {path.name: path.stat()}
        yield _list_files(path.parent, files, lambda names: ([(name, "") for name in names], 0))
        return
    with _open(path, limits, list_names, own_folder, NEEDED_WITHOUT_LABELS) as source:
        yield source


@contextlib.contextmanager
def _open(
    path: Path, limits: SourceLimits, read_names: NameReader, own_folder: Path | None, needed: str
) -> Iterator[Source]:
    """Open a folder or a zip file; `needed` describes valid sources, for messages."""
    if path.is_dir():
        yield _open_folder(path, limits, read_names, own_folder)
    elif path.is_file():
        with open_archive(path, SHOWN, limits, needed) as archive:
            files = {
                name: (entry.size, f"{entry.checksum:08x}-{entry.size}") for name, entry in archive.entries.items()
            }
            yield Source(files, read_names, lambda entry: archive.read(entry.name))
    else:
        raise SourceError(f"source: there is no file or folder at the given path. Check the path. {needed}")


def _open_folder(path: Path, limits: SourceLimits, read_names: NameReader, own_folder: Path | None) -> Source:
    """Open a folder without its hidden and system folders and the workspace; `SourceError` if it is the workspace."""
    own = Path(os.path.realpath(own_folder)) if own_folder else None
    if own and own == Path(os.path.realpath(path)):
        raise SourceError(
            "source: it is the workspace itself, which contains other images than those of the source. Give another "
            "folder with --workspace."
        )
    skipped = SkippedFolders(own)
    source = _list_files(path, list_folder(path, limits, skipped), read_names)
    if skipped.num_skipped:
        logger.info("%d hidden folders, system folders or workspaces are skipped", skipped.num_skipped)
        source.num_ignored += skipped.num_skipped
    return source


def _list_files(folder: Path, files: Mapping[str, os.stat_result], read_names: NameReader) -> Source:
    described = {
        name: (status.st_size, f"{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_size}")
        for name, status in files.items()
    }
    return Source(described, read_names, lambda entry: read_file(folder / entry.name, entry.num_bytes))


def read_file(file: Path, num_bytes: int) -> bytes:
    """Read a file of a listed size; `ImageError` if it cannot be read or its size has changed."""
    try:
        with file.open("rb") as stream:
            content = stream.read(num_bytes + 1)
    except OSError as error:
        raise ImageError("unreadable_file", f"the file cannot be read ({error.strerror})") from error
    if len(content) != num_bytes:
        raise ImageError("unreadable_file", "the file has changed since the folder was listed")
    return content


def is_single_image(path: Path) -> bool:
    """Whether a source is one file that is no archive."""
    return path.is_file() and not _is_archive(path)


def _is_archive(file: Path) -> bool:
    """Whether the suffix or the first bytes of a file are those of an archive."""
    with explain_unreadable(SHOWN), file.open("rb") as stream:
        start = stream.read(NUM_BYTES_NEEDED)
    return file.suffix.lower() == ".zip" or is_zip(start) or bool(name_archive(start))


def is_marked_synthetic(path: Path, limits: SourceLimits = SourceLimits()) -> bool:
    """Whether a zip file or a folder contains the file `SYNTHETIC_MARK`, which marks its images as synthetic."""
    if path.is_dir():
        return any(path.glob(SYNTHETIC_MARK)) or any(path.glob(f"*/{SYNTHETIC_MARK}"))
    try:
        with open_archive(path, SHOWN, limits, NEEDED) as archive:
            upper = [name for name in archive.entries if name.count("/") <= 1]  # deeper ones may be part of the data
            return any(name.rpartition("/")[2] == SYNTHETIC_MARK for name in upper)
    except SourceError:
        return False  # a single image, or an invalid zip file
