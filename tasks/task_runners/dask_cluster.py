"""Task runner for a Dask cluster: worker processes on one machine or many."""

import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, Final, Self
from uuid import UUID

from dask.base import annotate
from distributed import Future, KilledWorker
from distributed.client import FutureCancelledError
from prefect import Task
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.engine import link_state_to_task_run_result
from prefect_dask.task_runners import DaskTaskRunner, PrefectDaskFuture

from hip_mri.config import DEFAULT_DASK_ADDRESS, RunnerSettings
from hip_mri.errors import ClusterError, SettingsError, list_offenders
from hip_mri.workspace import Workspace
from tasks.options import GPU_TAG
from tasks.task_runners.dask_checks import Member, check_workers
from tasks.task_runners.dask_log import forward_log
from tasks.task_runners.dask_workers import report_lost_workers

logger = logging.getLogger("hip_mri.cluster")

CONNECT_TIMEOUT_SECONDS: Final = 20

WORKERS_TIMEOUT_SECONDS: Final = 60
"""How long a cluster may take until its first worker has joined."""

CHECK_INTERVAL_SECONDS: Final = 10.0
"""How often the cluster is checked while no task run ends."""

TERMINAL_SIGNALS: Final = (signal.SIGINT, signal.SIGHUP)
"""Signals that a terminal sends to every process of a command."""

LOCAL_CLUSTER: Final[dict[str, Any]] = {
    "threads_per_worker": 1,  # each task run starts threads of its own
    "host": "127.0.0.1",
    "dashboard_address": None,
    "env": {"TF_FORCE_GPU_ALLOW_GROWTH": "true"},  # else the first process takes all memory of a GPU
}


