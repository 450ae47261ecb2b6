"""Shows how far a flow run is: log lines, a bar on the terminal, and progress artifacts in the Prefect UI."""

import logging
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast
from uuid import UUID

from prefect import Flow, Task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.runtime import flow_run as current_flow_run
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger("hip_mri.steps")

UPDATE_INTERVAL_SECONDS: Final = 1.0
"""Minimum between two updates of an artifact: each is a request to the server."""

MIN_LOGGED_SECONDS: Final = 1.0
"""The duration of a shorter step is not logged."""


class StepTimer:
    """Wall time of the steps of a flow run, each of which begins where the one before has ended.

    Prefect's own times of task runs are known to the server only, and up to five seconds after their end.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._name = ""
        self._start = 0.0

    def start(self, name: str) -> None:
        """Begin a step, unless it is the current one: it has several task runs, or is retried."""
        if name != self._name:
            self.stop()
            self._name, self._start = name, time.perf_counter()
            logger.info("%s ...", name)

    def stop(self) -> None:
        """End the current step, if any."""
        if self._name:
            seconds = time.perf_counter() - self._start
            self._seconds[self._name] += seconds
            if seconds >= MIN_LOGGED_SECONDS:
                logger.info("%s took %.1f s", self._name, seconds)
            self._name = ""

    def measure(self) -> dict[str, float]:
        """Return the seconds of each step by the name of its task, of the current step so far.

        The sum is the time since the first step began. A step that ran twice has the sum of both.
        """
        current = {self._name: time.perf_counter() - self._start} if self._name else {}
        names = dict.fromkeys([*self._seconds, *current])
        return {name: round(self._seconds.get(name, 0.0) + current.get(name, 0.0), 3) for name in names}


TIMERS: Final[defaultdict[UUID | None, StepTimer]] = defaultdict(StepTimer)
"""By the id of the flow run; only in the process of the flow."""


def get_timer() -> StepTimer:
    """Return the timer of the current flow run."""
    return TIMERS[current_flow_run.id and UUID(current_flow_run.id)]


def log_start(task: Task[..., Any], task_run: TaskRun, state: State) -> None:  # noqa: ARG001 - Prefect's signature
    """Hook for tasks that the flow calls; the task runner does the same for submitted ones."""
    TIMERS[task_run.flow_run_id].start(task.name)


def log_end(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:  # noqa: ARG001 - Prefect's signature
    """Hook for flows that have ended."""
    TIMERS.pop(flow_run.id, StepTimer()).stop()


@contextmanager
def show_progress(step: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show how much of a step is done; 100 % when the block ends well.

    Args:
        step: Name of the task; with dashes it is the key of the Prefect artifact.
        unit: What is counted.

    Yields:
        A function to call with the number of units done and the number of all units, 0 where it is not known.
    """
    key, description = step.replace("_", "-"), f"{step}: {unit}"
    artifact = cast(UUID, create_progress_artifact(progress=0.0, key=key, description=description))
    last_update, shown = time.monotonic(), 0.0

    def update(done: int, total: int) -> None:
        nonlocal last_update, shown
        bar.update(row, completed=done, total=total or None)
        is_last = done >= total > 0
        if is_last or time.monotonic() - last_update >= UPDATE_INTERVAL_SECONDS:
            last_update, shown = time.monotonic(), 100.0 * done / total if total else 0.0
            update_progress_artifact(artifact, progress=shown)

    with _make_bar() as bar:
        row = bar.add_task(description, total=None)
        yield update
    if shown < 100:  # such as for a source that needs no fetching
        update_progress_artifact(artifact, progress=100.0)


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
