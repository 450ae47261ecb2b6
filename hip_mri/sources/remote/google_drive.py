"""Downloads files of Google Drive that are shared by link, and detects new uploads.

Drive reports no ETag and a time stamp only sometimes. Files are compared by size and first bytes, which in a zip file
contain time and checksum of the first image: an upload that differs in neither is not detected.
"""

import io
import logging
import re
from pathlib import Path
from typing import BinaryIO, Final

from hip_mri.config import SourceLimits
from hip_mri.errors import FetchError, HipMriError
from hip_mri.sources.remote.downloads import ProgressReport, explain_proxy_failure, limit_progress

logger = logging.getLogger(__name__)

SHOWN: Final = "the Google Drive file"

_ID: Final = re.compile(r"1[A-Za-z0-9_-]{32}|0B[A-Za-z0-9_-]{26}")
"""The two forms of an id of an uploaded file. A wider pattern could match the name of a missing folder, which can be
that of a patient, and send it to Google."""

_LINK: Final = re.compile(r"https://(?:drive|docs)\.google\.com/.*?(?:/d/|[?&]id=)([A-Za-z0-9_-]{25,60})")

_HEAD_BYTES: Final = 2**16
"""Bytes that are compared; `gdown` downloads chunks of half a megabyte, so a comparison costs one chunk."""


class _HeadComplete(Exception):  # noqa: N818 - ends a download without an error
    """Enough bytes of a file were downloaded for the comparison."""


def find_drive_id(source: str) -> str | None:
    """Return the id of the file of a share link, or an id as it is; `None` for anything else."""
    link = _LINK.match(source)
    if link:
        return link.group(1)
    return source if _ID.fullmatch(source) and not Path(source).exists() else None


def download_from_drive(drive_id: str, stream: BinaryIO, limits: SourceLimits, on_progress: ProgressReport) -> None:
    """Download a file of Google Drive to a stream.

    Raises:
        LimitError: The file is too large, or the download too slow.
        Exception: Any error of `gdown` or the network.
    """
    import gdown  # noqa: PLC0415 - slow to import, rarely used

    report = limit_progress(on_progress, SHOWN, limits)
    # With a path instead of a stream, partial files would remain.
    gdown.download(id=drive_id, output=stream, quiet=True, timeout=limits.stall_timeout_seconds, progress=report)


def is_unchanged(drive_id: str, file: Path, limits: SourceLimits) -> bool:
    """Whether a downloaded file is still that on Google Drive, by size and first bytes.

    If Drive does not respond, for example because its quota is exhausted, the file counts as unchanged, with a warning.

    Args:
        drive_id: Id of the file on Drive.
        file: The downloaded file.
        limits: Maximum number of bytes and seconds.

    Raises:
        LimitError: The file on Drive has become too large, or the download takes too long.
    """
    try:
        head, size = _read_head(drive_id, limits)
    except HipMriError:
        raise
    except Exception as error:  # errors of `gdown` have no common base class
        logger.warning(
            "Google Drive does not report whether the file has changed (%s); the previous download is used",
            type(error).__name__,
        )
        return True
    try:
        with file.open("rb") as stream:
            return size in (0, file.stat().st_size) and stream.read(len(head)) == head
    except OSError:
        return False  # a copy that cannot be read is downloaded again


def _read_head(drive_id: str, limits: SourceLimits) -> tuple[bytes, int]:
    """First bytes of a file, and its size, 0 if Drive does not report it."""
    stream, sizes = io.BytesIO(), [0]

    def stop_early(done: int, total: int) -> None:
        sizes.append(total)
        if done >= _HEAD_BYTES:
            raise _HeadComplete

    try:
        download_from_drive(drive_id, stream, limits, stop_early)
    except _HeadComplete:
        return stream.getvalue(), sizes[-1]
    return stream.getvalue(), len(stream.getvalue())


def explain_drive_failure(error: Exception) -> FetchError:
    """Convert an error of a download to one with advice."""
    return explain_proxy_failure(error, SHOWN, "https://drive.google.com") or FetchError(
        f"source: {SHOWN} could not be fetched ({type(error).__name__}). Share it with 'anyone "
        "with the link', wait if Google's quota is exhausted, or download it manually and give its path."
    )
