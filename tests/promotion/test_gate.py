"""Decisions of the gate, their reasons and their error."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri
from scipy.stats import norm

from hip_mri.config import LABELS, ReleaseSettings
from hip_mri.dataset.identities import ATTRIBUTE_PREFIX
from hip_mri.errors import EvaluationError, ReleaseError
from hip_mri.evaluation.metrics.delong import compare_auc
from hip_mri.promotion.error_budget import Comparison
from hip_mri.promotion.gate import bound_difference, compare_versions, judge_first_version
from tests.benchmarks.gate import SETTINGS as BENCHMARK_SETTINGS
from tests.benchmarks.gate import draw_history, find_p_values, look_back, make_test_set, share_alpha
from tests.small_runs import TEST_SET

COMPARISON = Comparison(3, 0.01, TEST_SET, "champion", "challenger", "2026-01-01")
SPENT = Comparison(25, 0.0, TEST_SET, "champion", "challenger", "2026-01-01")
NO_REQUIREMENTS = ReleaseSettings(min_sensitivity=0, min_subgroup_sensitivity=0)
THRESHOLD = 0.5


def draw_tables(gain: float, num_lesions: int = 60, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of a champion and a challenger on the same images; the order of the rows differs."""
    labels, patients = make_test_set(num_lesions)
    champion, challengers = draw_history(np.random.default_rng(seed), labels, patients, gain, 1)
    images = pd.DataFrame(
        {
            "image_id": [f"{number:016x}" for number in range(len(labels))],
            "label": np.array(LABELS)[labels],
            "group": [f"{patient:016x}" for patient in patients],
        }
    )
    return images.assign(score=champion), images.assign(score=challengers[0]).sample(frac=1, random_state=seed)


def describe(images: pd.DataFrame, values: list[str]) -> pd.DataFrame:
    """A column that divides the patients evenly."""
    numbers = images["group"].map(lambda name: int(name, 16))
    return pd.DataFrame(
        {"image_id": images["image_id"], f"{ATTRIBUTE_PREFIX}sex": [values[n % len(values)] for n in numbers]}
    )


def test_a_clear_gain_passes():
    decision = compare_versions(*draw_tables(0.08), NO_REQUIREMENTS, COMPARISON, THRESHOLD)
    assert decision.promote
    assert decision.interval[0] > 0
    assert decision.p_value < COMPARISON.alpha == decision.alpha_spent
    assert decision.comparison == 3
    assert decision.reasons[1:3] == ("It is shown to be better.", "A loss of 0.02, the margin, is ruled out.")
    assert f"{decision.requirements[0].sensitivity:.3f} in all test images" in decision.reasons[3]
    assert len(decision.reasons) == 4


def test_figures_are_those_of_the_paired_test_whatever_the_order_of_rows():
    champion, challenger = draw_tables(0.03)
    decision = compare_versions(champion, challenger, NO_REQUIREMENTS, COMPARISON, THRESHOLD)
    truth = (champion["label"] == LABELS[1]).astype(int)
    sorted_challenger = challenger.sort_values("image_id")["score"].to_numpy()
    expected = compare_auc(truth, sorted_challenger, champion["score"], champion["group"])
    assert decision.difference == pytest.approx(expected.difference)
    half = norm.ppf(0.99) * expected.standard_error
    assert decision.interval == pytest.approx((expected.difference - half, expected.difference + half))
    assert decision.p_value == pytest.approx(norm.sf(expected.difference / expected.standard_error))
    numbers = (expected.difference, *decision.interval)
    stated = [f"{expected.first_auc:.3f}", f"{expected.second_auc:.3f}", *(f"{number:+.3f}" for number in numbers)]
    assert re.findall(r"[+-]?\d\.\d{3}", decision.reasons[0]) == stated
    assert "comparison 3, 1 %" in decision.reasons[0]


@pytest.mark.parametrize("gain", [-0.05, 0.0])
def test_fault_72_a_model_that_is_no_better_is_kept_out(gain):
    decision = compare_versions(*draw_tables(gain), NO_REQUIREMENTS, COMPARISON, THRESHOLD)
    assert not decision.promote
    assert decision.reasons[1] == "It is not shown to be better."


