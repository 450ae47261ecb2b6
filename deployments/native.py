"""Runs a team's programs on one machine without containers: `python -m deployments.native up|down|status --folder DIR`.

The programs are PostgreSQL, Prefect's server with authentication, one worker for machines without and one for machines
with a GPU, and Dask's scheduler and workers. `supervisord.conf` describes them. They listen on the loopback interface
only. All files are written below the folder:

DIR/
├── credentials.env   for the shells of users: addresses and login
├── server.env        secrets of the server
├── ports.json        ports of the programs
├── supervisor.sock   for `supervisorctl`
├── logs/             one file per program
├── postgres/         the database
├── prefect/ dask/    files of these programs
"""

import os
import pwd
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from pydantic_settings import CliSubCommand

from deployments import PROJECT
from deployments.dask_certificate import write_certificate
from deployments.postgres import HOST
from deployments.supervision import (
    RUNNING_STATES,
    connect_supervisor,
    find_processes,
    is_supervised,
    read_states,
    start_supervisor,
    stop_processes,
)
from deployments.team import LOCK, PORTS, PROGRAMS, TeamSetup
from flows.cli.base_commands import Command, Program
from flows.cli.main import run_command
from hip_mri.errors import DeploymentError
from hip_mri.locks import hold_lock
from hip_mri.storage import read_json

READY_SECONDS: Final = 180
"""The server's first start creates some hundred tables and indexes."""


def bring_up(setup: TeamSetup) -> None:
    """Start the programs that are not running, wait until all answer, and register work pools and deployments.

    Raises:
        DeploymentError: A program is missing, its port is taken, it ends or does not answer in time.
        WorkspaceError: The folder cannot be written, or another process starts or stops the programs.
    """
    setup.create_folder()
    with _lock(setup.folder):
        if is_supervised(setup.folder) and read_json(setup.ports_file) != setup.ports:
            raise DeploymentError(f"{setup.folder}: already running on other ports. Call `down` first.")
        database_password = setup.prepare()
        setup.postgres.create(database_password)
        if not is_supervised(setup.folder):
            stop_processes(setup.folder)  # those of a supervisord that was killed
            start_supervisor(setup.folder, setup.environment())
        with connect_supervisor(setup.folder) as supervisor:
            _start(setup, supervisor, ["database"])
            setup.postgres.create_database(database_password)
            _start(setup, supervisor, ["server"])
            _register_deployments(setup)
            states = read_states(supervisor)
            if not {states.get("dask-scheduler"), states.get("dask-worker")} & RUNNING_STATES:
                write_certificate(setup.dask_folder)  # the present one may have expired
            _start(setup, supervisor, sorted(states.keys() - {"database", "server"}))


def take_down(folder: Path) -> list[str]:
    """Stop the programs of a folder, in reverse order, and supervisord; database, secrets and logs are kept.

    Returns:
        Names of the programs that were running.

    Raises:
        WorkspaceError: Another process starts or stops them.
    """
    stopped = []
    with _lock(folder):
        if is_supervised(folder):
            with connect_supervisor(folder) as supervisor:
                states = read_states(supervisor)
                for name in [*sorted(states.keys() - {"database", "server"}, reverse=True), "server", "database"]:
                    if states[name] in RUNNING_STATES:
                        supervisor.stopProcess(name)
                        stopped.append(name)
                    stop_processes(folder, name)
        stop_processes(folder)
    return stopped


def describe_state(setup: TeamSetup) -> dict[str, str]:
    """State of each program: `ready`, `does not answer`, or the state that supervisord reports, such as `stopped`."""
    if not is_supervised(setup.folder):
        return {name: "not supervised" if find_processes(setup.folder, name) else "stopped" for name in PROGRAMS}
    with connect_supervisor(setup.folder) as supervisor:
        states = read_states(supervisor)
    return {
        name: state.lower() if state not in RUNNING_STATES else ("ready" if setup.is_ready(name) else "does not answer")
        for name, state in states.items()
    }


class TeamCommand(Command):
    """Base class of the commands."""

    folder: Path
    """Folder for database, secrets and logs, and for nothing else."""

    def read_setup(self) -> TeamSetup:
        """Read the set-up of the folder.

        Raises:
            DeploymentError: There is none.
        """
        setup = TeamSetup.read(self.folder.absolute())
        if not setup.ports_file.exists():
            raise DeploymentError(f"{setup.folder}: `up` was never called with this folder. Correct --folder.")
        return setup


