"""How much may be fetched and how long it may take, for every way of fetching."""

import time
from collections.abc import Callable

from hip_mri.config import SourceLimits
from hip_mri.errors import LimitError, SourceError

ProgressReport = Callable[[int, int], None]
"""Receives the bytes that have come and the bytes of all, 0 where that is unknown."""


def limit_progress(on_progress: ProgressReport, shown: str, limits: SourceLimits) -> Callable[[int, int | None], None]:
    """Hold a report of progress against the limits on bytes and time, which runs from now.

    Args:
        on_progress: Receives the bytes that have come and the bytes of all, 0 where that is unknown.
        shown: What the user knows the file by.
        limits: What it may take.

    Returns:
        A function of the same form, which raises `LimitError` above a limit.
    """
    end = time.monotonic() + limits.fetch_timeout_seconds

    def report(done: int, total: int | None) -> None:
        refuse_too_large(shown, max(done, total or 0), limits)
        if time.monotonic() > end:
            raise tell_too_slow(shown, limits)
        on_progress(done, total or 0)

    return report


def refuse_too_large(shown: str, num_bytes: int, limits: SourceLimits) -> None:
    """Raise `LimitError` for a file, or a part of one, that is over the limit."""
    if num_bytes > limits.most_bytes:
        raise LimitError(
            f"source: {shown} holds more than {limits.most_bytes:,} bytes. "
            "Check the address, or allow more with --limits.most-bytes."
        )


def tell_too_slow(shown: str, limits: SourceLimits) -> LimitError:
    """The error for a file that does not come in the time that is allowed."""
    return LimitError(
        f"source: {shown} did not come within {limits.fetch_timeout_seconds:g} seconds. "
        "Check the address, fetch it by hand and give the file, or allow more with --limits.fetch-timeout-seconds."
    )


def tell_changed(shown: str) -> SourceError:
    """The error for a file of which a part has come, and that is another one now."""
    return SourceError(
        f"source: the file at {shown} has changed while it was fetched. Start again, and it is fetched anew."
    )
