"""Starts supervisord for the programs of a folder, connects to it, and stops processes that remain."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from xmlrpc.client import Fault, ServerProxy

import psutil
from supervisor.xmlrpc import SupervisorTransport

from hip_mri.errors import DeploymentError

CONFIGURATION_FILE: Final = Path(__file__).with_name("supervisord.conf")
RUNNING_STATES: Final = frozenset({"STARTING", "RUNNING"})
"""States of supervisord in which a program has a process."""
_MAX_FOLDER_BYTES: Final = 80
"""Linux allows 107 bytes for the path of a socket, and supervisord adds a process number to it."""


@contextlib.contextmanager
def connect_supervisor(folder: Path) -> Iterator[Any]:
    """Connect to the supervisord that is running for a folder.

    Yields:
        Its XML-RPC interface, see https://supervisord.org/api.html.

    Raises:
        DeploymentError: It rejects a call.
    """
    # The transport replaces the address.
    with ServerProxy("http://127.0.0.1", transport=SupervisorTransport(serverurl=_find_url(folder))) as client:
        try:
            yield client.supervisor
        except Fault as error:
            log_file = folder / "logs" / "supervisord.log"
            raise DeploymentError(f"supervisord: {error.faultString}. Look into {log_file}.") from error


def is_supervised(folder: Path) -> bool:
    """Whether a supervisord is running for a folder."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(_find_url(folder).removeprefix("unix://"))
        except OSError:
            return False
        return True


def start_supervisor(folder: Path, environment: Mapping[str, str]) -> None:
    """Start supervisord in the background, without any program.

    Args:
        folder: Holds its socket.
        environment: Of supervisord and its programs.

    Raises:
        DeploymentError: It does not start.
    """
    if len(os.fsencode(folder)) > _MAX_FOLDER_BYTES:
        raise DeploymentError(f"{folder}: the path has more than {_MAX_FOLDER_BYTES} bytes. Give a shorter --folder.")
    command = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(CONFIGURATION_FILE)]
    environment = {**environment, "SUPERVISOR_SERVER_URL": _find_url(folder)}  # as supervisord sets it for its programs
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not is_supervised(folder):
        raise DeploymentError(f"supervisord does not start with {CONFIGURATION_FILE}:\n{done.stdout}{done.stderr}")


def read_states(supervisor: Any) -> dict[str, str]:
    """Read the state of each program, such as `RUNNING`; see https://supervisord.org/subprocess.html."""
    return {info["name"]: info["statename"] for info in supervisor.getAllProcessInfo()}


def find_processes(folder: Path, program: str | None = None) -> list[psutil.Process]:
    """Find the processes of a folder by environment variables of supervisord, which all descendants inherit.

    The process of a flow run has a session of its own and can outlive its worker, so process groups do not suffice.

    Args:
        folder: Where they were started.
        program: Of this program alone; by default of all programs, and supervisord itself.
    """
    wanted = {"SUPERVISOR_SERVER_URL": _find_url(folder)} | ({"SUPERVISOR_PROCESS_NAME": program} if program else {})
    processes = psutil.process_iter(["environ"])
    return [process for process in processes if wanted.items() <= (process.info["environ"] or {}).items()]


def stop_processes(folder: Path, program: str | None = None, timeout_seconds: float = 30) -> None:
    """Stop all processes that `find_processes` finds: first by SIGTERM, then by SIGKILL.

    Args:
        folder: Where they were started.
        program: Of this program alone.
        timeout_seconds: Waited after each of the two signals.

    Raises:
        DeploymentError: A process is still there.
    """
    for stop in (psutil.Process.terminate, psutil.Process.kill):
        processes = find_processes(folder, program)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                stop(process)
        psutil.wait_procs(processes, timeout_seconds)
    if remaining := find_processes(folder, program):
        pids = ", ".join(str(process.pid) for process in remaining)
        raise DeploymentError(f"Processes {pids} do not stop. Look with `ps` at their state.")


def _find_url(folder: Path) -> str:
    return f"unix://{folder / 'supervisor.sock'}"
