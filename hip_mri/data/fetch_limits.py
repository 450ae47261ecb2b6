"""How much may be fetched and how long it may take, for every way of fetching."""

import io
import time
from typing import Any, BinaryIO

from hip_mri.config import SourceLimits
from hip_mri.errors import SourceError


def refuse_too_large(shown: str, num_bytes: int, limits: SourceLimits) -> None:
    """Raise `SourceError` for a file, or a part of one, that is over the limit."""
    if num_bytes > limits.most_bytes:
        raise SourceError(
            f"source: {shown} holds more than {limits.most_bytes:,} bytes. "
            "Check the address, or allow more with --limits.most-bytes."
        )


def tell_too_slow(shown: str, limits: SourceLimits) -> SourceError:
    """The error for a file that does not come in the time that is allowed."""
    return SourceError(
        f"source: {shown} did not come within {limits.fetch_timeout_seconds:g} seconds. "
        "Check the address, fetch it by hand and give the file, or allow more with --limits.fetch-timeout-seconds."
    )


def tell_changed(shown: str) -> SourceError:
    """The error for a file of which a part has come, and that is another one now."""
    return SourceError(
        f"source: the file at {shown} has changed while it was fetched. Start again, and it is fetched anew."
    )


class LimitedStream(io.RawIOBase):
    """Takes what is written to it up to the limits on bytes and time, then raises `SourceError`.

    Args:
        stream: Where the bytes go.
        shown: What the user knows the file by.
        limits: What it may take.
    """

    def __init__(self, stream: BinaryIO, shown: str, limits: SourceLimits) -> None:
        self._stream = stream
        self._shown = shown
        self._limits = limits
        self._end = time.monotonic() + limits.fetch_timeout_seconds

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        if time.monotonic() > self._end:
            raise tell_too_slow(self._shown, self._limits)
        written = self._stream.write(content)
        refuse_too_large(self._shown, self._stream.tell(), self._limits)
        return written
