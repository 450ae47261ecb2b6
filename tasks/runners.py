"""Where task runs are computed: in threads of this process, or on the workers of a Dask cluster."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final, Protocol

from prefect import Task
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ThreadPoolTaskRunner

from hip_mri.config import RunnerSettings
from hip_mri.errors import SettingsError
from hip_mri.workspace import Workspace

GPU_TAG: Final = "gpu"
"""Marks tasks that compute a network. With Dask they run on a worker that has a GPU, where there is one."""

EXTRA: Final = ("dask", "distributed", "prefect_dask")
"""Modules that come with the extra `dask`."""


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


@contextmanager
def open_runner(settings: RunnerSettings, workspace: Workspace) -> Iterator[Runner]:
    """Make ready what computes the task runs of a flow, and close it afterwards.

    Args:
        settings: Threads or a cluster, and how much at the same time.
        workspace: What the steps write to; every worker of a cluster must see it.

    Raises:
        SettingsError: Dask is asked for and not installed.
        ClusterError: The cluster is not there, or its workers cannot do the work.
        WorkspaceError: Some workers do not see the workspace.
    """
    if settings.kind == "dask":
        with _load_cluster().open_cluster(settings, workspace) as runner:
            yield runner
    else:
        with ThreadPoolTaskRunner(max_workers=settings.num_workers) as pool:
            yield LocalRunner(pool, max(1, settings.count_threads() // settings.num_workers))


def _load_cluster() -> ModuleType:
    try:
        return importlib.import_module("tasks.cluster")
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in EXTRA:
            raise
        raise SettingsError(
            f"runner.kind: dask needs packages that are not installed ({error}). Install the project with its extra, "
            "pip install -e '.[dask]', here and on every worker, or leave runner.kind at local."
        ) from error
