"""Atomic writes of files and folders: readers see the old content or the new one, also after a crash.

A single file is written beside its place, flushed to the disk and renamed; a folder is filled beside its place and
renamed as a whole. What a killed process leaves half-written has a name that begins with `UNFINISHED`, and is removed
by `remove_leftovers` at the next start. All folders are created for their owner alone, since many hold pictures of
patients.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from hip_mri.errors import DiskError, WorkspaceError

UNRECOVERABLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""Errors of a disk that trying again does not change: full, quota used up, read-only, broken."""

MIN_FREE_BYTES: Final = 1 << 20
"""A disk with less room counts as full where a library lost the error's number."""

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
        with _explain_content_errors(file, temporary):
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
        with _explain_content_errors(folder, temporary):
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


def require_room(folder: Path, num_bytes: int) -> None:
    """Check that a disk has room, before a library writes that crashes on a full one, as HDF5 does.

    Raises:
        DiskError: There is less.
    """
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if free < num_bytes + MIN_FREE_BYTES:
        raise DiskError(
            f"{folder} could not be written: {num_bytes / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free. "
            "Make room on the disk, then start again: finished work is kept."
        )


def digest(content: Any) -> str:
    """SHA-256 of a JSON-like value, independent of the order of keys; 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_file(file: Path) -> str:
    """SHA-256 of a file's content; 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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


@contextlib.contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Explain the errors of a block that does nothing but write `path`.

    Raises:
        DiskError: The disk is full, read-only or broken.
        WorkspaceError: The path cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        raise _make_write_error(path, error) from error


@contextlib.contextmanager
def _explain_content_errors(path: Path, temporary: Path) -> Iterator[None]:
    """Explain the errors of a block that writes `temporary`, the later `path`, and may read and fetch as well.

    Only errors that name the temporary path, and those of a full or broken disk that name no path, are explained. Where
    a library drops the number of an error (NumPy's short writes, HDF5, OpenVINO), the disk is checked for room.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        file, number = getattr(error, "filename", None), getattr(error, "errno", None)
        if file is not None:
            is_write_error = Path(str(file)).is_relative_to(temporary)
        else:
            is_write_error = number in UNRECOVERABLE or (number is None and _is_full(temporary))
        if is_write_error:
            raise _make_write_error(path, error) from error
        raise


def _make_write_error(path: Path, error: OSError | RuntimeError) -> WorkspaceError:
    cause = getattr(error, "strerror", None) or error
    if is_unrecoverable(error) or getattr(error, "errno", None) is None:
        return DiskError(
            f"{path} could not be written ({cause}). Make room on the disk, or repair it, then start again: "
            "finished work is kept."
        )
    return WorkspaceError(
        f"{path} could not be written ({cause}). Make this path writable, then start again: finished work is kept."
    )


def is_unrecoverable(error: object) -> bool:
    """Whether an error says that the disk is full, read-only or broken, so that trying again cannot help."""
    return isinstance(error, DiskError) or (isinstance(error, OSError) and error.errno in UNRECOVERABLE)


def _is_full(path: Path) -> bool:
    parent = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(parent).free < MIN_FREE_BYTES


def _exchange(fresh: Path, folder: Path) -> None:
    """Replace a folder, which is then removed, or put back where the exchange fails."""
    former = fresh.with_name(fresh.name + _FORMER)
    if folder.exists():
        _reached("set aside", folder)
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
