"""Atomic writes of files and folders: readers see the old content or the new one, also after a crash.

A single file is written beside its place, flushed to the disk and renamed; a folder is filled beside its place and
renamed as a whole. What a killed process leaves half-written has a name that begins with `UNFINISHED`, and is removed
by `remove_leftovers` at the next start. All folders are created for their owner alone, since many hold pictures of
patients.
"""

import contextlib
import ctypes
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from hip_mri.disk_errors import explain_content_errors, explain_write_errors
from hip_mri.errors import WorkspaceError

UNFINISHED: Final = ".hip-mri-"
"""Prefix of the names of temporary files and folders."""

_NUMBERED_FOLDER: Final = re.compile(rf"(\d+)|{re.escape(UNFINISHED)}(\d+)-.+")
"""A folder such as that of a finished run, or one that `publish_folder` is filling."""

_FORMER: Final = ".old"
"""Suffix of a folder that is being replaced."""


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
        DiskError: The disk is full, read-only or broken.
        WorkspaceError: The file cannot be written for another reason. Other errors of the block pass through.
    """
    temporary = file.with_name(f"{UNFINISHED}{os.getpid()}-{os.urandom(4).hex()}{''.join(file.suffixes[-2:])}")
    try:
        with explain_write_errors(file):
            _make_folder(file.parent)
            _reached("write", file)
            if is_private:
                temporary.touch(mode=0o600)
        with explain_content_errors(file, temporary):
            yield temporary
        with explain_write_errors(file):
            _reached("flush", file)
            _flush_to_disk(temporary)
            _reached("rename", file)
            os.replace(temporary, file)
            _reached("renamed", file)
            _flush_to_disk(file.parent)
    finally:
        with contextlib.suppress(OSError):
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
        folder: The folder to publish. An existing one is replaced.

    Yields:
        An empty folder beside it, which is renamed when the block ends well and removed when it raises.

    Raises:
        DiskError: The disk is full, read-only or broken; an existing folder stays.
        WorkspaceError: The folder cannot be written for another reason. Other errors of the block pass through.
    """
    with explain_write_errors(folder):
        _make_folder(folder.parent)
        temporary = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{folder.name}-", dir=folder.parent))
    try:
        _reached("fill", folder)
        with explain_content_errors(folder, temporary):
            yield temporary
        with explain_write_errors(folder):
            _reached("flush", folder)
            for path in (*temporary.rglob("*"), temporary):
                _flush_to_disk(path)
            _exchange(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_small_file(file: Path, content: bytes) -> None:
    """Write one of very many small files atomically, but without waiting for the disk.

    Call `flush_file_system` after the last one, before anything is written that relies on them. The temporary file
    lies one folder above, so that `remove_leftovers` need not list the very many. Its name is random: process and
    thread ids repeat between machines and containers.

    Raises:
        DiskError: The disk is full, read-only or broken.
        WorkspaceError: The file cannot be written for another reason.
    """
    temporary = file.parent.with_name(f"{UNFINISHED}{os.urandom(8).hex()}-{file.name}")
    try:
        with explain_write_errors(file):
            if not file.parent.is_dir():
                make_private_folder(file.parent)
            _reached("write", file)
            temporary.write_bytes(content)
            _reached("rename", file)
            os.replace(temporary, file)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def flush_file_system(folder: Path) -> None:
    """Flush everything that was written in the file system of a folder to the disk; 10 ms for 256 small files.

    Raises:
        DiskError: The disk is full or broken.
    """
    with explain_write_errors(folder):
        _reached("flush", folder)
        if not hasattr(_C_LIBRARY, "syncfs"):  # macOS has no such call
            os.sync()
            return
        with _opened(folder) as descriptor:
            if _C_LIBRARY.syncfs(descriptor):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))


def link_or_copy(original: Path, place: Path) -> None:
    """Hard-link a file that is never changed afterwards into a second place; copy it where the disk has no links."""
    _reached("link", place)
    try:
        os.link(original, place)
    except OSError:
        shutil.copyfile(original, place)


def find_next_folder(parent: Path) -> Path:
    """The folder whose number is one more than the highest, finished or not; `0001` is the first."""
    folders = [folder for folder in parent.glob("*") if folder.is_dir()]
    matches = [match for folder in folders if (match := _NUMBERED_FOLDER.fullmatch(folder.name))]
    return parent / f"{max((int(match[1] or match[2]) for match in matches), default=0) + 1:04d}"


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Remove what killed processes left half-written, and nothing else.

    A folder that was moved away for a new one, which was never put in its place, is put back.

    Raises:
        DiskError: The disk is read-only or broken.
        WorkspaceError: A leftover cannot be removed for another reason.
    """
    for leftover in [path for folder in folders for path in folder.glob(f"{UNFINISHED}?*-?*")]:
        former_place = leftover.with_name(leftover.name.removeprefix(UNFINISHED).rpartition("-")[0])
        with explain_write_errors(leftover):
            if leftover.suffix == _FORMER and not former_place.exists():
                os.replace(leftover, former_place)
            elif leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


def _exchange(fresh: Path, folder: Path) -> None:
    """Replace a folder, which is then removed, or put back where the exchange fails."""
    former = fresh.with_name(fresh.name + _FORMER)
    if folder.exists():
        _reached("move away", folder)
        os.replace(folder, former)
    try:
        _reached("rename", folder)
        os.replace(fresh, folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.replace(former, folder)
        raise
    _reached("renamed", folder)
    _flush_to_disk(folder.parent)
    shutil.rmtree(former, ignore_errors=True)


def make_private_folder(folder: Path) -> list[Path]:
    """Create a folder and its parents for their owner alone (mode 0700); returns those that were missing."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in (*reversed(missing), folder):
        path.mkdir(mode=0o700, exist_ok=True)
    return missing


def _make_folder(folder: Path) -> None:
    """Create a private folder and its parents so that they are still there after a power cut."""
    for path in make_private_folder(folder):
        _flush_to_disk(path.parent)


def _flush_to_disk(path: Path) -> None:
    with _opened(path) as descriptor:
        os.fsync(descriptor)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _reached(step: str, path: Path) -> None:
    """Do nothing; tests replace it to kill the process at this step."""


_C_LIBRARY: Final = ctypes.CDLL(None, use_errno=True)
