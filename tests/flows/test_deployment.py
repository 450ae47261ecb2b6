"""The server for one user of `docs/deployment.md`: `serve`, and a work pool with a worker."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from flows import serve
from tests.flows.servers import PREFECT, Prefect, make_prefect, wait_for
from tests.flows.test_pipeline import SMALL
from tests.processes import PROJECT, run_python


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    prefect = make_prefect(tmp_path_factory.mktemp("prefect"))
    with prefect.serve():
        yield prefect


def run_default(prefect: Prefect, source: Path, workspace: Path) -> list[str]:
    """Run the deployment to its end; returns the lines of its log."""
    config = SMALL | {"source": str(source), "workspace": str(workspace)}
    prefect.run(
        [
            *("deployment", "run", "hip-pipeline/default", "--watch", "--watch-timeout", "240"),
            *("--param", f"config={json.dumps(config)}"),
        ],
        timeout_seconds=300,
    )
    run = prefect.ask("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
    logs = prefect.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200})
    return [line["message"] for line in logs]


@pytest.mark.system
def test_deployment_runs_by_serve(prefect: Prefect, source_zip: Path, tmp_path: Path) -> None:
    with prefect.keep_running([sys.executable, "flows/serve.py"], "serve"):
        wait_for(lambda: "hip-predict/default" in prefect.log("serve").read_text())
        logs = run_default(prefect, source_zip, tmp_path / "workspace")
        deployments = {deployment["name"]: deployment for deployment in prefect.ask("/deployments/filter", {})}
    assert (tmp_path / "workspace/runs/0001/report.html").exists()
    assert any(line.startswith("Epoch 3 of 3") for line in logs), "the environment of prefect.yaml is not applied"
    assert {deployment["work_pool_name"] for deployment in deployments.values()} == {None}
    (schedule,) = deployments["scheduled"]["schedules"]
    assert (schedule["schedule"]["cron"], schedule["active"]) == ("0 3 1 * *", False)
    assert [item["name"] for item in prefect.ask("/automations/filter", {})] == ["hip-mri data arrived"]


@pytest.mark.system(ci=True)
def test_deployment_runs_on_a_worker(prefect: Prefect, source_zip: Path, tmp_path: Path) -> None:
    prefect.run(["work-pool", "create", "hip-mri", "--type", "process"])
    prefect.run(["--no-prompt", "deploy", "--all"])
    with prefect.keep_running([PREFECT, "worker", "start", "--pool", "hip-mri"], "worker"):
        logs = run_default(prefect, source_zip, tmp_path / "workspace")
        artifacts = {item["key"]: item for item in prefect.ask("/artifacts/filter", {})}

    runs = list((tmp_path / "workspace" / "runs").iterdir())
    assert [run.name for run in runs] == ["0001"]
    assert (runs[0] / "report.html").exists()
    assert {"preprocess-images", "extract-features", "train-model", "epochs", "metrics", "report"} <= set(artifacts)
    assert artifacts["train-model"]["data"] == 100.0
    assert artifacts["report"]["data"].count("data:image/png;base64,") >= 5
    assert len(artifacts["report"]["data"]) <= 500_000
    assert any(line.startswith("Epoch 3 of 3") for line in logs), (
        "log lines of the library are not in the log of the flow run"
    )
    served = run_python("flows/serve.py", environment=prefect.environment)
    assert served.returncode == 1
    assert "hip-retrain/scheduled (work pool hip-mri)" in served.stderr


def test_serve_reads_every_deployment_of_the_file() -> None:
    entries = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    for entry in entries:
        served = serve.read_deployment(entry)
        assert (served.name, served.entrypoint, served.tags) == (entry["name"], entry["entrypoint"], entry["tags"])
        assert (served.description, served.work_pool_name) == (entry["description"], None)
        assert served.parameters == entry.get("parameters", {})
        assert served.concurrency_limit == entry["concurrency_limit"]["limit"]
        assert len(served.schedules or []) == len(entry.get("schedules", []))
        assert [trigger.name for trigger in served.triggers] == [item["name"] for item in entry.get("triggers", [])]
    with pytest.raises(TypeError, match="pull"):
        serve.read_deployment(entries[0] | {"pull": []})


@pytest.mark.parametrize(
    ("url", "text"), [("", "PREFECT_API_URL is not set"), ("http://anna:secret@127.0.0.1:9/api", "http://127.0.0.1:9/")]
)
def test_serve_without_a_server_is_refused(url: str, text: str, tmp_path: Path) -> None:
    prefect = make_prefect(tmp_path)
    done = run_python("flows/serve.py", environment=prefect.environment | {"PREFECT_API_URL": url})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert text in done.stderr
    assert "secret" not in done.stderr


def test_every_setting_is_described_in_the_form() -> None:
    from flows.pipeline import hip_pipeline

    definitions = hip_pipeline.parameters.definitions
    groups = [definition for name, definition in definitions.items() if name.endswith(("Settings", "Config"))]
    fields = [field for group in groups for field in group["properties"].items()]
    assert len(fields) > 25
    assert [name for name, field in fields if not (field.get("description") or "$ref" in field)] == []
