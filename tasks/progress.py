"""Shows how far a flow run is: log lines, a bar on the terminal, and progress artifacts in the Prefect UI."""

import logging
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Final, cast
from uuid import UUID

from prefect import Flow, Task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.futures import PrefectFutureList
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hip_mri.dataset.shards import Shard

logger = logging.getLogger("hip_mri.steps")

UPDATE_INTERVAL_SECONDS: Final = 1.0
"""Minimum between two updates of an artifact: each is a request to the server."""

MIN_LOGGED_SECONDS: Final = 1.0
"""The duration of a shorter step is not logged."""


class StepTimer:
    """Wall time of the steps of a flow run, each of which begins where the one before has ended.

    Prefect's own times of task runs are known to the server only, and up to five seconds after their end.

    Attributes:
        seconds: Of each finished step, by the name of its task.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
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
            self.seconds[self._name] = seconds = round(time.perf_counter() - self._start, 3)
            if seconds >= MIN_LOGGED_SECONDS:
                logger.info("%s took %.1f s", self._name, seconds)
            self._name = ""


TIMERS: Final[defaultdict[UUID | None, StepTimer]] = defaultdict(StepTimer)
"""By the id of the flow run; only in the process of the flow."""


def log_start(task: Task[..., Any], task_run: TaskRun, state: State) -> None:  # noqa: ARG001 - Prefect's signature
    """Hook for tasks that the flow calls; the task runner does the same for submitted ones."""
    TIMERS[task_run.flow_run_id].start(task.name)


def log_end(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:  # noqa: ARG001 - Prefect's signature
    """Hook for flows that have ended."""
    TIMERS.pop(flow_run.id, StepTimer()).stop()


def wait_for_shards(task: Task[..., Any], futures: PrefectFutureList[Any], shards: Sequence[Shard]) -> list[State]:
    """Wait for the task runs of mapped shards; see `wait_for_all`."""
    return wait_for_all(task, futures, "images", [shard.num_images for shard in shards])


def wait_for_all(task: Task[..., Any], futures: PrefectFutureList[Any], unit: str, sizes: Sequence[int]) -> list[State]:
    """Wait for the task runs of a mapped task, and show how many are done.

    The caller keeps no reference to the futures: as long as there is one, Dask runs a finished task again when the
    worker that holds its result dies, even after later steps have changed the workspace.

    Args:
        task: What was mapped.
        futures: Its task runs.
        unit: What progress is counted in.
        sizes: Of each task run, in that unit.

    Returns:
        The final states, for the parameter `wait_for` of tasks that use what these task runs have written.

    Raises:
        Exception: What the first failed task run raised, after all have ended.
    """
    if futures:
        with show_progress(task.name.replace("_", "-"), f"{task.name}: {unit}") as update:
            for future, done in zip(futures, accumulate(sizes), strict=True):
                future.wait()
                update(done, sum(sizes))
    for future in futures:
        future.result()
    return [future.state for future in futures]


@contextmanager
def show_progress(key: str, description: str) -> Iterator[Callable[[int, int], None]]:
    """Show how much of a step is done.

    Args:
        key: Key of the Prefect artifact, in lower case with dashes; the same in every run.
        description: What is counted.

    Yields:
        A function to call with the number of units done and the number of all units, 0 where it is not known.
    """
    artifact = cast(UUID, create_progress_artifact(progress=0.0, key=key, description=description))
    last_update = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal last_update
        bar.update(row, completed=done, total=total or None)
        is_last = done >= total > 0
        if is_last or time.monotonic() - last_update >= UPDATE_INTERVAL_SECONDS:
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
