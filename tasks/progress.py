"""Progress that a person can follow: a bar on the terminal and a progress artifact in the Prefect UI."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_UPDATES: Final = 1.0
"""An update of the artifact is a request to the server; more of them would slow the work that they report."""


@contextmanager
def show_progress(key: str, description: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far a step has come.

    Args:
        key: Key of the Prefect artifact, in lower case with dashes; the same in every run.
        description: What is counted, for the reader.

    Yields:
        A function to call with what is done and what there is in all; 0 in all where that is not known.
    """
    artifact = cast(UUID, create_progress_artifact(progress=0.0, key=key, description=description))
    last_update = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal last_update
        bar.update(row, completed=done, total=total or None)
        ends = done >= total > 0
        if ends or time.monotonic() - last_update >= SECONDS_BETWEEN_UPDATES:
            last_update = time.monotonic()
            update_progress_artifact(artifact, progress=100.0 * done / total if total else 0.0)

    with _make_bar() as bar:
        row = bar.add_task(description, total=None)
        yield update


def _make_bar() -> Progress:
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
