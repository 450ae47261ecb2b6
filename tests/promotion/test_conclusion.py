"""A decision applies to exactly the compared model, whatever happened since."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hip_mri.errors import ReleaseError
from hip_mri.promotion.comparison_records import (
    ComparedRetraining,
    find_comparison_of_flow_run,
    find_waiting,
    find_waiting_version,
    read_comparison,
    store_comparison,
)
from hip_mri.promotion.conclusion import Answer, conclude_retraining, conclude_unanswered
from hip_mri.promotion.retraining_report import describe_comparison
from hip_mri.registry.audit import read_decisions
from hip_mri.registry.champion import promote, read_champion, roll_back
from hip_mri.registry.registration import register_version
from hip_mri.registry.release_checks import check_audit_log
from hip_mri.workspace import Workspace
from tests.promotion.challenges import make_compared
from tests.promotion.test_retraining_report import list_rows

REASONS = "AUC 0.900 against 0.850. It is shown to be better."
YES = Answer(True, "reviewed", "Ada")
NO = Answer(False, "too few patients", "Grace")


@pytest.fixture
def versions(workspace, write_run):
    """A champion, and two challengers whose retraining has not ended."""
    rows = list_rows(["train", "train", "val", "test"]).to_csv(index=False).encode()
    made = [
        register_version(workspace, write_run(further={"manifest.csv": rows}), is_challenger=bool(number))
        for number in range(3)
    ]
    promote(workspace, made[0], "first")
    return made


def store(workspace: Workspace, compared: ComparedRetraining) -> ComparedRetraining:
    return store_comparison(workspace, compared, describe_comparison(workspace, compared))


def test_a_comparison_is_read_as_it_was_stored_also_when_the_workspace_was_moved(workspace, versions, tmp_path):
    compared = make_compared(versions[1], versions[0], flow_runs=("run-1",))
    stored = store(workspace, compared)
    assert replace(stored, stored_at="", folder=Path()) == compared
    moved = Workspace(shutil.copytree(workspace.root, tmp_path / "moved"))
    found = find_comparison_of_flow_run(moved, "run-1")
    assert found is not None
    assert found.challenge.challenger.folder == moved.versions_folder / "0002"
    assert found.challenge.decision == compared.challenge.decision
    assert find_comparison_of_flow_run(moved, "run-2") is None


def test_a_person_reads_what_the_decision_depends_on(workspace, versions):
    text = describe_comparison(workspace, make_compared(versions[1], versions[0]))
    for fact in (
        *(
            "SYNTHETIC DATA",
            "0.900 (0.850\N{EN DASH}0.940)",
            "0.850 (0.850\N{EN DASH}0.940)",
            "40 images of 30 patients",
        ),
        *("18 images of 12 patients", "comparison 3", "can promote a model: 21", "3 images are new since version 0001"),
        versions[1].model_sha256[:16],
    ):
        assert fact in text
    assert "\n\n\n\n" not in text


@pytest.mark.parametrize(
    ("answer", "outcome", "champion", "decision"),
    [
        (YES, "promoted", 2, ("promotion", "by approval", "Ada", "reviewed")),
        (NO, "declined", 1, ("rejection", "by approval", "Grace", "too few patients")),
        (
            None,
            "promoted",
            2,
            ("promotion", "by the gate", "monthly", REASONS),
        ),
    ],
)
def test_an_answer_is_applied_once(answer, outcome, champion, decision, workspace, versions):
    compared = store(workspace, make_compared(versions[1], versions[0]))
    first, second = (conclude_retraining(workspace, compared, answer, "monthly") for _ in range(2))
    assert (first.outcome, first.folder) == (second.outcome, second.folder)
    assert first.outcome == outcome
    assert read_champion(workspace) == versions[champion - 1]
    _, made = read_decisions(workspace)
    assert (made.action, made.decided_how, made.decided_by, made.reason) == decision
    assert made.model_sha256 == versions[1].model_sha256
    assert find_waiting(workspace) == []
    assert check_audit_log(workspace) == []
    report = json.loads((first.folder / "retraining.json").read_text())
    assert report["notices"] == ["SYNTHETIC DATA: no patient is shown."]


def test_the_champion_of_the_comparison_must_still_be_champion(workspace, versions):
    compared = store(workspace, make_compared(versions[1], versions[0]))
    promote(workspace, versions[2], "by hand")
    assert conclude_retraining(workspace, compared, YES, "").outcome == "overtaken"
    assert read_champion(workspace) == versions[2]


def test_a_model_that_was_exchanged_is_not_promoted(workspace, versions):
    compared = store(workspace, make_compared(versions[1], versions[0]))
    versions[1].model_file.write_text("other bytes")
    with pytest.raises(ReleaseError, match=r"version 0002 .*model\.keras"):
        conclude_retraining(workspace, compared, YES, "")
    record = json.loads((versions[1].folder / "version.json").read_text())
    record["files"]["model.keras"] = record["model_sha256"] = "0" * 64
    (versions[1].folder / "version.json").write_text(json.dumps(record))
    with pytest.raises(ReleaseError, match=r"version 0002 .* 000000000000"):
        read_comparison(workspace, compared.folder)
    assert read_champion(workspace) == versions[0]


def test_a_promotion_that_was_interrupted_is_concluded(workspace, versions, monkeypatch):
    compared = store(workspace, make_compared(versions[1], versions[0]))
    with monkeypatch.context() as killing:
        killing.setattr("hip_mri.promotion.conclusion.publish_retraining", _die)
        with pytest.raises(SystemError):
            conclude_retraining(workspace, compared, YES, "")
    assert conclude_retraining(workspace, compared, YES, "").outcome == "promoted"
    assert len(read_decisions(workspace)) == 2


def _die(*_: object) -> None:
    raise SystemError


def test_without_an_answer_in_time_the_champion_stays(workspace, versions):
    store(workspace, make_compared(versions[1], versions[0], expires_at="2026-01-01T00:00:00+00:00"))
    store(workspace, make_compared(versions[2], versions[0]))
    assert conclude_unanswered(workspace, lambda _: True) == []
    assert [it.outcome for it in conclude_unanswered(workspace, lambda _: False)] == ["unanswered"]
    assert read_decisions(workspace)[-1].decided_how == "by timeout"
    assert [it.challenge.challenger for it in find_waiting(workspace)] == [versions[2]]
    with pytest.raises(ReleaseError, match="0002 does not await approval, only 0003 does"):
        find_waiting_version(workspace, 2)
    assert read_champion(workspace) == versions[0]


def test_the_same_comparison_by_two_flow_runs_is_found_by_both(workspace, versions):
    for flow_run in ("run-1", "run-2"):
        store(workspace, make_compared(versions[1], versions[0], flow_runs=(flow_run,)))
    assert find_comparison_of_flow_run(workspace, "run-1") == find_comparison_of_flow_run(workspace, "run-2")
    assert len(find_waiting(workspace)) == 1


def test_the_latest_comparison_of_a_challenger_awaits_the_answer(workspace, versions):
    promote(workspace, versions[1], "second")
    store(workspace, make_compared(versions[2], versions[1], expires_at="2026-01-01T00:00:00+00:00"))
    roll_back(workspace, 1, reason="worse")
    latest = store(workspace, make_compared(versions[2], versions[0]))  # its folder sorts before that of the first
    assert conclude_unanswered(workspace, lambda _: False) == []
    assert find_waiting_version(workspace, 3) == latest
    assert conclude_retraining(workspace, latest, YES, "").outcome == "promoted"


def test_a_repeated_comparison_replaces_a_damaged_record(workspace, versions):
    compared = make_compared(versions[1], versions[0])
    (store(workspace, compared).folder / "comparison.json").write_text("{")
    assert store(workspace, compared) == find_waiting_version(workspace, 2)


def test_a_rollback_stays_when_an_interrupted_retraining_is_repeated(workspace, versions, monkeypatch):
    promote(workspace, versions[1], "second")
    compared = store(workspace, make_compared(versions[2], versions[1]))
    with monkeypatch.context() as killing:
        killing.setattr("hip_mri.promotion.conclusion.publish_retraining", _die)
        with pytest.raises(SystemError):
            conclude_retraining(workspace, compared, YES, "")
    roll_back(workspace, 2, reason="worse")
    report = conclude_retraining(workspace, compared, NO, "")
    assert report.outcome == "promoted"
    assert read_champion(workspace) == versions[1]
    assert len(read_decisions(workspace)) == 4
    answer = json.loads((report.folder / "retraining.json").read_text())["answer"]
    assert (answer["decided_by"], answer["reason"]) == ("Ada", "reviewed")


def test_a_version_that_was_promoted_by_hand_cannot_be_declined(workspace, versions):
    compared = store(workspace, make_compared(versions[1], versions[0]))
    promote(workspace, versions[1], "urgent")
    with pytest.raises(ReleaseError, match=r"0002 .*rollback"):
        conclude_retraining(workspace, compared, NO, "")
    report = conclude_retraining(workspace, compared, Answer(None, "no answer", "nobody"), "")
    answer = json.loads((report.folder / "retraining.json").read_text())["answer"]
    assert (report.outcome, answer["method"], answer["reason"]) == ("promoted", "by hand, bypassing the gate", "urgent")


def test_a_version_can_be_declined_after_it_was_promoted_by_hand_and_rolled_back(workspace, versions):
    compared = store(workspace, make_compared(versions[1], versions[0]))
    promote(workspace, versions[1], "urgent")
    roll_back(workspace, 1, reason="worse")
    assert conclude_retraining(workspace, compared, NO, "").outcome == "declined"
