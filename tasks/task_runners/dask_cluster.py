"""A Dask cluster as runner: task runs spread over worker processes, on one machine or many."""

import logging
import queue
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, Final

from dask.base import annotate
from distributed import Client, KilledWorker
from distributed.client import FutureCancelledError
from prefect import Task
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import get_call_parameters
from prefect_dask.task_runners import DaskTaskRunner

from hip_mri.config import RunnerSettings
from hip_mri.errors import ClusterError, list_offenders
from hip_mri.workspace import Workspace
from tasks.task_runners.dask_checks import Member, check_workers, list_workers
from tasks.task_runners.dask_log import forward_log
from tasks.task_runners.runner import GPU_TAG

logger = logging.getLogger("hip_mri.cluster")

SECONDS_TO_CONNECT: Final = 20

SECONDS_FOR_WORKERS: Final = 60
"""How long a cluster may take until its first worker has joined."""

SECONDS_BETWEEN_LOOKS: Final = 10.0
"""How often the cluster is looked after while no task run ends."""

TERMINAL_SIGNALS: Final = (signal.SIGINT, signal.SIGHUP)
"""A terminal sends these to every process of a command."""

LOCAL_CLUSTER: Final[dict[str, Any]] = {
    "threads_per_worker": 1,  # each task run brings threads of its own
    "host": "127.0.0.1",
    "dashboard_address": None,
    "env": {"TF_FORCE_GPU_ALLOW_GROWTH": "true"},  # else the first process takes all memory of a GPU
}


class DaskRunner:
    """Workers of a Dask cluster.

    Tasks tagged `GPU_TAG` run on a worker that declares the resource GPU, where there is one; shards, and without such
    a worker the tagged tasks too, on one that declares CPU. Where no worker declares anything, anyone takes anything.
    All other steps run in the calling thread.
    """

    def __init__(
        self, cluster: DaskTaskRunner, server_address: str, resources: frozenset[str], threads_per_shard: int
    ) -> None:
        self.threads_per_shard = threads_per_shard
        self._cluster = cluster
        self._address = cluster.client.scheduler.address  # pyright: ignore[reportOptionalMemberAccess]
        self._server_address = server_address
        self._resources = resources

    def call(self, task: Task[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """See `Runner.call`."""
        if GPU_TAG not in task.tags:
            return task(*arguments, **keywords)
        future = self.submit(task, get_call_parameters(task.fn, arguments, keywords))
        return self.read_result(next(self.wait([future])))

    def submit(self, task: Task[..., Any], parameters: dict[str, Any]) -> PrefectFuture[Any]:
        """See `Runner.submit`; the task run reports to the server of this flow run, whatever the worker's settings."""
        needed = self._name_resource(task)
        resources = {"resources": {needed: 1}} if needed else {}
        with temporary_settings({PREFECT_API_URL: self._server_address}), annotate(**resources):
            return self._cluster.submit(task, parameters)

    def wait(self, futures: Sequence[PrefectFuture[Any]]) -> Iterator[PrefectFuture[Any]]:
        """See `Runner.wait`; says so where no worker is left, and gives up where the scheduler has gone.

        Raises:
            ClusterError: The scheduler does not answer any more.
        """
        ended: queue.SimpleQueue[PrefectFuture[Any]] = queue.SimpleQueue()
        for future in futures:
            future.add_done_callback(ended.put)
        for _ in futures:
            yield self._take(ended)

    def read_result(self, future: PrefectFuture[Any]) -> Any:
        """See `Runner.read_result`.

        Raises:
            ClusterError: The workers that had the task run died, one after the other.
        """
        try:
            return future.result()
        except KilledWorker as error:
            raise ClusterError(
                f"runner: workers died, {error.allowed_failures + 1} in a row, while they had the same task run, the "
                f"last one at {error.last_worker.address}. Most often their memory does not suffice: see the log of "
                "that worker, give it more memory or take a smaller runner.shard_size, and start again: finished work "
                "is kept."
            ) from error
        except (FutureCancelledError, CancelledError) as error:
            raise self._explain_loss() from error

    def _name_resource(self, task: Task[..., Any]) -> str | None:
        wanted = ("GPU", "CPU") if GPU_TAG in task.tags else ("CPU",)
        return next((name for name in wanted if name in self._resources), None)

    def _take(self, ended: "queue.SimpleQueue[PrefectFuture[Any]]") -> PrefectFuture[Any]:
        while True:
            try:
                return ended.get(timeout=SECONDS_BETWEEN_LOOKS)
            except queue.Empty:
                self._look_after_workers()

    def _look_after_workers(self) -> None:
        try:
            workers = list_workers(self._cluster.client)
        except (OSError, RuntimeError) as error:
            raise self._explain_loss() from error
        there = {name for worker in workers for name in worker.resources}
        if gone := sorted(self._resources - there) or ([] if workers else ["any work"]):
            logger.warning("No worker for %s is left in the cluster; waiting for one to join", " and ".join(gone))

    def _explain_loss(self) -> ClusterError:
        return ClusterError(
            f"runner: the Dask scheduler at {self._address} was lost in the middle of the run. See why it ended, start "
            "it and its workers again, then the run: finished work is kept."
        )


@contextmanager
def open_cluster(settings: RunnerSettings, workspace: Workspace) -> Iterator[DaskRunner]:
    """Connect to a Dask cluster, or start one of processes on this machine, and check that it can do the work.

    Args:
        settings: Where the cluster is, or how many processes to start.
        workspace: Every worker must see it at the same path.

    Yields:
        The runner; the connection, or the cluster that was started, ends with the block.

    Raises:
        ClusterError: No scheduler or worker answers, a worker runs other code, or does not reach the Prefect server.
        WorkspaceError: A worker does not see the workspace.
    """
    server_address = str(get_client(sync_client=True).api_url)
    with _prepare(settings) as cluster:
        client = _connect(cluster, settings)
        members = check_workers(client, workspace, server_address)
        resources = frozenset(name for member in members for name in member.resources)
        threads = share_threads(members, settings.num_threads)
        logger.info("Dask cluster: %s; %d threads for each shard", describe_members(members), threads)
        if "GPU" in resources and any(not member.resources for member in members):
            logger.warning("Some workers declare no resource: start those without a GPU with --resources CPU=1.")
        with forward_log(client, str(flow_run.id)):
            yield DaskRunner(cluster, server_address, resources, threads)


def _prepare(settings: RunnerSettings) -> DaskTaskRunner:
    if settings.dask_address:
        return DaskTaskRunner(address=settings.dask_address, client_kwargs={"timeout": SECONDS_TO_CONNECT})
    return DaskTaskRunner(cluster_kwargs={"n_workers": settings.num_workers, **LOCAL_CLUSTER})


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


def _connect(cluster: DaskTaskRunner, settings: RunnerSettings) -> Client:
    place = settings.dask_address or "this machine"
    try:
        with _block_terminal_signals():
            client = cluster.client  # starts a cluster where none is named
    except OSError as error:
        raise ClusterError(
            f"runner.dask_address: no Dask scheduler answers at {place} ({error}). Start one there with "
            "dask scheduler, or give the address that it prints."
        ) from error
    try:
        client.wait_for_workers(1, timeout=SECONDS_FOR_WORKERS)
    except TimeoutError as error:
        raise ClusterError(
            f"runner: the cluster at {place} has no workers after {SECONDS_FOR_WORKERS} s. Start some with "
            f"dask worker {settings.dask_address or 'ADDRESS'} --nthreads 1."
        ) from error
    return client


def share_threads(members: Sequence[Member], num_threads: int) -> int:
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
