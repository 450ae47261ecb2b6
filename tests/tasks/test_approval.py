"""Manual approval in the Prefect UI."""

import threading
import time
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterStateName
from prefect.context import FlowRunContext
from prefect.flow_runs import resume_flow_run

from hip_mri.config import RetrainSettings
from hip_mri.promotion.challenge import Answer, Challenge
from hip_mri.promotion.gate import Decision
from hip_mri.registry.versions import Version
from tasks import approval
from tasks.approval import ask_for_approval

pytestmark = pytest.mark.usefixtures("prefect_server")

MEASURES = {
    "auc": 0.9,
    "average_precision": 0.8,
    "brier": 0.1,
    "at_threshold": {"sensitivity": 0.85, "specificity": 0.8},
    "intervals": {"auc": [0.85, 0.94], "at_threshold": {}},
}


def make_challenge(*, promote: bool = True) -> Challenge:
    versions = [Version(number, Path(), f"000{number}", None, {}, "0" * 64, "2026") for number in (1, 2)]
    decision = Decision(promote=promote, reasons=("AUC 0.900 against 0.850.", "It is shown to be better."))
    return Challenge(versions[1], versions[0], decision, {"challenger": MEASURES, "champion": MEASURES})


ANSWERS: list[Answer] = []


@flow
def decide(seconds: float) -> None:
    settings = RetrainSettings(approval="person", approval_timeout_hours=seconds / 3600)
    ANSWERS[:] = [ask_for_approval(make_challenge(), settings)]


def wait_for_pause(client: SyncPrefectClient, known: set[UUID]) -> UUID:
    paused = FlowRunFilter.model_validate({"state": {"name": FlowRunFilterStateName(any_=["Paused"])}})
    for _ in range(120):
        runs = [run for run in client.read_flow_runs(flow_run_filter=paused) if run.id not in known]
        if runs:
            return runs[0].id
        time.sleep(0.25)
    raise AssertionError("the flow run did not pause")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            {"promote": True, "reason": "the scanner's new sequence"},
            Answer(True, "promote: the scanner's new sequence"),
        ),
        ({"promote": False}, Answer(False, "keep the champion")),
    ],
)
def test_the_answer_of_a_person_is_taken(said, expected, monkeypatch):
    monkeypatch.setattr(approval, "POLL_INTERVAL_SECONDS", 0.5)
    asked = threading.Thread(target=decide, args=(120.0,))
    with get_client(sync_client=True) as client:
        asked.start()
        run = wait_for_pause(client, set())
        keyset = client.read_flow_run(run).state.state_details.run_input_keyset
        description = client.read_flow_run_input(run, keyset["description"]) if keyset else ""
        resume_flow_run(run, run_input=said)
    asked.join(timeout=60)
    assert [expected] == ANSWERS
    assert "version 0002" in description
    assert "| AUC | 0.900 | 0.900 |" in description


def test_without_an_answer_the_champion_stays(monkeypatch):
    monkeypatch.setattr(approval, "POLL_INTERVAL_SECONDS", 0.5)
    decide(2.0)
    assert [Answer(promote=None)] == ANSWERS


def test_no_approval_is_requested_without_need():
    assert FlowRunContext.get() is None  # to pause would fail here
    assert ask_for_approval(make_challenge(), RetrainSettings()) == Answer()
    assert ask_for_approval(make_challenge(promote=False), RetrainSettings(approval="person")) == Answer()
