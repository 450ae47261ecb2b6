"""The steps of a flow, one after the other, each with its wall time."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar

from prefect import Task

from hip_mri.dataset.shards import Shard
from hip_mri.workspace import Workspace
from tasks.shards import map_over, map_over_shards
from tasks.task_runners.runner import Runner

logger = logging.getLogger("hip_mri.steps")

SECONDS_WORTH_TELLING: Final = 1.0
"""Shorter steps end without a line of their own."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Steps:
    """Runs the steps of a flow.

    Attributes:
        seconds: Wall time of each finished step, by its name.
    """

    def __init__(self, runner: Runner) -> None:
        self.seconds: dict[str, float] = {}
        self._runner = runner

    def run(self, task: Task[Parameters, Result]) -> Callable[Parameters, Result]:
        """Make a task ready to be called as a step of its own."""

        def call(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
            with self._measure(task.name):
                return self._runner.call(task, arguments, keywords)

        return call

    def map(
        self, task: Task[..., Any], parameter: str, items: Sequence[Any], workspace: Workspace, **shared: Any
    ) -> list[Any]:
        """Run a task for every item, several at a time; see `map_over`."""
        with self._measure(task.name):
            return map_over(task, parameter, items, self._runner, workspace=workspace, **shared)

    def map_shards(
        self, task: Task[..., Any], shards: Sequence[Shard], workspace: Workspace, **shared: Any
    ) -> list[Any]:
        """Run a task for every shard, several at a time; see `map_over_shards`."""
        threads = self._runner.threads_per_shard
        with self._measure(task.name):
            return map_over_shards(task, shards, workspace, self._runner, num_threads=threads, **shared)

    @contextmanager
    def _measure(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        logger.info("%s ...", name)
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)
        if self.seconds[name] >= SECONDS_WORTH_TELLING:
            logger.info("%s took %.1f s", name, self.seconds[name])
