"""Lock files between processes, with the holder in the error message."""

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from hip_mri.disk_errors import explain_write_errors, is_unrecoverable
from hip_mri.errors import WorkspaceError


@contextlib.contextmanager
def hold_lock(file: Path, timeout_seconds: float, refusal: str, advice: str) -> Iterator[None]:
    """Hold a lock file, which is released with the block or the process and names its holder.

    Args:
        file: The lock file; it is created if missing, and kept.
        timeout_seconds: How long to wait for another process.
        refusal: Beginning of the error message after this time; the holder follows.
        advice: Next step for the user, at the end of the message.

    Raises:
        WorkspaceError: Another process holds the lock, or the file system has no locks.
    """
    with contextlib.ExitStack() as stack:
        with explain_write_errors(file):
            # Unbuffered: on a full disk, a buffer would be written, and fail, again when the file is closed.
            lock = stack.enter_context(file.open("ab+", buffering=0))
            if not _wait_for_lock(lock, timeout_seconds):
                raise WorkspaceError(f"{refusal} {_describe_holder(lock)}. {advice}, then start again.")
            lock.truncate(0)
            lock.write(json.dumps(_describe_this_process()).encode())
        yield


def _describe_this_process() -> dict[str, Any]:
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": platform.node(), "boot": _read_boot_id(), "started_at": started_at}


def _describe_holder(lock: IO[bytes]) -> str:
    """The process that wrote the lock file, for an error message."""
    lock.seek(0)
    try:
        holder = json.loads(lock.read())
        text = f"process {holder['process']} on {holder['host']} since {holder['started_at']}"
        is_here = (holder["host"], holder["boot"]) == (platform.node(), _read_boot_id())
    except (ValueError, KeyError, TypeError):
        return "another process"
    return text if is_here else f"{text}, which is another machine than this one ({platform.node()})"


def _read_boot_id() -> str:
    """Id of this start of this machine, which distinguishes machines of one name; empty if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _wait_for_lock(lock: IO[bytes], timeout_seconds: float) -> bool:
    """Lock a file for this process; returns whether that succeeded in time.

    Raises:
        WorkspaceError: The file system has no locks.
    """
    end = time.monotonic() + timeout_seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        except OSError as error:
            if is_unrecoverable(error):
                raise
            raise WorkspaceError(
                f"{lock.name} cannot be locked ({error.strerror}): its file system offers no locks, without which two "
                "runs could write to one folder. Take a folder on a local disk, or mount the file system with locks "
                "(NFS: without nolock, with the server's lock service; SMB: without nobrl)."
            ) from error
        else:
            return True
