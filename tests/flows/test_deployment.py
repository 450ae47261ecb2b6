"""The README's way: a real server, a work pool, `prefect deploy`, a real worker process, a run of the deployment."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.flows.test_pipeline import SMALL

PROJECT = Path(__file__).parents[2]
PREFECT = str(Path(sys.executable).with_name("prefect"))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return make_environment(tmp_path)


def make_environment(folder: Path) -> dict[str, str]:
    """A Prefect of its own: database, profile and port; nothing of the test harness."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return inherited | {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_API_PORT": port,
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


@contextmanager
def in_background(arguments: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("w") as stream:
        process = subprocess.Popen(
            [PREFECT, *arguments], env=environment, cwd=PROJECT, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def prefect(arguments: list[str], environment: dict[str, str], timeout_seconds: int = 120) -> str:
    done = subprocess.run(
        [PREFECT, *arguments],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(environment: dict[str, str], path: str, question: dict | None = None) -> object:
    request = urllib.request.Request(
        environment["PREFECT_API_URL"] + path,
        data=None if question is None else json.dumps(question).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def wait_until_healthy(environment: dict[str, str], log: Path) -> None:
    for _ in range(120):
        try:
            ask(environment, "/health")
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail("the server does not answer\n" + log.read_text())


@pytest.mark.system
def test_deployment_runs_on_a_worker(environment: dict[str, str], source_zip: Path, tmp_path: Path) -> None:
    config = SMALL | {"source": str(source_zip), "workspace": str(tmp_path / "workspace")}
    with in_background(["server", "start"], environment, tmp_path / "server.log"):
        wait_until_healthy(environment, tmp_path / "server.log")
        prefect(["work-pool", "create", "hip-mri", "--type", "process"], environment)
        prefect(["--no-prompt", "deploy", "--all"], environment)
        with in_background(["worker", "start", "--pool", "hip-mri"], environment, tmp_path / "worker.log"):
            prefect(
                [
                    *("deployment", "run", "hip-pipeline/default", "--watch", "--watch-timeout", "240"),
                    *("--param", f"config={json.dumps(config)}"),
                ],
                environment,
                timeout_seconds=300,
            )
            artifacts = {item["key"]: item for item in ask(environment, "/artifacts/filter", {})}
            logs = [line["message"] for line in ask(environment, "/logs/filter", {"limit": 200})]

    runs = list((tmp_path / "workspace" / "runs").iterdir())
    assert [run.name for run in runs] == ["0001"]
    assert (runs[0] / "report.html").exists()
    assert {"preprocess-images", "extract-features", "train-model", "epochs", "metrics", "report"} <= set(artifacts)
    assert artifacts["train-model"]["data"] == 100.0
    assert artifacts["report"]["data"].count("data:image/png;base64,") >= 5
    assert len(artifacts["report"]["data"]) <= 500_000
    assert any(line.startswith("Epoch 3 of 3") for line in logs), "the library's lines are not in the run's log"


def test_every_setting_has_its_place_in_the_form() -> None:
    from flows.pipeline import hip_pipeline

    definitions = hip_pipeline.parameters.definitions
    groups = [definition for name, definition in definitions.items() if name.endswith(("Settings", "Config"))]
    fields = [field for group in groups for field in group["properties"].items()]
    assert len(fields) > 25
    assert [name for name, field in fields if not (field.get("description") or "$ref" in field)] == []