def test_the_same_model_is_as_good_and_no_better():
    champion, _ = draw_tables(0)
    decision = compare_versions(champion, champion, NO_REQUIREMENTS, COMPARISON, THRESHOLD)
    assert (decision.promote, decision.difference, decision.interval, decision.p_value) == (False, 0, (0, 0), 0.5)
    equal = NO_REQUIREMENTS.model_copy(update={"rule": "non_inferior"})
    assert compare_versions(champion, champion, equal, COMPARISON, THRESHOLD).promote


def test_non_inferiority_decides_only_where_it_is_the_rule():
    champion, challenger = draw_tables(0.0, num_lesions=800)
    generous = NO_REQUIREMENTS.model_copy(update={"non_inferiority_margin": 0.03})
    assert not compare_versions(champion, challenger, generous, COMPARISON, THRESHOLD).promote
    rule = generous.model_copy(update={"rule": "non_inferior"})
    decision = compare_versions(champion, challenger, rule, COMPARISON, THRESHOLD)
    assert decision.promote
    assert decision.interval[0] < 0
    strict = rule.model_copy(update={"non_inferiority_margin": 0.001})
    decision = compare_versions(champion, challenger, strict, COMPARISON, THRESHOLD)
    assert not decision.promote
    assert "A loss of 0.001, the margin, is not ruled out." in decision.reasons


def test_without_budget_nothing_passes():
    decision = compare_versions(*draw_tables(0.09), NO_REQUIREMENTS, SPENT, THRESHOLD)
    assert (decision.promote, decision.interval) == (False, (-1, 1))
    assert decision.reasons[1].startswith("The error budget of this test set, 0.05, is spent")


def test_a_difference_without_variance_promotes_nothing():
    champion, challenger = draw_tables(0)
    champion["score"] = 0.5
    challenger["score"] = np.where(challenger["label"] == LABELS[1], 0.9, 0.1)
    decision = compare_versions(champion, challenger, NO_REQUIREMENTS, COMPARISON, THRESHOLD)
    assert (decision.promote, decision.p_value) == (False, None)
    assert "does not vary between groups" in decision.reasons[1]


# Required sensitivities


def test_too_few_lesions_called_keep_a_better_model_out():
    decision = compare_versions(*draw_tables(0.08), ReleaseSettings(), COMPARISON, threshold=0.95)
    assert not decision.promote
    (requirement,) = decision.requirements
    assert not requirement.is_met
    assert (requirement.name, requirement.num_lesions, requirement.num_groups, requirement.required) == (
        "all",
        60,
        30,
        0.8,
    )
    assert re.search(rf"all: {requirement.sensitivity:.3f} of 60 lesions.* 0\.8\.", decision.reasons[-1])


def test_a_score_at_the_threshold_is_called():
    champion, challenger = draw_tables(0.08)
    challenger["score"] = challenger["score"].where(challenger["label"] != LABELS[1], THRESHOLD)
    decision = compare_versions(champion, challenger, NO_REQUIREMENTS, COMPARISON, THRESHOLD)
    assert decision.requirements[0].sensitivity == 1


def test_one_subgroup_below_its_required_sensitivity_keeps_a_better_model_out():
    champion, challenger = draw_tables(0.08)
    attributes = describe(challenger, ["F", "M"])
    women = challenger["image_id"].map(attributes.set_index("image_id")[f"{ATTRIBUTE_PREFIX}sex"]) == "F"
    is_missed = women & (challenger["label"] == LABELS[1]) & (challenger["score"] < 0.8)
    challenger.loc[is_missed, "score"] *= 0.55
    loose = ReleaseSettings(min_sensitivity=0.1)
    decision = compare_versions(champion, challenger, loose, COMPARISON, THRESHOLD, attributes)
    requirements = {requirement.name: requirement for requirement in decision.requirements}
    assert list(requirements) == ["all", "sex = F", "sex = M"]
    assert not requirements["sex = F"].is_met
    assert not decision.promote
    assert any(reason.startswith("Sensitivity in sex = F: 0.") for reason in decision.reasons)


def test_a_subgroup_that_is_too_small_is_neither_compared_nor_named():
    champion, challenger = draw_tables(0.08)
    attributes = describe(champion, ["F", "M"])
    attributes.loc[:3, f"{ATTRIBUTE_PREFIX}sex"] = "Jane Doe"
    decision = compare_versions(champion, challenger, NO_REQUIREMENTS, COMPARISON, THRESHOLD, attributes)
    (small,) = [requirement for requirement in decision.requirements if requirement.sensitivity is None]
    assert (small.name, small.num_groups, small.is_met) == ("sex = others", 1, True)
    assert "Sensitivity in sex = others: not judged, only 1 groups have lesions." in decision.reasons
    assert "Jane Doe" not in str(decision)


