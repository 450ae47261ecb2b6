"""Limits on the size and duration of downloads, and their errors."""

import time
from collections.abc import Callable

from hip_mri.config import SourceLimits
from hip_mri.errors import LimitError, SourceError

ProgressReport = Callable[[int, int], None]
"""Called with the bytes downloaded and the total, 0 if unknown."""


def limit_progress(on_progress: ProgressReport, shown: str, limits: SourceLimits) -> Callable[[int, int | None], None]:
    """Wrap a progress callback so that it enforces the limits on bytes and time, starting now.

    Args:
        on_progress: Called with the bytes downloaded and the total, 0 if unknown.
        shown: Name for messages.
        limits: What it may take.

    Returns:
        A callback that raises `LimitError` above a limit.
    """
    end = time.monotonic() + limits.fetch_timeout_seconds

    def report(done: int, total: int | None) -> None:
        check_size(shown, max(done, total or 0), limits)
        if time.monotonic() > end:
            raise too_slow_error(shown, limits)
        on_progress(done, total or 0)

    return report


def check_size(shown: str, num_bytes: int, limits: SourceLimits) -> None:
    """Raise `LimitError` for a file, or a part of one, that is over the limit."""
    if num_bytes > limits.max_bytes:
        raise LimitError(
            f"source: {shown} holds more than {limits.max_bytes:,} bytes. "
            "Check the address, or allow more with --limits.max-bytes."
        )


def too_slow_error(shown: str, limits: SourceLimits) -> LimitError:
    """Return the error for a download that exceeds the time limit."""
    return LimitError(
        f"source: {shown} did not come within {limits.fetch_timeout_seconds:g} seconds. "
        "Check the address, fetch it by hand and give the file, or allow more with --limits.fetch-timeout-seconds."
    )


def changed_error(shown: str) -> SourceError:
    """Return the error for a file that changed during its download."""
    return SourceError(
        f"source: the file at {shown} has changed while it was fetched. Start again, and it is fetched anew."
    )
