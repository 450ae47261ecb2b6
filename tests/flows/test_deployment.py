"""The server for one user of `docs/deployment.md`: a work pool, `prefect deploy`, a worker, a run of a deployment."""

import json
from pathlib import Path

import pytest

from tests.flows.servers import PREFECT, make_prefect
from tests.flows.test_pipeline import SMALL


@pytest.mark.system
def test_deployment_runs_on_a_worker(source_zip: Path, tmp_path: Path) -> None:
    config = SMALL | {"source": str(source_zip), "workspace": str(tmp_path / "workspace")}
    prefect = make_prefect(tmp_path / "prefect")
    with prefect.serve():
        prefect.run(["work-pool", "create", "hip-mri", "--type", "process"])
        prefect.run(["--no-prompt", "deploy", "--all"])
        with prefect.keep_running([PREFECT, "worker", "start", "--pool", "hip-mri"], "worker"):
            prefect.run(
                [
                    *("deployment", "run", "hip-pipeline/default", "--watch", "--watch-timeout", "240"),
                    *("--param", f"config={json.dumps(config)}"),
                ],
                timeout_seconds=300,
            )
            artifacts = {item["key"]: item for item in prefect.ask("/artifacts/filter", {})}
            logs = [line["message"] for line in prefect.ask("/logs/filter", {"limit": 200})]

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


def test_every_setting_is_described_in_the_form() -> None:
    from flows.pipeline import hip_pipeline

    definitions = hip_pipeline.parameters.definitions
    groups = [definition for name, definition in definitions.items() if name.endswith(("Settings", "Config"))]
    fields = [field for group in groups for field in group["properties"].items()]
    assert len(fields) > 25
    assert [name for name, field in fields if not (field.get("description") or "$ref" in field)] == []
