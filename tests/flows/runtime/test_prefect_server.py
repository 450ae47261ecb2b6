"""The Prefect server that a run uses; a server of its own starts and ends with the run."""

import os
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.flows.servers import answer_json, find_marked, make_environment, wait_for
from tests.processes import run_python
from tests.sources.remote.web_server import serve

USE_SERVER = """
import os, sys
from flows.cli.flow_runs import show_progress_lines
from flows.runtime.prefect_server import open_server

show_progress_lines(sys.stderr)
with open_server() as server:
    print("started" if server.is_own else "waiting", os.environ.get("PREFECT_API_URL"), flush=True)
    from prefect.settings import PREFECT_API_URL

    server.wait_until_ready()
    print("own" if server.is_own else "named", PREFECT_API_URL.value(), flush=True)
    {then}
print("after", PREFECT_API_URL.value())
"""
MANY_TASK_RUNS = """
    from prefect import flow, task

    @task
    def count(number):
        return number

    @flow
    def count_all():
        return sum(future.result() for future in [count.submit(number) for number in range(150)])

    print("sum", count_all())
"""
END_TIMEOUT_SECONDS = 15.0


def use_server(environment: dict[str, str], folder: Path, then: str = "") -> subprocess.CompletedProcess[str]:
    return run_python("-c", USE_SERVER.format(then=then.strip()), environment=environment, cwd=folder)


def answers(api_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture
def named() -> Iterator[str]:
    """The address of a server that answers with its version."""
    with serve(answer_json("3.8.8")) as port:
        yield f"http://127.0.0.1:{port}/api"


@pytest.mark.parametrize(
    ("place", "content"),
    [
        (None, ""),
        ("prefect/profiles.toml", 'active = "team"\n[profiles.team]\nPREFECT_API_URL = "{}"\n'),
        (".env", "PREFECT_API_URL={}\n"),
        ("prefect.toml", '[api]\nurl = "{}"\n'),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "{}"\n'),
    ],
    ids=["environment", "profile", "dotenv", "prefect.toml", "pyproject.toml"],
)
def test_a_server_that_is_named_is_used(
    place: str | None, content: str, named: str, home: Path, tmp_path: Path
) -> None:
    if place:
        (tmp_path / place).write_text(content.format(named))
    settings = {} if place else {"PREFECT_API_URL": named}
    done = use_server(make_environment(home, **settings), tmp_path)
    assert done.returncode == 0, done.stderr
    said = named if place is None else None
    assert done.stdout.splitlines() == [f"waiting {said}", f"named {named}", f"after {named}"]
    assert "prefect server start" not in done.stderr
    assert not (home / "prefect.db").exists()


def test_where_none_is_named_and_none_may_be_started_an_error_is_raised(home: Path, tmp_path: Path) -> None:
    done = use_server(make_environment(home, PREFECT_SERVER_EPHEMERAL_ENABLED="false"), tmp_path)
    assert done.returncode == 1
    assert "DeploymentError: prefect: no server is named, and PREFECT_SERVER_EPHEMERAL_ENABLED" in done.stderr
    assert find_marked(home) == {}


@pytest.mark.system
def test_where_none_is_named_the_run_has_one_of_its_own_that_stores_all_events(home: Path, tmp_path: Path) -> None:
    done = use_server(make_environment(home), tmp_path, then=MANY_TASK_RUNS)
    assert done.returncode == 0, done.stderr
    started, own, result, after = done.stdout.splitlines()
    assert started == own.replace("own", "started")
    assert own.startswith("own http://127.0.0.1:")
    assert result == f"sum {sum(range(150))}"
    assert after == "after None"
    assert "export PREFECT_API_URL=http://127.0.0.1:4200/api" in done.stderr
    assert "Warning" not in done.stderr
    assert not answers(own.removeprefix("own "))
    assert find_marked(home) == {}
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        states = database.execute("SELECT state_type, COUNT(*) FROM task_run GROUP BY 1").fetchall()
        events = database.execute("SELECT COUNT(*) FROM events WHERE event = 'prefect.task-run.Completed'").fetchall()
        runs = database.execute("SELECT state_type FROM flow_run").fetchall()
    assert (states, events, runs) == ([("COMPLETED", 150)], [(150,)], [("COMPLETED",)])


@pytest.mark.system
def test_a_profile_that_names_none_leaves_the_run_with_one_of_its_own(home: Path, tmp_path: Path) -> None:
    (home / "profiles.toml").write_text('active = "here"\n[profiles.here]\nPREFECT_SERVER_EPHEMERAL_ENABLED = "true"\n')
    done = use_server(make_environment(home), tmp_path)
    assert done.returncode == 0, done.stderr
    waiting, own, after = done.stdout.splitlines()
    assert (waiting, after) == ("waiting None", "after None")  # Prefect was asked first
    assert own.startswith("own http://127.0.0.1:")
    assert find_marked(home) == {}


@pytest.mark.system
@pytest.mark.parametrize("word", ["started", "own"], ids=["while it starts", "when it serves"])
def test_an_own_server_ends_with_a_process_that_is_killed(word: str, home: Path, tmp_path: Path) -> None:
    code = USE_SERVER.format(then="input()")
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=make_environment(home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith(word))
        assert word == "started" or answers(line.split()[1])
        assert len(find_marked(home)) == 2
        os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: find_marked(home) == {}, END_TIMEOUT_SECONDS)


@pytest.mark.parametrize(
    ("option", "value", "exit_code"),
    [("--training.epochs", "0", 2), ("--source", "/no/such.zip", 1)],
    ids=["setting", "source"],
)
def test_what_cannot_run_is_refused_without_the_server_and_leaves_none(
    option: str, value: str, exit_code: int, home: Path
) -> None:
    workspace = ("--workspace", home.parent / "workspace")
    done = run_python("flows/pipeline.py", option, value, *workspace, environment=make_environment(home))
    assert done.returncode == exit_code
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)
    assert done.stderr.startswith("error: ")
    assert find_marked(home) == {}
    assert not (home / "prefect.db").exists()


def test_importing_the_flows_loads_nothing_that_their_beginning_does_not_need() -> None:
    heavy = "{'keras', 'tensorflow', 'openvino', 'sklearn', 'matplotlib', 'seaborn', 'pydicom', 'aiohttp', 'dask'}"
    code = f"import flows.pipeline, flows.predict, flows.retrain, sys; print(sorted({heavy} & sys.modules.keys()))"
    assert run_python("-c", code).stdout == "[]\n"
