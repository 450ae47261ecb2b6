import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments import native, supervision
from deployments.supervision import (
    connect_supervisor,
    find_processes,
    is_supervised,
    start_supervisor,
    stop_processes,
)
from deployments.team import TeamSetup
from hip_mri.errors import DeploymentError

IGNORING_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {IGNORING_SIGTERM!r}], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""
CONFIGURATION = """
[supervisord]
logfile=%(ENV_TEAM_FOLDER)s/supervisord.log
pidfile=%(ENV_TEAM_FOLDER)s/supervisord.pid
[unix_http_server]
file=%(ENV_TEAM_FOLDER)s/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[program:server]
command=sleep 600
startsecs=0
autorestart=true
[program:parent]
command="%(ENV_TEAM_PYTHON)s" "%(ENV_TEAM_FOLDER)s/parent.py"
startsecs=0
autostart=false
autorestart=false
stdout_logfile=%(ENV_TEAM_FOLDER)s/parent.log
[program:missing]
command=/nowhere/prefect
autostart=false
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


@pytest.fixture
def supervisor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A supervisord that runs the program `server`."""
    monkeypatch.setattr(supervision, "CONFIGURATION_FILE", folder / "supervisord.conf")
    (folder / "supervisord.conf").write_text(CONFIGURATION)
    (folder / "parent.py").write_text(PARENT)
    start_supervisor(folder, {**os.environ, "TEAM_FOLDER": str(folder), "TEAM_PYTHON": sys.executable})
    with connect_supervisor(folder) as connected:
        yield connected
    stop_processes(folder, timeout_seconds=1)


def wait_for(read: Callable[[], Any]) -> Any:
    for _ in range(600):
        if result := read():
            return result
        time.sleep(0.05)
    pytest.fail("nothing within 30 seconds")


def start_parent(folder: Path, supervisor: Any) -> tuple[int, int]:
    """Numbers of a process and of its child, which has a session of its own and ignores SIGTERM."""
    supervisor.startProcess("parent")
    child = int(wait_for(lambda: (folder / "parent.log").exists() and (folder / "parent.log").read_text()))
    return supervisor.getProcessInfo("parent")["pid"], child


def list_pids(folder: Path, program: str) -> set[int]:
    return {process.pid for process in find_processes(folder, program)}


def test_programs_outlive_the_command_that_starts_them_and_its_terminal(folder: Path, supervisor: Any) -> None:
    assert os.getsid(supervisor.getPID()) == supervisor.getPID()
    pid = wait_for(lambda: supervisor.getProcessInfo("server")["pid"])
    assert list_pids(folder, "server") == {pid}
    stop_processes(folder)
    assert not is_supervised(folder)
    assert find_processes(folder) == []


def test_a_program_that_crashes_is_started_again(supervisor: Any) -> None:
    pid = wait_for(lambda: supervisor.getProcessInfo("server")["pid"])
    os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: {supervisor.getProcessInfo("server")["pid"]} - {0, pid})


def test_descendants_in_another_session_are_stopped_even_if_they_ignore_sigterm(folder: Path, supervisor: Any) -> None:
    pids = start_parent(folder, supervisor)
    assert list_pids(folder, "parent") == set(pids)
    stop_processes(folder, "parent", timeout_seconds=1)
    assert list_pids(folder, "parent") == set()
    assert list_pids(folder, "server") != set()


def test_what_a_killed_program_leaves_behind_is_stopped(folder: Path, supervisor: Any) -> None:
    parent, child = start_parent(folder, supervisor)
    os.kill(parent, signal.SIGKILL)
    wait_for(lambda: list_pids(folder, "parent") == {child})
    stop_processes(folder, "parent", timeout_seconds=1)
    assert list_pids(folder, "parent") == set()


def test_processes_of_others_are_left_alone(folder: Path) -> None:
    environment = {**os.environ, "SUPERVISOR_SERVER_URL": f"unix://{folder}-other/supervisor.sock"}
    with subprocess.Popen(["sleep", "60"], env=environment) as other:
        stop_processes(folder, timeout_seconds=1)
        assert other.poll() is None
        other.kill()


def test_a_missing_program_is_named(folder: Path, supervisor: Any) -> None:
    with (
        pytest.raises(DeploymentError, match=r"NO_FILE.*/nowhere/prefect.*supervisord\.log"),
        connect_supervisor(folder) as again,
    ):
        again.startProcess("missing")


def test_a_faulty_configuration_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "CONFIGURATION_FILE", folder / "broken.conf")
    (folder / "broken.conf").write_text(CONFIGURATION + "startsecs=soon\n")
    with pytest.raises(DeploymentError, match=r"(?s)broken\.conf.*soon.*program:missing"):
        start_supervisor(folder, {**os.environ, "TEAM_FOLDER": str(folder), "TEAM_PYTHON": sys.executable})


def test_a_path_that_is_too_long_for_a_socket_is_named() -> None:
    with pytest.raises(DeploymentError, match=r"/x{80}: .* 80 bytes.*--folder"):
        start_supervisor(Path("/" + "x" * 80), {})


def test_a_refused_change_of_ports_leaves_the_credentials(
    folder: Path, supervisor: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = TeamSetup.read(folder)
    setup.prepare()
    before = {file.name: file.read_bytes() for file in folder.glob("*.*") if file.suffix in (".env", ".json")}
    assert native.main(["up", "--folder", str(folder), "--server-port", "5000"]) == 1
    assert f"{folder}: already running on other ports" in capsys.readouterr().err
    assert {name: (folder / name).read_bytes() for name in before} == before