class ClusterTaskRunner(DaskTaskRunner):
    """Workers of a Dask cluster: of a running one, or of processes on this machine that start with the task runner.

    Tasks tagged `GPU_TAG` run on a worker that declares the resource GPU, where there is one; shards, and without such
    a worker the tagged tasks too, on one that declares CPU. Where no worker declares a resource, any worker takes any
    task run.

    Args:
        settings: Where the cluster is, or how many processes to start.
        workspace: Every worker must see it at the same path.

    Attributes:
        threads_per_shard: Threads that the task run of one shard may use.
    """

    def __init__(self, settings: RunnerSettings, workspace: Workspace) -> None:
        address = find_address(settings)
        if address:
            super().__init__(address=address, client_kwargs={"timeout": CONNECT_TIMEOUT_SECONDS})
        else:
            super().__init__(cluster_kwargs={"n_workers": settings.num_workers, **LOCAL_CLUSTER})
        self.threads_per_shard = 1
        self._settings = settings
        self._workspace = workspace
        self._address = ""
        self._server_address = ""
        source = "runner.dask_address" if address == settings.dask_address else settings.dask_address
        self._place = f"{address} ({source})" if address else "this machine"
        self._resources: frozenset[str] = frozenset()
        self._task_names: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Connect, and check that the cluster can do the work.

        Raises:
            ClusterError: No scheduler or worker answers, or a worker runs other code or does not reach the server.
            WorkspaceError: A worker does not see the workspace.
        """
        super().__enter__()
        try:
            self._connect()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def submit(  # pyright: ignore[reportIncompatibleMethodOverride] - Prefect overloads it for asynchronous tasks
        self,
        task: Task[..., Any],
        parameters: dict[str, Any],
        wait_for: Iterable[Any] | None = None,
        dependencies: dict[str, set[Any]] | None = None,
    ) -> "ClusterFuture":
        """See `DaskTaskRunner.submit`; the task run reports to the server of this flow run, not of the worker."""
        wanted = ("GPU", "CPU") if GPU_TAG in task.tags else ("CPU",)
        needed = next((name for name in wanted if name in self._resources), None)
        resources = {"resources": {needed: 1}} if needed else {}
        with temporary_settings({PREFECT_API_URL: self._server_address}), annotate(**resources):
            future = super().submit(task, parameters, wait_for, dependencies)
        self._task_names[str(future.wrapped_future.key)] = task.name
        return ClusterFuture(future.task_run_id, future.wrapped_future, self)

    def check_cluster(self) -> None:
        """Log where no worker is left.

        Raises:
            ClusterError: The scheduler does not answer any more.
        """
        try:
            workers = self.client.scheduler_info()["workers"].values()
        except (OSError, RuntimeError) as error:
            raise self.lost_error() from error
        present = {name for worker in workers for name in worker["resources"]}
        if missing := sorted(self._resources - present) or ([] if workers else ["any work"]):
            logger.warning("No worker for %s is left in the cluster; waiting for one to join", " and ".join(missing))

    def lost_error(self) -> ClusterError:
        """The error of a scheduler that does not answer any more."""
        return ClusterError(
            f"runner: the Dask scheduler at {self._address} was lost in the middle of the run. See why it ended, start "
            "it and its workers again, then the run: finished work is kept."
        )

    def _connect(self) -> None:
        try:
            with _block_terminal_signals():
                client = self.client  # starts a cluster where none is named
        except (OSError, ValueError) as error:  # ValueError: not an address
            raise ClusterError(
                f"runner: no Dask scheduler answers at {self._place}: {error}. Start one there with dask scheduler, or "
                "give the address that it prints."
            ) from error
        try:
            client.wait_for_workers(1, timeout=WORKERS_TIMEOUT_SECONDS)
        except TimeoutError as error:
            raise ClusterError(
                f"runner: the cluster at {self._place} has no workers after {WORKERS_TIMEOUT_SECONDS} s. Start some "
                "with dask worker ADDRESS --nthreads 1."
            ) from error
        self._server_address = str(get_client(sync_client=True).api_url)
        self._address = client.scheduler.address  # pyright: ignore[reportOptionalMemberAccess]
        members = check_workers(client, self._workspace, self._server_address)
        self._resources = frozenset(name for member in members for name in member.resources)
        self.threads_per_shard = divide_threads(members, self._settings.num_threads)
        described = describe_members(members)
        logger.info("Dask cluster at %s: %s; %d threads for each shard", self._place, described, self.threads_per_shard)
        if "GPU" in self._resources and any(not member.resources for member in members):
            logger.warning("Some workers declare no resource: start those without a GPU with --resources CPU=1.")
        self._exit_stack.enter_context(forward_log(client, str(flow_run.id)))
        self._exit_stack.enter_context(report_lost_workers(client, str(flow_run.id), self._task_names))


class ClusterFuture(PrefectDaskFuture[Any]):
    """Task run on a cluster, whose scheduler and workers are checked while it lasts."""

    def __init__(self, task_run_id: UUID, wrapped_future: Future, task_runner: ClusterTaskRunner) -> None:
        super().__init__(task_run_id, wrapped_future)
        self._task_runner = task_runner

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end of the task run, or for a number of seconds.

        Raises:
            ClusterError: The scheduler does not answer any more.
        """
        while timeout is None and not self.wrapped_future.done():
            super().wait(CHECK_INTERVAL_SECONDS)
            if not self.wrapped_future.done():
                self._task_runner.check_cluster()
        super().wait(timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        """Wait for the result of the task run.

        Raises:
            ClusterError: The workers that had the task run died, one after the other, or the scheduler was lost.
        """
        self.wait(timeout)
        try:
            result = super().result(timeout, raise_on_failure)
        except KilledWorker as error:
            raise ClusterError(
                f"runner: workers died, {error.allowed_failures + 1} in a row, while they had the same task run, the "
                f"last one at {error.last_worker.address}. Most often their memory does not suffice: see the log of "
                "that worker, give it more memory or take a smaller runner.shard_size, and start again: finished work "
                "is kept."
            ) from error
        except (FutureCancelledError, CancelledError) as error:
            raise self._task_runner.lost_error() from error
        link_state_to_task_run_result(self.state, result)  # as Prefect does in this process, for the graph in the UI
        return result


def find_address(settings: RunnerSettings) -> str | None:
    """Find the address of the scheduler; `None` where the run starts a cluster of its own.

    Raises:
        SettingsError: An environment variable that was asked for is not set.
    """
    source, _, name = (settings.dask_address or "").partition(":")
    if source != "env":
        return settings.dask_address
    address = os.environ.get(name)
    if not address and settings.dask_address != DEFAULT_DASK_ADDRESS:
        raise SettingsError(f"runner.dask_address: the environment variable {name} is not set where the flow runs.")
    return address or None


@contextmanager
def _block_terminal_signals() -> Iterator[None]:
    """Keep Ctrl-C from the processes of a cluster that starts in the block: this process stops them in order.

    The threads that start in the block, and so the processes that these start, inherit the mask. This process itself
    still receives the signals, in its other threads.
    """
    resource_tracker.ensure_running()  # a thread that starts it later unblocks the signals again
    former = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def divide_threads(members: Sequence[Member], num_threads: int) -> int:
    """Threads for each task run, so that no machine has more of them than were asked for, or than processor cores.

    Args:
        members: The workers.
        num_threads: Over all workers together; 0 takes one per core, as the most crowded machine allows.
    """
    if num_threads:
        return max(1, num_threads // sum(member.num_slots for member in members))
    slots = {host: sum(m.num_slots for m in members if m.host == host) for host in {m.host for m in members}}
    return max(1, min((member.num_cores // slots[member.host] for member in members), default=1))


def describe_members(members: Sequence[Member]) -> str:
    """One phrase for the log, such as `3 workers on alpha, beta (1 with a GPU)`."""
    hosts = list_offenders(sorted({member.host for member in members}))
    num_gpu = sum("GPU" in member.resources for member in members)
    workers = "worker" if len(members) == 1 else "workers"
    return f"{len(members)} {workers} on {hosts}" + (f" ({num_gpu} with a GPU)" if num_gpu else "")
