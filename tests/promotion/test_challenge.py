"""A challenger is compared with the champion on present labels, where the error that is left can show a difference."""

import json

import numpy as np
import pytest

from hip_mri.config import LABELS, ReleaseSettings
from hip_mri.errors import ReleaseError
from hip_mri.hashes import hash_files
from hip_mri.promotion.challenge import challenge_champion
from hip_mri.promotion.comparison_records import ComparedRetraining, store_comparison
from hip_mri.promotion.error_budget import plan_comparison, read_comparisons, record_comparison
from hip_mri.promotion.new_images import NewImages
from hip_mri.registry.audit import Verdict
from hip_mri.registry.champion import promote, promote_over, roll_back
from hip_mri.registry.conclusions import record_conclusion
from hip_mri.registry.registration import register_version
from hip_mri.storage import write_json
from tests.promotion.test_retraining_report import list_rows, write_images
from tests.small_runs import TEST_SET

SETTINGS = ReleaseSettings()
VERDICT = Verdict("better", "by the gate", "Ada")


@pytest.fixture
def write_scored_run(workspace, write_run):
    """Write a run with scores of the test images; `quality` separates the classes."""
    images = list_rows(["test"] * 60)
    write_images(workspace, images)

    def write(quality: float):
        noise = np.random.default_rng(0).random(len(images)) / 2
        scores = images.assign(score=noise + quality * images["label"].eq(LABELS[1]))
        files = {"predictions.csv": scores[["image_id", "split", "label", "score"]].to_csv(index=False).encode()}
        run = write_run(further=files | {"manifest.csv": images.to_csv(index=False).encode()})
        metrics = {"threshold": 0.4, "grouping": {"attributes": None, "is_patient_level": True}, "notices": []}
        write_json(run / "metrics.json", metrics | {"test": {}, "test_set": {"sha256": TEST_SET}})
        (run / "files.json").unlink()
        write_json(run / "files.json", hash_files(run))
        return run

    return write


def test_no_error_is_spent_where_no_model_can_be_promoted(workspace, write_scored_run):
    promote(workspace, register_version(workspace, write_scored_run(0.1)), "first")
    tight = ReleaseSettings(error_budget=1e-6)
    challenge = challenge_champion(workspace, write_scored_run(0.5), tight, min_size=20)
    assert (challenge.decision.promote, challenge.decision.is_judged, challenge.comparison) == (False, False, None)
    assert challenge.test_set.num_looks_left == 0
    assert read_comparisons(workspace) == []


def test_after_a_spent_budget_a_comparison_is_made_and_says_so(workspace, write_scored_run):
    promote(workspace, register_version(workspace, write_scored_run(0.1)), "first")
    once = ReleaseSettings(num_looks=1)
    record_comparison(workspace, plan_comparison(workspace, TEST_SET, "champion", "challenger", once))
    challenge = challenge_champion(workspace, write_scored_run(0.5), once, min_size=20)
    assert challenge.comparison is not None
    assert (challenge.comparison.number, challenge.comparison.alpha) == (2, 0)


def test_an_interrupted_promotion_after_a_rollback_is_the_same_comparison(workspace, write_scored_run):
    first, second = (register_version(workspace, write_scored_run(quality)) for quality in (0.1, 0.2))
    promote(workspace, first, "first")
    promote(workspace, second, "second")
    run = write_scored_run(0.5)
    challenger = register_version(workspace, run, is_challenger=True)
    roll_back(workspace, reason="missed lesions")
    made = challenge_champion(workspace, run, SETTINGS, min_size=20)
    assert (challenger.parent, made.champion) == (second.number, first)
    assert promote_over(workspace, made.champion, challenger, VERDICT)
    again = challenge_champion(workspace, run, SETTINGS, min_size=20)
    assert (again.champion, again.comparison, again.is_serving) == (first, made.comparison, True)


def test_both_models_are_measured_on_present_labels(workspace, write_scored_run):
    promote(workspace, register_version(workspace, write_scored_run(0.5)), "first")
    run = write_scored_run(0.5)
    images = list_rows(["test"] * 60)
    images.loc[:5, "label"] = LABELS[0]  # corrected after both runs: three lesions fewer
    write_images(workspace, images)
    measures = challenge_champion(workspace, run, SETTINGS, min_size=20).measures
    assert measures["challenger"]["auc"] == measures["champion"]["auc"] < 1


