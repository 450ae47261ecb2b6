"""Keeps partial downloads for the next attempt or run, separate from complete files."""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from hip_mri.config import SourceLimits
from hip_mri.errors import LimitError, SourceError
from hip_mri.sources.remote.fetch_limits import changed_error, limit_progress
from hip_mri.storage import digest, explain_write_errors

_RANGE_BYTES: Final = 32 * 2**20
"""What is asked of a cloud's storage at a time: what a lost connection costs at most."""

_NAME: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}\.part")

_KEPT_SECONDS: Final = 7 * 24 * 3600
"""How long a part waits for the next run. A clock that is off costs no more than fetching it again."""


def remove_old_parts(sources_folder: Path) -> None:
    """Remove the parts of files that were not continued for a week: of addresses that are no longer used.

    Raises:
        DiskError: The disk is read-only or broken.
        WorkspaceError: A part cannot be removed for another reason.
    """
    for part in sources_folder.glob("*.part"):
        with explain_write_errors(part):
            if _NAME.fullmatch(part.name) and time.time() - part.stat().st_mtime > _KEPT_SECONDS:
                part.unlink()


@contextlib.contextmanager
def continue_part(
    origin: str, shown: str, version: Mapping[str, str], sources_folder: Path, temporary: Path
) -> Iterator[Path]:
    """Keep the part of a file that has come when the network fails or a limit ends it, for the next try and run.

    Args:
        origin: Which file is meant, as it stays from one try to the next.
        shown: As much of its address as messages say.
        version: Which file it is now.
        sources_folder: Where parts are kept, under names that runs do not sweep away.
        temporary: What the part becomes when it is whole.

    Yields:
        The part, to be appended to.

    Raises:
        SourceError: There is a part of another version; it is removed.
    """
    beginning = digest(origin)[:16]
    part = sources_folder / f"{beginning}-{digest(version)[:16]}.part"
    others = [other for other in sources_folder.glob(f"{beginning}-*.part") if other != part]
    for other in others:
        other.unlink()
    if others:
        raise changed_error(shown)
    try:
        yield part
    except SourceError as error:
        can_go_on = isinstance(error, LimitError) and part.exists() and part.stat().st_size > 0  # more can be allowed
        if not can_go_on:
            part.unlink(missing_ok=True)
        raise
    os.replace(part, temporary)


def copy_ranges(
    read: Callable[[int, int], bytes],
    size: int,
    part: Path,
    shown: str,
    on_progress: Callable[[int, int], None],
    limits: SourceLimits,
) -> None:
    """Append what is missing of a file.

    Args:
        read: Gives the bytes between two positions.
        size: Bytes of the whole file.
        part: What has come of it.
        shown: What the user knows it by.
        on_progress: Called with the bytes that have come and the bytes of all.
        limits: Bytes and seconds that it may take.

    Raises:
        SourceError: It is over a limit, or ends early.
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
