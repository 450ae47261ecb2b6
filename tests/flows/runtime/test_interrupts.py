"""Ctrl-C, SIGTERM and SIGHUP: message, exit code, and what is left."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.results import find_leftovers
from tests.flows.servers import find_marked, make_environment, make_prefect, wait_for
from tests.flows.test_pipeline import SMALL
from tests.processes import PROJECT

MAX_SECONDS = 120.0
"""From the signal to the end of the process; it takes five, and what would hang here hangs for longer."""

STOPPED = "Stopped. "

PROGRAM = """
import os, subprocess, sys, time
from flows.runtime.interrupts import end_process, watcher

watcher.start()
child = subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
{body}
"""
LOADING = "print('now', flush=True); time.sleep(600)"
IN_ORDER = """
try:
    with watcher.end_in_order():
        print('now', flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    print('closed', flush=True)
    watcher.print_stopped()
end_process(watcher.exit_code)
"""
SWALLOWED = """
with watcher.end_in_order(), watcher.on_hard_end(lambda: print('reported', flush=True)):
    word = 'now'
    while True:
        try:
            print(word, flush=True)
            time.sleep(600)
        except KeyboardInterrupt:
            word = 'swallowed'
"""
NO_REPORT = SWALLOWED.replace("lambda: print('reported', flush=True)", "lambda: time.sleep(600)")


@pytest.fixture(autouse=True)
def _signals_are_handled() -> Iterator[None]:
    """A test run in the background of a shell ignores SIGINT, and so would its children."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def start(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def start_flow(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start a flow, and wait until it handles signals."""
    process = start(arguments, environment)
    status = Path(f"/proc/{process.pid}/status")
    sigterm = 1 << signal.SIGTERM - 1  # which Python does not handle by itself
    wait_for(lambda: int(re.findall(r"SigCgt:\s*(\w+)", status.read_text())[0], 16) & sigterm, process=process)
    return process


def start_program(body: str, home: Path) -> subprocess.Popen[str]:
    """Start `PROGRAM`, and wait until its body runs."""
    process = start(["-c", PROGRAM.format(body=body)], make_environment(home))
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    return process


def stop(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[str, str]:
    """What is written on both streams from the signal to the end."""
    os.killpg(process.pid, number)
    return process.communicate(timeout=MAX_SECONDS)


def check_stop(process: subprocess.Popen[str], moment: str | None = None) -> str:
    """Stop a flow with Ctrl-C, check its end, and return what it writes to standard error."""
    _, message = stop(process)
    assert process.returncode == 130, (moment, message)
    assert message.splitlines()[-1].startswith(STOPPED), (moment, message)
    return message


@pytest.mark.parametrize(
    ("body", "number", "code", "written"),
    [
        (LOADING, signal.SIGINT, 130, ""),
        (IN_ORDER, signal.SIGINT, 130, "closed\n"),
        (IN_ORDER, signal.SIGTERM, 143, "closed\n"),
        (IN_ORDER, signal.SIGHUP, 129, "closed\n"),
        (SWALLOWED, signal.SIGINT, 130, "swallowed\nreported\n"),
        (NO_REPORT, signal.SIGINT, 130, "swallowed\n"),
    ],
    ids=["loading", "in order", "SIGTERM", "SIGHUP", "swallowed", "server that hangs"],
)
def test_a_signal_ends_the_process_and_its_children(body, number, code, written, tmp_path) -> None:
    process = start_program(body, tmp_path)
    output, message = stop(process, number)
    assert (process.returncode, output) == (code, written)
    assert message.startswith(STOPPED)
    assert len(message.splitlines()) == 1
    assert find_marked(tmp_path) == {}


def test_a_second_signal_ends_it_at_once(tmp_path) -> None:
    process = start_program(SWALLOWED, tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "swallowed\n"
    output, message = stop(process)
    assert (process.returncode, output) == (130, "")
    assert message.count(STOPPED) == 1


def test_a_signal_that_the_parent_ignores_stays_ignored(tmp_path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = start_program("print('now', flush=True); time.sleep(0.5)", tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0
    os.kill(next(iter(find_marked(tmp_path))), signal.SIGKILL)


@pytest.mark.parametrize("flow", ["pipeline", "predict", "retrain"])
def test_each_flow_is_stopped_while_it_loads(flow: str, tmp_path: Path) -> None:
    sources = ["--sources", str(tmp_path)] if flow == "retrain" else []  # a missing source ends it before
    arguments = [f"flows/{flow}.py", "--workspace", str(tmp_path / "workspace"), *sources]
    process = start_flow(arguments, make_environment(tmp_path))
    time.sleep(0.3)
    check_stop(process)
    assert find_marked(tmp_path) == {}


MOMENTS = [
    (None, 0.0),
    ("Starting Prefect", 0.3),
    ("server of its own", 0.5),
    ("fetch_source ...", 0.0),
    ("ingest_images ...", 0.0),
    ("preprocess_images ...", 0.0),
    ("prepare_backbone ...", 1.0),
    ("extract_features ...", 0.5),
    ("train_model ...", 0.2),
    ("cross_validate_fold ...", 0.1),
    ("publish_run ...", 0.5),
]
"""Text on standard error, and seconds after it."""


@pytest.mark.system
@pytest.mark.parametrize("flow", ["pipeline", "retrain"])
def test_ctrl_c_at_any_moment_leaves_no_process_and_a_usable_workspace(flow, source_zip, tmp_path) -> None:
    home, settings = tmp_path / "prefect", tmp_path / "settings.yaml"
    source = {"source": str(source_zip)} if flow == "pipeline" else {"sources": [str(source_zip)]}
    settings.write_text(str(SMALL | source | {"workspace": str(tmp_path / "workspace"), "seed": 7}))
    arguments = [f"flows/{flow}.py", "--config", str(settings)]
    moments = MOMENTS if flow == "pipeline" else [("prepare_backbone ...", 0.5), ("challenge_champion ...", 0.0)]
    for word, seconds in moments:
        process = start_flow(arguments, make_environment(home))
        assert process.stderr is not None
        lines = [""]
        while word is not None and word not in lines[-1]:
            lines.append(process.stderr.readline())
            assert lines[-1], (word, "".join(lines))
        time.sleep(seconds)
        check_stop(process, word)
        assert find_marked(home) == {}, word
    states = list_states(home)
    assert states
    assert set(states) == {"CRASHED"}
    done = start(arguments, make_environment(home))
    output, message = done.communicate(timeout=300)
    assert done.returncode == 0, message
    assert Path(output.strip()).is_dir()
    assert find_leftovers(tmp_path / "workspace") == []


@pytest.mark.system
def test_ctrl_c_does_not_wait_for_a_server_that_hangs(source_zip: Path, tmp_path: Path) -> None:
    prefect, settings = make_prefect(tmp_path / "prefect"), tmp_path / "settings.yaml"
    settings.write_text(str(SMALL | {"source": str(source_zip), "workspace": str(tmp_path / "workspace")}))
    with prefect.serve() as server:
        environment = make_environment(tmp_path) | prefect.environment
        process = start(["flows/pipeline.py", "--config", str(settings)], environment)
        assert process.stderr is not None
        assert any("prepare_backbone ..." in line for line in process.stderr)
        os.killpg(server.pid, signal.SIGSTOP)
        try:
            check_stop(process)
        finally:
            os.killpg(server.pid, signal.SIGCONT)


@pytest.mark.system
def test_ctrl_c_reaches_no_worker_of_a_local_cluster(source_zip: Path, tmp_path: Path) -> None:
    home, settings = tmp_path / "prefect", tmp_path / "settings.yaml"
    runner = {"runner": {"kind": "dask"}, "workspace": str(tmp_path / "workspace")}
    settings.write_text(str(SMALL | runner | {"source": str(source_zip)}))
    process = start(["flows/pipeline.py", "--config", str(settings)], make_environment(home))
    assert process.stderr is not None
    assert any("fingerprint_images ..." in line for line in process.stderr)
    assert "Traceback" not in check_stop(process)
    assert find_marked(home) == {}
    assert list_states(home) == ["CRASHED"]


def list_states(home: Path) -> list[str]:
    """Of all flow runs in the database of a Prefect."""
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        return [state for (state,) in database.execute("SELECT state_type FROM flow_run")]
