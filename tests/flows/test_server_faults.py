"""Failures during a run: of Prefect's server, of its database, of the process that runs the flow."""

import json
import os
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import closing
from http.client import SERVICE_UNAVAILABLE
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tests.faults.results import find_differences, find_leftovers, hash_results
from tests.flows.servers import PREFECT, Prefect, make_prefect, wait_for
from tests.flows.test_pipeline import SMALL

MIN_LOCKED_SECONDS = 75
"""Prefect's server waits 60 for SQLite; then its calls fail."""

FAILS_WITHIN_SECONDS = 300.0
"""A run whose server is gone must not hang; far more than it takes."""


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Prefect:
    return make_prefect(tmp_path_factory.mktemp("prefect"))


def start_pipeline(settings: Path) -> list[str]:
    return [sys.executable, "-m", "flows.pipeline", "--config", str(settings)]


@pytest.fixture(scope="module")
def settings(source_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs share one workspace's path, since it stands in `config.yaml`."""
    folder = tmp_path_factory.mktemp("run")
    file = folder / "settings.yaml"
    file.write_text(json.dumps(SMALL | {"source": str(source_zip), "workspace": str(folder / "workspace"), "seed": 7}))
    return file


def start_anew(settings: Path) -> Path:
    workspace = settings.parent / "workspace"
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir()
    (workspace / "pseudonyms.key").write_bytes(bytes(32))  # hashes of patients follow from it
    (workspace / "pseudonyms.key").chmod(0o600)
    return workspace


@pytest.fixture(scope="module")
def undisturbed(prefect: Prefect, settings: Path) -> dict[str, str]:
    workspace = start_anew(settings)
    with prefect.serve(), prefect.keep_running(start_pipeline(settings), "undisturbed") as process:
        assert process.wait(timeout=300) == 0, prefect.log("undisturbed").read_text()
    return hash_results(workspace)


@pytest.mark.system
def test_fault_63_a_run_whose_server_dies_says_so_and_the_next_one_ends_the_same(
    prefect: Prefect, settings: Path, undisturbed: dict[str, str]
) -> None:
    workspace = start_anew(settings)
    impatient = {"PREFECT_CLIENT_MAX_RETRIES": "1"}  # else it takes minutes
    with prefect.serve() as server, prefect.keep_running(start_pipeline(settings), "orphan", impatient) as process:
        wait_for(workspace.joinpath("manifest.parquet").exists, process=process)
        os.killpg(server.pid, signal.SIGKILL)
        assert process.wait(timeout=FAILS_WITHIN_SECONDS) == 1
    words = prefect.log("orphan").read_text()
    assert "error: prefect: the server that PREFECT_API_URL or the profile names does not answer" in words
    assert "Traceback" not in words
    assert "Error logging" not in words
    end_the_same(prefect, settings, undisturbed)


@pytest.mark.system(ci=True)
def test_fault_63_a_run_whose_process_dies_is_marked_as_crashed_and_the_next_one_ends_the_same(
    prefect: Prefect, settings: Path, undisturbed: dict[str, str]
) -> None:
    """Prefect's worker detects it; heartbeats, see `deployments`, detect a worker that dies as well."""
    workspace = start_anew(settings)
    config = json.loads(settings.read_text())
    with prefect.serve():
        prefect.run(["work-pool", "create", "hip-mri", "--type", "process"])
        prefect.run(["--no-prompt", "deploy", "--all"])
        with prefect.keep_running([PREFECT, "worker", "start", "--pool", "hip-mri"], "worker") as worker:
            prefect.run(["deployment", "run", "hip-pipeline/default", "--param", f"config={json.dumps(config)}"])
            wait_for(workspace.joinpath("manifest.parquet").exists, process=worker)
            os.kill(find_holder(workspace), signal.SIGKILL)
            wait_for(lambda: list_states(prefect)[-1:] == ["CRASHED"], process=worker)
    end_the_same(prefect, settings, undisturbed)


@pytest.mark.system
def test_fault_64_a_database_that_is_locked_for_a_while_ends_no_run(
    prefect: Prefect, settings: Path, undisturbed: dict[str, str]
) -> None:
    workspace = start_anew(settings)
    with prefect.serve(), prefect.keep_running(start_pipeline(settings), "patient") as process:
        wait_for(workspace.joinpath("manifest.parquet").exists, process=process)
        with closing(sqlite3.connect(prefect.folder / "prefect.db", isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            end = time.monotonic() + MIN_LOCKED_SECONDS
            with pytest.raises(HTTPError) as refused:
                prefect.ask_once("/flows/", {"name": "of this test"})
            time.sleep(max(0, end - time.monotonic()))
            database.rollback()
        assert refused.value.code == SERVICE_UNAVAILABLE
        assert process.wait(timeout=300) == 0, prefect.log("patient").read_text()
    assert find_differences(undisturbed, hash_results(workspace)) == []


def end_the_same(prefect: Prefect, settings: Path, expected: dict[str, str]) -> None:
    workspace = settings.parent / "workspace"
    with prefect.serve(), prefect.keep_running(start_pipeline(settings), "again") as process:
        assert process.wait(timeout=300) == 0, prefect.log("again").read_text()
    assert find_differences(expected, hash_results(workspace)) + find_leftovers(workspace) == []


def find_holder(workspace: Path) -> int:
    """The process that holds the workspace, as its lock says."""
    return json.loads((workspace / ".lock").read_text())["process"]


def list_states(prefect: Prefect) -> list[str]:
    """Of all flow runs, the latest last."""
    return [run["state_type"] for run in prefect.ask("/flow_runs/filter", {"sort": "START_TIME_ASC"})]
