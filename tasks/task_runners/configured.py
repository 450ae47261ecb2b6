"""Task runner that the settings of a flow run choose: threads of this process, or the workers of a Dask cluster."""

import importlib
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, Final

from prefect import Task
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from hip_mri.config import RunnerSettings
from hip_mri.errors import SettingsError
from hip_mri.workspace import Workspace
from tasks.progress import get_timer

EXTRA: Final = ("dask", "distributed", "prefect_dask")
"""Modules that come with the extra `dask`."""


class ConfiguredTaskRunner(TaskRunner[PrefectFuture[Any]]):
    """Hands submitted and mapped task runs to the task runner that the settings name.

    Prefect makes a task runner before it knows the parameters of a flow run. Therefore the flow starts it by
    `start_task_runner`, before it submits a task.

    Attributes:
        threads_per_shard: Threads that the task run of one shard may use.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exit_stack = ExitStack()
        self._chosen: TaskRunner[Any] | None = None
        self.threads_per_shard = 1

    def duplicate(self) -> "ConfiguredTaskRunner":
        """A task runner for another flow run."""
        return type(self)()

    def start(self, settings: RunnerSettings, workspace: Workspace) -> None:
        """See `start_task_runner`."""
        self._chosen, self.threads_per_shard = choose_task_runner(settings, workspace, self._exit_stack)

    def submit(  # pyright: ignore[reportIncompatibleMethodOverride] - Prefect overloads it for asynchronous tasks
        self,
        task: Task[..., Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[Any]] | None = None,
    ) -> PrefectFuture[Any]:
        """See `TaskRunner.submit`."""
        assert self._chosen is not None, "the flow calls start_task_runner first"
        get_timer().start(task.name)
        return self._chosen.submit(task, parameters, wait_for, dependencies)

    def __exit__(self, *error: Any) -> None:
        self._exit_stack.__exit__(*error)
        super().__exit__(*error)


def start_task_runner(settings: RunnerSettings, workspace: Workspace) -> None:
    """Start the threads of the current flow run, or connect to its cluster.

    Raises:
        SettingsError: Dask is asked for and not installed.
        ClusterError: The cluster is not there, or its workers cannot do the work.
        WorkspaceError: Some workers do not see the workspace.
    """
    get_task_runner().start(settings, workspace)


def get_task_runner() -> ConfiguredTaskRunner:
    """Return the task runner of the current flow run."""
    context = FlowRunContext.get()
    assert context is not None
    assert isinstance(context.task_runner, ConfiguredTaskRunner)
    return context.task_runner


def choose_task_runner(
    settings: RunnerSettings, workspace: Workspace, exit_stack: ExitStack
) -> tuple[TaskRunner[Any], int]:
    """The started task runner, which ends with the exit stack, and the threads for the task run of one shard."""
    if settings.kind == "dask":
        try:
            dask_cluster = importlib.import_module("tasks.task_runners.dask_cluster")
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] not in EXTRA:
                raise
            raise SettingsError(
                f"runner.kind: dask needs packages that are not installed ({error}). Install the project with its "
                "extra, pip install -e '.[dask]', here and on every worker, or leave runner.kind at local."
            ) from error
        cluster = exit_stack.enter_context(dask_cluster.ClusterTaskRunner(settings, workspace))
        return cluster, cluster.threads_per_shard
    pool = exit_stack.enter_context(ThreadPoolTaskRunner(max_workers=settings.num_workers))
    return pool, max(1, settings.count_threads() // settings.num_workers)
