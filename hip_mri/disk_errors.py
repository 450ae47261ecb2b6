"""Explains errors of writing, and checks that a disk has room."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hip_mri.errors import DiskError, WorkspaceError

UNRECOVERABLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""Errors of a disk that trying again does not change: full, quota used up, read-only, broken."""

MIN_FREE_BYTES: Final = 1 << 20
"""A disk with less room counts as full where a library lost the error's number."""


def require_room(folder: Path, num_bytes: int) -> None:
    """Check that a disk has room, before a library writes that crashes on a full one, as HDF5 does.

    Raises:
        DiskError: There is less.
    """
    free = _count_free_bytes(folder)
    if free < num_bytes + MIN_FREE_BYTES:
        raise DiskError(
            f"{folder} could not be written: {num_bytes / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free. "
            "Make room on the disk, then start again: finished work is kept."
        )


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
def explain_content_errors(path: Path, temporary: Path) -> Iterator[None]:
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
            is_write_error = number in UNRECOVERABLE or (
                number is None and _count_free_bytes(temporary) < MIN_FREE_BYTES
            )
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


def _count_free_bytes(path: Path) -> int:
    """Free bytes of the disk that a path is on, or will be on."""
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free
