"""A retraining that waits for approval survives the end of Prefect's server and worker."""

import json
import os
import signal
from pathlib import Path

import pytest

from hip_mri.hashes import digest_file
from hip_mri.promotion.comparison_records import find_waiting
from hip_mri.registry.audit import read_decisions
from hip_mri.registry.champion import read_champion
from hip_mri.registry.registration import register_version
from hip_mri.registry.release_checks import check_audit_log
from hip_mri.workspace import Workspace
from tests.flows.servers import PREFECT, make_prefect, wait_for
from tests.flows.test_retrain import GOOD, LENIENT, deliver

WORKER = [PREFECT, "worker", "start", "--pool", "hip-mri"]
ANSWER = {"decision": "promote", "reason": "reviewed the figures", "name": "Ada"}


@pytest.mark.system(ci=True)
def test_the_compared_model_is_promoted_after_server_and_worker_were_killed(tmp_path: Path) -> None:
    workspace, incoming = Workspace(tmp_path / "workspace"), tmp_path / "incoming"
    deliver(incoming, "first", 120, seed=0)
    config = {
        "sources": [str(incoming)],
        "workspace": str(workspace.root),
        "data": {"val_fraction": 0.2, "test_fraction": 0.25, "patient_pattern": r"(\w+p\d+)\.png"},
        "preprocessing": {"image_size": 32},
        "model": {"backbone": "ResNet50", "weights": "random", "hidden_units": 32},
        "training": GOOD,
        "evaluation": {"num_resamples": 200, "cross_validation_seeds": 0},
        "retrain": {"min_new_images": 5, "approval": "person"},
        "release": LENIENT,
    }
    prefect = make_prefect(tmp_path / "prefect")

    def read_runs() -> list[dict]:
        return prefect.ask("/flow_runs/filter", {})

    with prefect.serve() as server:
        prefect.run(["work-pool", "create", "hip-mri", "--type", "process"])
        prefect.run(["--no-prompt", "deploy", "--all"])
        with prefect.keep_running(WORKER, "worker") as worker:
            prefect.run(["deployment", "run", "hip-retrain/scheduled", "--param", f"config={json.dumps(config)}"])
            wait_for(lambda: read_runs()[0]["state_type"] in ("PAUSED", "FAILED", "CRASHED"), 400.0, worker)
            assert read_runs()[0]["state_name"] == "Suspended", prefect.log("worker").read_text()
            with workspace.hold(timeout_seconds=60):  # no process of the flow run is left
                pass
            for process in (worker, server):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    (compared,) = find_waiting(workspace)
    sha256 = compared.challenge.challenger.model_sha256
    register_version(workspace, workspace.runs_folder / "0001")  # another version, and other images, come meanwhile
    deliver(incoming, "second", 10, seed=1)
    assert read_champion(workspace) is None

    with prefect.serve(), prefect.keep_running(WORKER, "worker again") as worker:
        run = read_runs()[0]
        prefect.ask(f"/flow_runs/{run['id']}/resume", {"run_input": ANSWER})
        wait_for(lambda: read_runs()[0]["state_type"] in ("COMPLETED", "FAILED", "CRASHED"), 300.0, worker)
        assert read_runs()[0]["state_name"] == "Promoted", prefect.log("worker again").read_text()

    champion = read_champion(workspace)
    assert champion is not None
    assert champion.number == compared.challenge.challenger.number
    assert digest_file(champion.model_file) == sha256
    assert [folder.name for folder in workspace.runs_folder.iterdir()] == ["0001"]  # nothing was trained again
    (decision,) = read_decisions(workspace)
    assert (decision.decided_by, decision.decided_how) == ("Ada", "by approval")
    assert decision.reason == ANSWER["reason"]
    assert check_audit_log(workspace) == []
