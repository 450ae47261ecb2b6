"""Background processes that outlive the command that starts them, and are stopped by what was recorded about them."""

import os
import pwd
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hip_mri.errors import DeploymentError
from hip_mri.storage import read_json, write_json

MARK: Final = "HIP_MRI_PROCESS_MARK"
"""Environment variable that every recorded process and all that it starts carry."""
POLL_SECONDS: Final = 0.2


@dataclass(frozen=True)
class RecordedProcess:
    """A process, told from every other one by a random mark in its environment.

    A number alone is not enough: it is given out again, and the process of a flow run leaves its worker's session.

    Attributes:
        pid: Its number.
        mark: Value of `MARK` in its environment, which all its descendants inherit.
    """

    pid: int
    mark: str

    @property
    def is_running(self) -> bool:
        return _carries(self.pid, self.mark)

    def list_family(self) -> list[int]:
        """Numbers of this process and of all processes that descend from it, as far as they run."""
        pids = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
        return [pid for pid in pids if _carries(pid, self.mark)]


class ProcessRegister:
    """The processes of one set-up, by name, in the order in which they were started.

    Attributes:
        file: Where they are recorded.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> dict[str, RecordedProcess]:
        """What is recorded, whether it still runs or not."""
        if not self.file.exists():
            return {}
        return {name: RecordedProcess(**fields) for name, fields in read_json(self.file).items()}

    def add(self, name: str, process: RecordedProcess) -> None:
        """Record a process as the latest one."""
        self._write({**self._without(name), name: process})

    def remove(self, name: str) -> None:
        """Forget a process."""
        self._write(self._without(name))

    def is_running(self, name: str) -> bool:
        """Whether a process of this name is recorded and still runs."""
        process = self.read().get(name)
        return process is not None and process.is_running

    def _without(self, name: str) -> dict[str, RecordedProcess]:
        return {other: process for other, process in self.read().items() if other != name}

    def _write(self, processes: Mapping[str, RecordedProcess]) -> None:
        write_json(self.file, {name: asdict(process) for name, process in processes.items()})


def start_process(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log_file: Path, user: str | None = None
) -> RecordedProcess:
    """Start a program in a session of its own, so that it goes on when the terminal closes.

    Args:
        command: Program and arguments. Everybody on the machine can read them: secrets belong in the environment.
        environment: All of its environment variables.
        folder: Where it works.
        log_file: Takes what it writes, after what is there already.
        user: Whose rights it runs with; `None` leaves those of the caller.

    Raises:
        DeploymentError: The program cannot be started.
    """
    mark = secrets.token_hex(16)
    try:
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**environment, MARK: mark},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **rights_of(user),
            )
    except OSError as error:
        raise DeploymentError(f"{command[0]} cannot be started ({error.strerror}).") from error
    process.returncode = 0  # keeps `Popen` from warning that nobody waits for it: it is meant to outlive this process
    return RecordedProcess(process.pid, mark)


def rights_of(user: str | None) -> dict[str, Any]:
    """Arguments that make `subprocess` run a program with the rights of a user, and of no group but the user's own.

    Raises:
        KeyError: There is no such user.
    """
    return {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def stop_process(
    process: RecordedProcess, stop_signal: signal.Signals = signal.SIGTERM, timeout_seconds: int = 30
) -> None:
    """Ask a process to stop, then all that it leaves behind; what is left after the time is killed.

    Args:
        process: May have ended already; what it left behind is stopped all the same.
        stop_signal: What the process itself is asked with.
        timeout_seconds: How long each of the two is waited for.

    Raises:
        DeploymentError: Something does not even end when it is killed.
    """
    if process.is_running:
        _send([process.pid], stop_signal)
        _wait_until(lambda: not process.is_running, timeout_seconds)
    _send(process.list_family(), signal.SIGTERM)
    if not _wait_until(lambda: not process.list_family(), timeout_seconds):
        _send(process.list_family(), signal.SIGKILL)
        if not _wait_until(lambda: not process.list_family(), timeout_seconds):
            pids = ", ".join(map(str, process.list_family()))
            raise DeploymentError(f"Processes {pids} cannot be stopped. Look with `ps` what they wait for.")


def _send(pids: Sequence[int], stop_signal: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, stop_signal)
        except ProcessLookupError:
            continue


def _wait_until(is_so: Callable[[], bool], timeout_seconds: int) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if is_so():
            return True
        time.sleep(POLL_SECONDS)
    return False


def _carries(pid: int, mark: str) -> bool:
    """Whether a process has a mark in its environment; one that has ended, or is somebody else's, has none."""
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
