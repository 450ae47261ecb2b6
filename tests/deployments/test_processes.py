import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.processes import MARK, ProcessRegister, RecordedProcess, start_process, stop_process
from hip_mri.errors import DeploymentError

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def register(tmp_path: Path) -> ProcessRegister:
    return ProcessRegister(tmp_path / "processes.json")


@pytest.fixture
def bystander() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process.pid
    process.kill()
    process.wait()


def start(tmp_path: Path, code: str) -> RecordedProcess:
    return start_process([sys.executable, "-c", code], os.environ, tmp_path, tmp_path / "log")


def wait_for_text(file: Path) -> str:
    for _ in range(600):
        if text := file.read_text():
            return text
        time.sleep(0.05)
    pytest.fail(f"nothing was written to {file}")


def test_a_process_outlives_what_started_it_and_is_stopped_by_its_record(
    tmp_path: Path, register: ProcessRegister
) -> None:
    process = start(tmp_path, "import time; time.sleep(60)")
    register.add("sleeper", process)

    again = ProcessRegister(register.file)
    assert again.is_running("sleeper")
    assert os.getsid(process.pid) == process.pid, "it would end with the terminal"
    stop_process(again.read()["sleeper"])
    assert not again.is_running("sleeper")


def test_what_a_process_started_is_stopped_too_even_in_another_session_and_deaf(tmp_path: Path) -> None:
    process = start(tmp_path, PARENT)
    child = int(wait_for_text(tmp_path / "log"))
    assert sorted(process.list_family()) == sorted([process.pid, child])

    stop_process(process, timeout_seconds=1)
    assert process.list_family() == []


def test_what_a_dead_process_left_behind_is_stopped(tmp_path: Path) -> None:
    process = start(tmp_path, PARENT)
    child = int(wait_for_text(tmp_path / "log"))
    os.kill(process.pid, signal.SIGKILL)
    while process.is_running:
        time.sleep(0.05)
    assert process.list_family() == [child]

    stop_process(process, timeout_seconds=1)
    assert process.list_family() == []


def test_a_number_that_was_given_to_somebody_else_is_left_alone(bystander: int) -> None:
    process = RecordedProcess(bystander, mark="of a process that has ended")
    assert not process.is_running
    stop_process(process)
    os.kill(bystander, 0)


def test_the_register_keeps_the_order_and_forgets(register: ProcessRegister) -> None:
    assert register.read() == {}
    for name in ("database", "server", "database"):
        register.add(name, RecordedProcess(1, name))
    assert list(register.read()) == ["server", "database"]
    register.remove("server")
    assert list(register.read()) == ["database"]


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match=r"/nowhere/prefect cannot be started \(No such file or directory\)"):
        start_process(["/nowhere/prefect"], {}, tmp_path, tmp_path / "log")


def test_the_mark_is_the_only_thing_added_to_the_environment(tmp_path: Path) -> None:
    start_process(
        [sys.executable, "-c", "import os; print(sorted(os.environ))"], {"LC_ALL": "C"}, tmp_path, tmp_path / "log"
    )
    assert wait_for_text(tmp_path / "log").strip() == str(sorted(["LC_ALL", MARK]))
