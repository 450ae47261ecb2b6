"""Downloads files of Google Drive that are shared by link, and detects new uploads.

Drive reports no ETag and a time stamp only sometimes. A file is compared by its size and its first bytes, which in a
zip file contain time and checksum of the first image: an upload that differs in neither is not detected.
"""

import io
import logging
import re
from pathlib import Path
from typing import BinaryIO, Final

from hip_mri.config import SourceLimits
from hip_mri.errors import FetchError, HipMriError
from hip_mri.proxies import find_proxy
from hip_mri.sources.remote.fetch_limits import ProgressReport, limit_progress

logger = logging.getLogger(__name__)

SHOWN: Final = "the Google Drive file"

_ID: Final = re.compile(r"1[A-Za-z0-9_-]{32}|0B[A-Za-z0-9_-]{26}")
"""The two forms of an id of an uploaded file. Anything wider would take the name of a missing folder for one, which can
be a patient's, and send it to Google."""

_LINK: Final = re.compile(r"https://(?:drive|docs)\.google\.com/.*?(?:/d/|[?&]id=)([A-Za-z0-9_-]{25,60})")

_HEAD_BYTES: Final = 2**16
"""Bytes that are compared; downloads come in chunks of half a megabyte, so a comparison costs one chunk."""


class _HeadComplete(Exception):  # noqa: N818 - ends a download, and is no error
    """Enough of a file was downloaded to compare it."""


def find_drive_id(source: str) -> str | None:
    """The id of the file that a share link leads to, or an id as it is; `None` for anything else."""
    link = _LINK.match(source)
    if link:
        return link.group(1)
    return source if _ID.fullmatch(source) and not Path(source).exists() else None


def download_from_drive(drive_id: str, stream: BinaryIO, limits: SourceLimits, on_progress: ProgressReport) -> None:
    """Write a file of Drive's into a stream.

    Raises:
        LimitError: It is too large or too slow.
        Exception: Whatever `gdown` and the network raise.
    """
    import gdown  # noqa: PLC0415 - slow to import, rarely used

    report = limit_progress(on_progress, SHOWN, limits)
    # Given a path in the place of a stream, it would leave parts of files behind.
    gdown.download(id=drive_id, output=stream, quiet=True, timeout=limits.stall_timeout_seconds, progress=report)


def is_unchanged(drive_id: str, file: Path, limits: SourceLimits) -> bool:
    """Whether Drive would still give a file that was fetched, by size and first bytes.

    Where Drive does not answer, which its quota brings about for a day at a time, the file counts as unchanged, with a
    warning.

    Args:
        drive_id: Which file.
        file: What was fetched of it.
        limits: Bytes and seconds that it may take.

    Raises:
        LimitError: The file on Drive has become too large, or does not come in time.
    """
    try:
        head, size = _read_head(drive_id, limits)
    except HipMriError:
        raise
    except Exception as error:  # `gdown` has errors of several kinds, without a common base
        logger.warning(
            "Google Drive does not tell whether the file has changed (%s): the one that was fetched is used",
            type(error).__name__,
        )
        return True
    try:
        with file.open("rb") as stream:
            return size in (0, file.stat().st_size) and stream.read(len(head)) == head
    except OSError:
        return False  # a copy that cannot be read is fetched anew


def _read_head(drive_id: str, limits: SourceLimits) -> tuple[bytes, int]:
    """First bytes of a file, and its size, 0 where Drive does not tell."""
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
    """What an error on the way means to the user."""
    if "Proxy" in type(error).__name__ and (proxy := find_proxy("https://drive.google.com")):
        return FetchError(
            f"source: {SHOWN} could not be fetched through the proxy that {proxy.variable} names "
            f"({type(error).__name__}). See that this proxy runs and allows drive.google.com, or fetch the file by "
            "hand and give it."
        )
    return FetchError(
        f"source: {SHOWN} could not be fetched ({type(error).__name__}). Share it with 'anyone "
        "with the link', wait where Google's quota is used up, or fetch it by hand and give the file."
    )