def test_corrected_labels_make_another_comparison(workspace, write_scored_run):
    promote(workspace, register_version(workspace, write_scored_run(0.1)), "first")
    run = write_scored_run(0.5)
    images = list_rows(["test"] * 60)
    for first_label in (1, 1, 0):
        write_images(workspace, images.assign(label=[LABELS[first_label], *images["label"][1:]]))
        challenge_champion(workspace, run, SETTINGS, min_size=20)
    assert [comparison.number for comparison in read_comparisons(workspace)] == [1, 2]


@pytest.mark.parametrize("is_missing", [True, False], ids=["missing", "older"])
def test_an_error_that_was_spent_is_not_forgotten_with_the_ledger(workspace, write_scored_run, is_missing):
    promote(workspace, register_version(workspace, write_scored_run(0.1)), "first")
    counts = NewImages(0, {}, 0, None, 0)
    for quality in (0.2, 0.3):
        made = challenge_champion(workspace, write_scored_run(quality), SETTINGS, min_size=20)
        store_comparison(workspace, ComparedRetraining(counts, None, made, 0.02), "")
        record_conclusion(workspace, made.challenger, "kept", ["not better"])
    (ledger,) = json.loads(workspace.ledger_file.read_text()).values()
    if is_missing:
        workspace.ledger_file.unlink()
    else:
        write_json(workspace.ledger_file, {TEST_SET: ledger[:1]})
    with pytest.raises(ReleaseError, match=r"ledger\.json .* 0003-over-0001\."):
        challenge_champion(workspace, write_scored_run(0.4), SETTINGS, min_size=20)


def test_excluded_images_count_for_neither_model(workspace, write_scored_run):
    promote(workspace, register_version(workspace, write_scored_run(0.1)), "first")
    run = write_scored_run(0.5)
    images = list_rows(["test"] * 60)
    write_images(workspace, images[6:])
    challenge = challenge_champion(workspace, run, SETTINGS, min_size=20)
    assert {measured["num_images"] for measured in challenge.measures.values()} == {54}
    assert sum(challenge.test_set.num_images.values()) == 54
    assert "54 of 60 test images" in challenge.decision.reasons[0]
    write_images(workspace, images)  # used again: another comparison, on all of them
    whole = challenge_champion(workspace, run, SETTINGS, min_size=20)
    assert {measured["num_images"] for measured in whole.measures.values()} == {60}
    assert [comparison.number for comparison in read_comparisons(workspace)] == [1, 2]


def test_models_are_compared_on_the_images_that_both_were_tested_on(workspace, write_scored_run):
    first = write_scored_run(0.1)
    predictions = (first / "predictions.csv").read_text().splitlines(keepends=True)
    (first / "predictions.csv").write_text("".join(predictions[:1] + predictions[6:]))  # five were excluded
    (first / "files.json").unlink()
    write_json(first / "files.json", hash_files(first))
    promote(workspace, register_version(workspace, first), "first")
    challenge = challenge_champion(workspace, write_scored_run(0.5), SETTINGS, min_size=20)
    assert challenge.comparison is not None
    assert {measured["num_images"] for measured in challenge.measures.values()} == {55}
    assert "55 of 60 test images" in challenge.decision.reasons[0]


def test_a_comparison_says_how_many_labels_were_corrected(workspace, write_scored_run):
    promote(workspace, register_version(workspace, write_scored_run(0.1)), "first")
    run = write_scored_run(0.5)
    images = list_rows(["test"] * 60)
    flipped = images["label"].mask(images.index < 3, LABELS[0])
    write_images(workspace, images.assign(label=flipped))
    challenge = challenge_champion(workspace, run, SETTINGS, min_size=20)
    num_corrected = int((flipped != images["label"]).sum())
    assert f"labels of {num_corrected} test images" in challenge.decision.reasons[0]


def test_too_few_images_that_are_left_spend_no_error(workspace, write_scored_run):
    promote(workspace, register_version(workspace, write_scored_run(0.1)), "first")
    run = write_scored_run(0.5)
    images = list_rows(["test"] * 60)
    lesions = images.index[images["label"] == LABELS[1]]
    write_images(workspace, images.drop(index=lesions[4:]))
    challenge = challenge_champion(workspace, run, SETTINGS, min_size=20)
    assert not challenge.decision.is_judged
    assert read_comparisons(workspace) == []
