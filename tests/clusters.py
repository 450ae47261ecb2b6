"""Dask clusters of real processes, for tests: a scheduler and workers that can be killed one by one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prefect import flow, task

from hip_mri.config import PipelineConfig
from hip_mri.workspace import Workspace
from tasks.task_runners.configured import ConfiguredTaskRunner, get_task_runner, start_task_runner
from tests.processes import PROJECT, find_free_ports


@dataclass
class Cluster:
    address: str
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    def start_worker(self, name: str, *options: str, folder: Path = PROJECT) -> None:
        """The current folder comes first on a worker's path, so it calls the code that lies there."""
        quiet = ["--no-nanny", "--no-dashboard", "--nthreads", "1", "--host", "127.0.0.1"]
        self._start(name, "distributed.cli.dask_worker", self.address, *quiet, "--name", name, *options, folder=folder)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait(timeout=30)

    def find_reader(self, file: Path) -> str:
        """Name of the worker that holds a file open; empty if none does."""
        for name, process in self.processes.items():
            for handle in Path(f"/proc/{process.pid}/fd").glob("*"):
                if os.path.realpath(handle) == str(file):
                    return name
        return ""

    def _start(self, name: str, module: str, *arguments: str, folder: Path) -> None:
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@contextmanager
def start_cluster(**environment: str) -> Iterator[Cluster]:
    """A scheduler on a free port of this machine; ends with all workers that were started."""
    (port,) = find_free_ports(1)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    cluster = Cluster(f"tcp://127.0.0.1:{port}", inherited | environment)
    options = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    cluster._start("scheduler", "distributed.cli.dask_scheduler", *options, folder=PROJECT)
    try:
        yield cluster
    finally:
        for process in reversed(cluster.processes.values()):
            process.kill()
            process.wait(timeout=30)


@task(task_run_name="die")
def die() -> None:
    """Take the worker along."""
    os.kill(os.getpid(), signal.SIGKILL)


@flow(task_runner=ConfiguredTaskRunner)
def open_only(config: PipelineConfig) -> int:
    """Connect, check, and close."""
    start_task_runner(config.runner, Workspace.at(config.workspace))
    return get_task_runner().threads_per_shard


@flow(task_runner=ConfiguredTaskRunner)
def run_dying(config: PipelineConfig) -> None:
    start_task_runner(config.runner, Workspace.at(config.workspace))
    die.submit().result()
