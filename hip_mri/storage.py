"""Writing so that nothing is lost: readers see the old content or the new one, whatever ends the process.

A single file is written beside its place, brought to the disk and renamed; a folder is filled beside its place and
renamed as a whole. What a killed process leaves half-written has a name that begins with `UNFINISHED`, and is swept
away by `remove_leftovers` at the next start; nothing else ever is.
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

HOPELESS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""Refusals of a disk that trying again does not change: full, quota used up, read-only, broken."""

FULL_BELOW_BYTES: Final = 1 << 20
"""A disk with less room counts as full where a library lost the error's number."""

UNFINISHED: Final = ".hip-mri-"
"""What the names of temporary files and folders begin with."""

_NUMBERED_FOLDER: Final = re.compile(rf"(\d+)|{re.escape(UNFINISHED)}(\d+)-.+")
"""A finished run or its like, or one that `publish_folder` is filling."""

_FORMER: Final = ".old"
"""Ending of a folder that makes way for another."""


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
        WorkspaceError: The file cannot be written for another reason.
    """
    temporary = file.with_name(f"{UNFINISHED}{os.getpid()}-{os.urandom(4).hex()}{''.join(file.suffixes[-2:])}")
    try:
        with explain_write_errors(file):
            _make_folder(file.parent)
            _reached("write", file)
            if is_private:
                temporary.touch(mode=0o600)
            yield temporary
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
        folder: The folder to publish. What stands there already is replaced.

    Yields:
        An empty folder beside it, which is renamed when the block ends well and removed when it raises.

    Raises:
        DiskError: The disk is full, read-only or broken; what stood there already stays.
        WorkspaceError: The folder cannot be written for another reason.
    """
    with explain_write_errors(folder):
        _make_folder(folder.parent)
        temporary = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{folder.name}-", dir=folder.parent))
    try:
        with explain_write_errors(folder):
            _reached("fill", folder)
            yield temporary
            _reached("flush", folder)
            temporary.chmod(0o755)
            for path in (*temporary.rglob("*"), temporary):
                _flush_to_disk(path)
            _exchange(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_small_file(file: Path, content: bytes) -> None:
    """Write one of very many small files: whole or not at all, but without waiting for the disk.

    Call `flush_file_system` after the last one, before anything is written that counts on them. The temporary file
    lies one folder above, so that a sweep need not list the very many. Its name is random: process and thread ids
    repeat between machines and containers, where two attempts at one file could meet.

    Raises:
        DiskError: The disk is full, read-only or broken.
        WorkspaceError: The file cannot be written for another reason.
    """
    temporary = file.parent.with_name(f"{UNFINISHED}{os.urandom(8).hex()}-{file.name}")
    try:
        with explain_write_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            _reached("write", file)
            temporary.write_bytes(content)
            _reached("rename", file)
            os.replace(temporary, file)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def flush_file_system(folder: Path) -> None:
    """Bring everything to the disk that was written in the file system of a folder; 10 ms for 256 small files.

    Raises:
        DiskError: The disk lost some of it.
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
    """Let a file, which is never changed afterwards, stand in a second place; copied where the disk knows no links."""
    _reached("link", place)
    try:
        os.link(original, place)
    except OSError:
        shutil.copyfile(original, place)


def require_room(folder: Path, num_bytes: int) -> None:
    """See that a disk has room, before a library writes that does not survive a full one, as HDF5 does not.

    Raises:
        DiskError: There is less.
    """
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if free < num_bytes + FULL_BELOW_BYTES:
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


def find_next_number(parent: Path) -> int:
    """One more than the highest numbered folder, finished or not; clocks play no part."""
    folders = [folder for folder in parent.glob("*") if folder.is_dir()]
    matches = [match for folder in folders if (match := _NUMBERED_FOLDER.fullmatch(folder.name))]
    return max((int(match[1] or match[2]) for match in matches), default=0) + 1


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Remove what killed processes left half-written, and nothing that others put there.

    A folder that had made way for a new one, which then never came, is put back.

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
    """Tell the user what to do where the disk refuses to hold a path.

    Libraries that lose the number of an error (NumPy's short writes, HDF5, OpenVINO) are judged by the room left.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = getattr(error, "strerror", None) or error
        if is_unrecoverable(error) or (getattr(error, "errno", None) is None and _is_full(path)):
            raise DiskError(
                f"{path} could not be written ({cause}). Make room on the disk, or mend it, then start again: "
                "finished work is kept."
            ) from error
        if isinstance(error, OSError):
            raise WorkspaceError(
                f"{path} could not be written ({cause}). Make room on the disk or free the folder, then start again: "
                "finished work is kept."
            ) from error
        raise


def is_unrecoverable(error: object) -> bool:
    """Whether an error says that the disk is full, read-only or broken, so that trying again cannot help."""
    return isinstance(error, DiskError) or (isinstance(error, OSError) and error.errno in HOPELESS)


def _is_full(path: Path) -> bool:
    parent = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(parent).free < FULL_BELOW_BYTES


def _exchange(fresh: Path, folder: Path) -> None:
    """Put a folder in the place of another, which is then removed, or put back where the exchange fails."""
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


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents so that they are still there after a power cut."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
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
    """Mark a moment at which the process may be killed; tests put something in its place that does so."""


_C_LIBRARY: Final = ctypes.CDLL(None, use_errno=True)
