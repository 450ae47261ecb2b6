"""Opens the runner that the settings name: threads of this process, or the workers of a Dask cluster."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final

from prefect.task_runners import ThreadPoolTaskRunner

from hip_mri.config import RunnerSettings
from hip_mri.errors import SettingsError
from hip_mri.workspace import Workspace
from tasks.task_runners.runner import LocalRunner, Runner

EXTRA: Final = ("dask", "distributed", "prefect_dask")
"""Modules that come with the extra `dask`."""


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
        return importlib.import_module("tasks.task_runners.dask_cluster")
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in EXTRA:
            raise
        raise SettingsError(
            f"runner.kind: dask needs packages that are not installed ({error}). Install the project with its extra, "
            "pip install -e '.[dask]', here and on every worker, or leave runner.kind at local."
        ) from error