def test_the_first_version_needs_only_the_required_sensitivities():
    _, scores = draw_tables(0)
    decision = judge_first_version(scores, NO_REQUIREMENTS, THRESHOLD)
    assert (decision.promote, decision.difference, decision.comparison) == (True, None, None)
    assert "no champion to compare with" in decision.reasons[0]
    assert not judge_first_version(scores, ReleaseSettings(), threshold=1.0).promote


# What cannot be compared


def test_other_images_are_counted_and_named():
    champion, challenger = draw_tables(0)
    challenger = challenger.sort_values("image_id")[3:]
    named = ", ".join(f"{number:016x}" for number in range(3))
    with pytest.raises(ReleaseError, match=rf"^release: .* 660 .* 657; 3 .*, 0 .*: {named}\."):
        compare_versions(champion, challenger, NO_REQUIREMENTS, COMPARISON, THRESHOLD)


@pytest.mark.parametrize(("column", "value"), [("label", LABELS[0]), ("group", "another")])
def test_other_labels_or_groups_are_counted(column, value):
    champion, challenger = draw_tables(0)
    challenger.loc[challenger["image_id"] == f"{0:016x}", column] = value
    with pytest.raises(ReleaseError, match=f"1 of 660 .* {column} "):
        compare_versions(champion, challenger, NO_REQUIREMENTS, COMPARISON, THRESHOLD)


def test_one_class_alone_is_refused():
    champion, challenger = (table[table["label"] == LABELS[0]] for table in draw_tables(0))
    with pytest.raises(EvaluationError, match="600 images are normal"):
        compare_versions(champion, challenger, NO_REQUIREMENTS, COMPARISON, THRESHOLD)
    with pytest.raises(EvaluationError, match="600 images are normal"):
        judge_first_version(challenger, NO_REQUIREMENTS, THRESHOLD)


# How often it is wrong; `tests.benchmarks.gate` measures the same with 1,000 histories


def test_bounds_are_passed_where_the_p_value_says_so():
    labels, patients = make_test_set(40)
    champion, challengers = draw_history(np.random.default_rng(5), labels, patients, 0.03, 30)
    for alpha in (0.002, 0.05, 0.5):
        for scores in challengers:
            difference = bound_difference(labels, champion, scores, patients, alpha)
            assert (difference.interval[0] > 0) == (difference.p_value < alpha)


def test_simulated_scores_are_as_good_and_as_alike_as_they_claim():
    labels, patients = make_test_set(4000)
    champion, challengers = draw_history(np.random.default_rng(0), labels, patients, -0.05, 1)
    difference = bound_difference(labels, champion, challengers[0], patients, 0.05)
    assert difference.champion_auc == pytest.approx(0.90, abs=0.01)
    assert difference.value == pytest.approx(-0.05, abs=0.01)
    normals = labels == 0
    logits = [np.log(scores[normals] / (1 - scores[normals])) for scores in (champion, challengers[0])]
    assert np.corrcoef(logits)[0, 1] == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("spending", ["even", "falling"])
def test_fault_72_of_histories_of_24_equal_models_few_promote_any(spending):
    """At 3.5 %, 250 histories give 18 or more with a probability of 0.3 %."""
    alphas = share_alpha(BENCHMARK_SETTINGS.model_copy(update={"spending": spending}))
    p_values = find_p_values(40, 0.0, 250, 24, seed=11)
    assert (p_values < alphas).any(axis=1).sum() <= 17
    assert (p_values < 0.05).any(axis=1).mean() > 0.2  # what happens without a budget


def test_fault_72_a_loss_of_5_points_is_kept_out():
    p_values = find_p_values(40, -0.05, 60, 24, seed=12)
    assert (p_values >= share_alpha(BENCHMARK_SETTINGS)).all()
    margin = BENCHMARK_SETTINGS.non_inferiority_margin
    lower = [difference.interval[0] for (difference,) in look_back(40, -0.05, 400, 1, 0.05 / 24, seed=13)]
    assert np.mean(np.array(lower) <= -margin) >= 0.99


def test_a_gain_of_3_points_is_found_with_enough_lesions():
    assert (find_p_values(350, 0.03, 40, 1, seed=14) < 0.05 / 24).mean() >= 0.9
    assert -ndtri(0.05 / 24) == pytest.approx(2.865, abs=1e-3)
