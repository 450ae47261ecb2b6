"""Where task runs are computed: in threads of this process, or on the workers of a Dask cluster."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

from prefect import Task
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ThreadPoolTaskRunner

GPU_TAG: Final = "gpu"
"""Marks tasks that compute a network. With Dask they run on a worker that has a GPU, where there is one."""


class Runner(Protocol):
    """Computes task runs.

    Attributes:
        threads_per_shard: Threads that the task run of one shard may use.
    """

    threads_per_shard: int

    def call(self, task: Task[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Run a step of its own, wait for it, and return its result."""
        ...

    def submit(self, task: Task[..., Any], parameters: dict[str, Any]) -> PrefectFuture[Any]:
        """Start a task run beside others."""
        ...

    def wait(self, futures: Sequence[PrefectFuture[Any]]) -> Iterator[PrefectFuture[Any]]:
        """Give the futures back one by one, as they end."""
        ...

    def read_result(self, future: PrefectFuture[Any]) -> Any:
        """The result of a future that has ended, or what its task run raised."""
        ...


class LocalRunner:
    """Threads of this process; steps of their own run in the calling thread."""

    def __init__(self, pool: ThreadPoolTaskRunner[Any], threads_per_shard: int) -> None:
        self.threads_per_shard = threads_per_shard
        self._pool = pool

    def call(self, task: Task[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """See `Runner.call`."""
        return task(*arguments, **keywords)

    def submit(self, task: Task[..., Any], parameters: dict[str, Any]) -> PrefectFuture[Any]:
        """See `Runner.submit`."""
        return self._pool.submit(task, parameters)

    def wait(self, futures: Sequence[PrefectFuture[Any]]) -> Iterator[PrefectFuture[Any]]:
        """See `Runner.wait`."""
        return as_completed(list(futures))

    def read_result(self, future: PrefectFuture[Any]) -> Any:
        """See `Runner.read_result`."""
        return future.result()