class Up(TeamCommand):
    """Start the programs that are not running. A second call starts those that have stopped."""

    database_user: str = "postgres"
    """User that runs PostgreSQL if root calls this."""

    server_port: int | None = None
    """Port of Prefect's API and UI, 4200 by default."""

    database_port: int | None = None
    """Port of PostgreSQL, 5433 by default."""

    cpu_worker_port: int | None = None
    """Port of the worker for machines without a GPU, 4201 by default."""

    gpu_worker_port: int | None = None
    """Port of the worker for machines with a GPU, 4202 by default."""

    dask_port: int | None = None
    """Port of Dask's scheduler, 8786 by default."""

    dashboard_port: int | None = None
    """Port of Dask's dashboard, 8787 by default."""

    def execute(self) -> None:
        ports = {name: getattr(self, f"{name}_port") for name in PORTS}
        setup = TeamSetup.read(self.folder.absolute(), self.database_user, **ports)
        bring_up(setup)
        print(_describe_access(setup))


class Down(TeamCommand):
    """Stop the programs. Database, secrets and logs are kept."""

    def execute(self) -> None:
        print("Stopped:", ", ".join(take_down(self.read_setup().folder)) or "nothing was running")


class Status(TeamCommand):
    """Show the state of each program. Fails unless all are ready."""

    def execute(self) -> None:
        states = describe_state(self.read_setup())
        print("\n".join(f"{name:16}{state}" for name, state in states.items()))
        if not_ready := [name for name, state in states.items() if state != "ready"]:
            raise DeploymentError(f"{self.folder}: not ready: {', '.join(not_ready)}. Call `up`, and see the logs.")


class Native(Program):
    """Start or stop a team's programs on this machine, or show their state.

    Exit codes and messages are those of `hip-mri`.
    """

    program = "python -m deployments.native"

    up: CliSubCommand[Up]
    down: CliSubCommand[Down]
    status: CliSubCommand[Status]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(sys.argv[1:] if arguments is None else arguments, Native)


def _lock(folder: Path) -> AbstractContextManager[None]:
    """Lock the folder against a second `up` or `down`."""
    return hold_lock(folder / LOCK, 0, f"{folder} is being brought up or down by", "Wait for that to end")


def _start(setup: TeamSetup, supervisor: Any, names: Sequence[str]) -> None:
    """Start the programs that are not running, then wait for each."""
    for name in names:
        state = supervisor.getProcessInfo(name)["statename"]
        if state == "BACKOFF":  # waits for its next try
            supervisor.stopProcess(name)
        if state not in RUNNING_STATES:
            _check_ports_are_free(name, [setup.ports[port] for port in PROGRAMS.get(name, ((), ""))[0]])
            _log(f"starting {name}")
            supervisor.startProcess(name, False)
    for name in names:
        _wait_until_ready(setup, supervisor, name)


def _check_ports_are_free(name: str, ports: Sequence[int]) -> None:
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignores connections in TIME_WAIT
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise DeploymentError(
                    f"{name}: port {port} of {HOST} is not available ({error.strerror}). "
                    "Give another one; --help lists the options."
                ) from error


def _wait_until_ready(setup: TeamSetup, supervisor: Any, name: str) -> None:
    """Wait until a program answers; one that ends is stopped, so that supervisord does not try again."""
    deadline = time.monotonic() + READY_SECONDS
    while not setup.is_ready(name):
        info = supervisor.getProcessInfo(name)
        has_ended = info["statename"] not in RUNNING_STATES
        if has_ended or time.monotonic() > deadline:
            if info["statename"] == "BACKOFF":
                supervisor.stopProcess(name)
            fault = "ended" if has_ended else f"does not answer after {READY_SECONDS} seconds"
            log_file = Path(info["logfile"])
            raise DeploymentError(f"{name} {fault}. The end of {log_file}:\n{_read_end(log_file)}")
        time.sleep(0.2)


def _register_deployments(setup: TeamSetup) -> None:
    log_file = setup.folder / "logs" / "register.log"
    _log("registering work pools, deployments and the automation")
    with log_file.open("wb") as log:
        command, streams = [sys.executable, "-m", "deployments.register"], {"stdout": log, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, env=setup.environment(), cwd=PROJECT, check=False, **streams)
    if done.returncode:
        raise DeploymentError(f"The deployments cannot be registered. The end of {log_file}:\n{_read_end(log_file)}")


def _describe_access(setup: TeamSetup) -> str:
    user = pwd.getpwuid(os.geteuid()).pw_name
    return (
        f"Prefect  {setup.url}  (login: PREFECT_API_AUTH_STRING in {setup.credentials_file})\n"
        f"Dask     http://{HOST}:{setup.ports['dashboard']}/status\n"
        f"In a shell of {user}:  . {setup.credentials_file}\n"
        "Then, for instance:  prefect deployment run hip-pipeline/default --watch"
    )


def _read_end(file: Path, num_lines: int = 15) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-num_lines:])


def _log(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
