"""A team's set-up on one machine, without containers: `python -m deployments.native up|down|status --folder DIR`.

PostgreSQL, Prefect's server with authentication, a worker for machines without and one for machines with a GPU, Dask's
scheduler and workers. Everything listens on this machine only; everything that is written lies in the folder:

DIR/
├── credentials.env   for people's shells: where the server is, and the login
├── server.env        the secrets of the server alone
├── ports.json        where the programs listen
├── processes.json    what runs
├── logs/             one file per program
├── postgres/         the database
├── prefect/ dask/    what the programs keep for themselves
"""

import argparse
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Final

from deployments.dask_certificate import write_certificate
from deployments.postgres import HOST
from deployments.processes import POLL_SECONDS, ProcessRegister, start_process, stop_process
from deployments.topology import PROJECT, Ports, Program, Topology
from hip_mri.errors import DeploymentError, HipMriError
from hip_mri.locks import hold_lock
from hip_mri.storage import read_json, write_json

READY_SECONDS: Final = 180
"""The server's first start creates some hundred tables and indexes."""


def bring_up(topology: Topology) -> None:
    """Start what does not run yet, wait until everything answers, and register work pools and deployments.

    Args:
        topology: What runs.

    Raises:
        DeploymentError: A program is missing, its port is taken, it ends or does not answer in time.
        WorkspaceError: The folder cannot be written, or another process brings it up or down.
    """
    topology.create_folder()
    with _hold(topology.folder):
        _check_ports_are_kept(topology)
        credentials = topology.prepare()
        write_json(_find_ports_file(topology.folder), asdict(topology.ports))
        topology.postgres.create(credentials.database_password)
        _ensure(topology, [topology.database()])
        topology.postgres.create_database(credentials.database_password)
        _ensure(topology, [topology.server()])
        _register_deployments(topology)
        _renew_certificate(topology)
        _ensure(topology, [*topology.workers(), *topology.dask()])


def take_down(folder: Path) -> list[str]:
    """Stop what `bring_up` started, the latest first, and nothing else.

    Args:
        folder: Where it was brought up; database, secrets and logs stay.

    Returns:
        Names of what was stopped.

    Raises:
        WorkspaceError: Another process brings it up or down.
    """
    register, stopped = _register_of(folder), []
    with _hold(folder):
        signals = {program.name: program.stop_signal for program in read_topology(folder).list_programs()}
        for name, process in reversed(register.read().items()):
            stop_process(process, signals.get(name, signal.SIGTERM))
            register.remove(name)
            stopped.append(name)
    return stopped


def describe_state(topology: Topology) -> dict[str, str]:
    """What each program is doing: `ready`, `does not answer` or `stopped`."""
    register = _register_of(topology.folder)
    return {
        program.name: "stopped"
        if not register.is_running(program.name)
        else ("ready" if program.is_ready() else "does not answer")
        for program in topology.list_programs()
    }


