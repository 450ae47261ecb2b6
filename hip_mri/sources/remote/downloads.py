"""Limits downloads in size and duration, and keeps partial files for the next attempt or run."""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from hip_mri.config import SourceLimits
from hip_mri.disk_errors import explain_write_errors
from hip_mri.errors import FetchError, LimitError, SourceError
from hip_mri.hashes import digest
from hip_mri.proxies import find_proxy

ProgressReport = Callable[[int, int], None]
"""Called with the bytes downloaded and the total, 0 if unknown."""

_RANGE_BYTES: Final = 32 * 2**20
"""Bytes per request to cloud storage, and the maximum that is lost with a connection."""

_PART_NAME: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}\.part")

_KEPT_SECONDS: Final = 7 * 24 * 3600
"""How long a partial file is kept. With a wrong clock it is downloaded again."""


def limit_progress(on_progress: ProgressReport, shown: str, limits: SourceLimits) -> Callable[[int, int | None], None]:
    """Wrap a progress callback so that it raises `LimitError` above the limits on bytes and time, starting now.

    Args:
        on_progress: The callback.
        shown: Name for messages.
        limits: Maximum number of bytes and seconds.
    """
    end = time.monotonic() + limits.fetch_timeout_seconds

    def report(done: int, total: int | None) -> None:  # `gdown` reports `None` for an unknown total
        if max(done, total or 0) > limits.max_bytes:
            raise LimitError(
                f"source: {shown} has more than {limits.max_bytes:,} bytes. "
                "Check the address, or allow more with --limits.max-bytes."
            )
        if time.monotonic() > end:
            raise too_slow_error(shown, limits)
        on_progress(done, total or 0)

    return report


def too_slow_error(shown: str, limits: SourceLimits) -> LimitError:
    """Return the error for a download that exceeds the time limit."""
    return LimitError(
        f"source: the download of {shown} took more than {limits.fetch_timeout_seconds:g} seconds. "
        "Check the address, download it manually and give its path, or allow more with --limits.fetch-timeout-seconds."
    )


def changed_error(shown: str) -> SourceError:
    """Return the error for a file that changed during its download."""
    return SourceError(
        f"source: the file at {shown} changed during the download. Run again to download the new version."
    )


def explain_proxy_failure(error: Exception, shown: str, address: str) -> FetchError | None:
    """Convert an error of a proxy to one with advice; `None` for other errors.

    Args:
        error: An error of aiohttp, botocore or requests.
        shown: Name of the source for messages.
        address: Address of its host.
    """
    if "Proxy" not in type(error).__name__ or not (proxy := find_proxy(address)):
        return None
    status = getattr(error, "status", None)
    return FetchError(
        f"source: {shown} could not be fetched through the proxy of {proxy.variable} ({type(error).__name__}"
        f"{f', status {status}' if status else ''}). Check that this proxy runs and allows the address, or download "
        "the file manually and give its path."
    )


def remove_old_parts(sources_folder: Path) -> None:
    """Remove partial files that were not continued for a week.

    Raises:
        DiskError: The disk is read-only or broken.
        WorkspaceError: A partial file cannot be removed for another reason.
    """
    for part in sources_folder.glob("*.part"):
        with explain_write_errors(part):
            if _PART_NAME.fullmatch(part.name) and time.time() - part.stat().st_mtime > _KEPT_SECONDS:
                part.unlink()


@contextlib.contextmanager
def continue_part(
    origin: str, shown: str, version: Mapping[str, str], sources_folder: Path, temporary: Path
) -> Iterator[Path]:
    """Keep the partial file when the network fails or a limit is exceeded, for the next attempt or run.

    Args:
        origin: Address without what changes from one attempt to the next.
        shown: Name for messages.
        version: Version of the file.
        sources_folder: Where partial files are kept, under names that are not cleaned up at the start of a run.
        temporary: New name of the complete file.

    Yields:
        The partial file, to be appended to.

    Raises:
        SourceError: There is a partial file of another version; it is removed.
    """
    prefix = digest(origin)[:16]
    part = sources_folder / f"{prefix}-{digest(version)[:16]}.part"
    others = [other for other in sources_folder.glob(f"{prefix}-*.part") if other != part]
    for other in others:
        other.unlink()
    if others:
        raise changed_error(shown)
    try:
        yield part
    except SourceError as error:
        # The user can raise a limit and continue; other errors of this kind concern the file.
        if not (isinstance(error, LimitError) and part.exists() and part.stat().st_size > 0):
            part.unlink(missing_ok=True)
        raise
    os.replace(part, temporary)


def copy_ranges(
    read: Callable[[int, int], bytes],
    size: int,
    part: Path,
    shown: str,
    on_progress: ProgressReport,
    limits: SourceLimits,
) -> None:
    """Append the missing bytes of a file.

    Args:
        read: Returns the bytes between two positions.
        size: Bytes of the whole file.
        part: The partial file.
        shown: Name for messages.
        on_progress: Called with the bytes downloaded and the total.
        limits: Maximum number of bytes and seconds.

    Raises:
        SourceError: The file exceeds a limit, or ends early.
    """
    report = limit_progress(on_progress, shown, limits)
    with part.open("ab") as stream:
        report(stream.tell(), size)
        while (start := stream.tell()) < size:
            content = read(start, min(start + _RANGE_BYTES, size))
            if not content:
                raise changed_error(shown)
            stream.write(content)
            report(stream.tell(), size)