def read_topology(folder: Path, database_user: str = "postgres", **ports: int | None) -> Topology:
    """Find out what runs, or would run, in a folder.

    Args:
        folder: Where it is or will be brought up.
        database_user: Whose rights PostgreSQL runs with where the caller is root.
        **ports: By their names in `Ports`; those not given are as before, or the defaults.
    """
    file = _find_ports_file(folder)
    known = read_json(file) if file.exists() else {}
    given = {name: port for name, port in ports.items() if port is not None}
    return Topology(folder, Ports(**(known | given)), database_user)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; returns the exit code."""
    given = vars(_make_parser().parse_args(arguments))
    action, folder = given.pop("action"), given.pop("folder").absolute()
    try:
        if not Path("/proc/self/environ").exists():
            raise DeploymentError("This needs Linux. Elsewhere, use deployments/compose.yaml.")
        if action == "up":
            topology = read_topology(folder, **given)
            bring_up(topology)
            print(_describe_access(topology))
            return 0
        if not _find_ports_file(folder).exists():
            raise DeploymentError(f"{folder}: nothing was brought up here. Look at --folder.")
        if action == "down":
            print("Stopped:", ", ".join(take_down(folder)) or "nothing was running")
            return 0
        states = describe_state(read_topology(folder))
        print("\n".join(f"{name:16}{state}" for name, state in states.items()))
        return int(set(states.values()) != {"ready"})
    except HipMriError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deployments.native",
        description="Bring a team's set-up up on this machine, take it down, or tell its state.",
        epilog="Given again, `up` starts what has stopped. `status` ends with 1 unless everything is ready.",
    )
    parser.add_argument("action", choices=["up", "down", "status"])
    parser.add_argument("--folder", type=Path, required=True, help="for database, secrets, logs; nothing else is in it")
    parser.add_argument("--database-user", default="postgres", help="whom root runs PostgreSQL as (%(default)s)")
    for field in fields(Ports):
        option = f"--{field.name.replace('_', '-')}-port"
        parser.add_argument(option, dest=field.name, type=int, metavar="PORT", help=f"default {field.default}")
    return parser


def _register_of(folder: Path) -> ProcessRegister:
    return ProcessRegister(folder / "processes.json")


def _find_ports_file(folder: Path) -> Path:
    return folder / "ports.json"


def _hold(folder: Path) -> AbstractContextManager[None]:
    """Keep a second `up` or `down` out of the folder."""
    return hold_lock(folder / ".lock", 0, f"{folder} is being brought up or down by", "Wait for that to end")


def _check_ports_are_kept(topology: Topology) -> None:
    """Programs that run keep their ports; others must be stopped first."""
    register = _register_of(topology.folder)
    running = [name for name in register.read() if register.is_running(name)]
    if running and read_json(_find_ports_file(topology.folder)) != asdict(topology.ports):
        raise DeploymentError(f"{', '.join(running)}: already running on other ports. Take them down first.")


def _renew_certificate(topology: Topology) -> None:
    """Write a new certificate for Dask, unless somebody uses the present one."""
    register = _register_of(topology.folder)
    if not any(register.is_running(program.name) for program in topology.dask()):
        write_certificate(topology.dask_folder)


def _ensure(topology: Topology, programs: Sequence[Program]) -> None:
    """Start the programs that do not run, then wait for each."""
    register = _register_of(topology.folder)
    for program in programs:
        if not register.is_running(program.name):
            _check_ports_are_free(program)
            log_file = topology.logs_folder / f"{program.name}.log"
            _tell(f"starting {program.name}")
            folder = Path("/") if program.user else PROJECT
            register.add(
                program.name, start_process(program.command, program.environment, folder, log_file, program.user)
            )
    for program in programs:
        _wait_until_ready(topology, register, program)


def _check_ports_are_free(program: Program) -> None:
    for port in program.ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what ended a moment ago does not count
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise DeploymentError(
                    f"{program.name}: port {port} of {HOST} cannot be had ({error.strerror}). "
                    "Give another one; --help lists the options."
                ) from error


def _wait_until_ready(topology: Topology, register: ProcessRegister, program: Program) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not program.is_ready():
        ended = not register.is_running(program.name)
        if ended or time.monotonic() > deadline:
            log_file = topology.logs_folder / f"{program.name}.log"
            fault = "ended" if ended else f"does not answer after {READY_SECONDS} seconds"
            raise DeploymentError(f"{program.name} {fault}. The end of {log_file}:\n{_read_end(log_file)}")
        time.sleep(POLL_SECONDS)


def _register_deployments(topology: Topology) -> None:
    log_file = topology.logs_folder / "register.log"
    _tell("registering work pools, deployments and the automation")
    command = [sys.executable, "-m", "deployments.register"]
    with log_file.open("wb") as log:
        done = subprocess.run(
            command, env=topology.environment(), cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise DeploymentError(f"The deployments cannot be registered. The end of {log_file}:\n{_read_end(log_file)}")


def _describe_access(topology: Topology) -> str:
    user = pwd.getpwuid(os.geteuid()).pw_name
    return (
        f"Prefect  {topology.url}  (login: PREFECT_API_AUTH_STRING in {topology.credentials_file})\n"
        f"Dask     http://{HOST}:{topology.ports.dashboard}/status\n"
        f"In a shell of {user}:  . {topology.credentials_file}\n"
        "Then, for instance:  prefect deployment run hip-pipeline/default --watch"
    )


def _read_end(file: Path, num_lines: int = 15) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-num_lines:])


def _tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
