"""Decisions of the gate, their reasons and their error."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from hip_mri.config import LABELS, ReleaseSettings
from hip_mri.dataset.identities import ATTRIBUTE_PREFIX
from hip_mri.errors import EvaluationError, ReleaseError
from hip_mri.evaluation.metrics.delong import compare_auc
from hip_mri.promotion.difference import bound_difference
from hip_mri.promotion.error_budget import Comparison
from hip_mri.promotion.gate import (
    Decision,
    compare_versions,
    judge_first_version,
    measure_test_set,
    refuse_few_groups,
)
from hip_mri.promotion.permutation import compare_by_permutation
from hip_mri.promotion.requirements import measure_requirements
from tests.benchmarks.gate import (
    NUM_SUBSETS,
    count_accepted_losses,
    count_false_promotions,
    draw_history,
    find_p_values,
    look_back,
    make_test_set,
    share_alpha,
)
from tests.benchmarks.gate import SETTINGS as BENCHMARK_SETTINGS
from tests.small_runs import TEST_SET

COMPARISON = Comparison(3, 0.01, TEST_SET, "champion", "challenger", "2026-01-01")
SPENT = Comparison(25, 0.0, TEST_SET, "champion", "challenger", "2026-01-01")
NO_REQUIREMENTS = ReleaseSettings(min_sensitivity=0, min_specificity=0, min_subgroup_sensitivity=0)
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


def measure(scores: pd.DataFrame, settings: ReleaseSettings, threshold: float, attributes: pd.DataFrame | None):
    """Metrics and requirements, as the challenge measures them."""
    measured = measure_test_set(scores, threshold)
    return measured, measure_requirements(scores, measured, settings, attributes)


def compare(
    champion: pd.DataFrame,
    challenger: pd.DataFrame,
    settings: ReleaseSettings,
    comparison: Comparison,
    threshold: float,
    attributes: pd.DataFrame | None = None,
) -> Decision:
    _, requirements = measure(challenger, settings, threshold, attributes)
    return compare_versions(champion, challenger, requirements, settings, comparison)


def judge_first(scores: pd.DataFrame, settings: ReleaseSettings, threshold: float) -> Decision:
    return judge_first_version(*measure(scores, settings, threshold, None), settings)


def describe(images: pd.DataFrame, values: list[str]) -> pd.DataFrame:
    """A column that divides the patients evenly."""
    numbers = images["group"].map(lambda name: int(name, 16))
    return pd.DataFrame(
        {"image_id": images["image_id"], f"{ATTRIBUTE_PREFIX}sex": [values[n % len(values)] for n in numbers]}
    )


def test_a_clear_gain_passes():
    decision = compare(*draw_tables(0.08), NO_REQUIREMENTS, COMPARISON, THRESHOLD)
    assert decision.promote
    assert decision.interval[0] > 0
    assert decision.p_value < COMPARISON.alpha == decision.alpha_spent
    assert decision.comparison == 3
    assert decision.reasons[1:3] == (
        "The challenger is shown to be better.",
        "A loss of 0.02, the margin, is ruled out.",
    )
    assert all(f"{requirement.value:.3f}" in decision.reasons[3] for requirement in decision.requirements)
    assert len(decision.reasons) == 4


def test_limits_and_p_value_are_the_less_favorable_of_two_tests_whatever_the_order_of_rows():
    champion, challenger = draw_tables(0.03)
    decision = compare(champion, challenger, NO_REQUIREMENTS, COMPARISON, THRESHOLD)
    truth = (champion["label"] == LABELS[1]).astype(int)
    scores = challenger.sort_values("image_id")["score"].to_numpy(), champion["score"]
    paired = compare_auc(truth, *scores, champion["group"])
    permuted, permuted_p_value = compare_by_permutation(truth, *scores, champion["group"], 0.01)
    assert decision.difference == pytest.approx(paired.difference)
    student = t(paired.degrees_of_freedom, paired.difference, paired.standard_error)
    assert decision.interval == pytest.approx(
        (min(permuted[0], student.ppf(0.01)), max(permuted[1], student.ppf(0.99)))
    )
    assert decision.p_value == pytest.approx(max(permuted_p_value, student.cdf(0)))
    numbers = (paired.difference, *decision.interval)
    stated = [f"{paired.first_auc:.3f}", f"{paired.second_auc:.3f}", *(f"{number:+.3f}" for number in numbers)]
    assert re.findall(r"[+-]?\d\.\d{3}", decision.reasons[0]) == stated
    assert "comparison 3, 1 %" in decision.reasons[0]


@pytest.mark.parametrize("gain", [-0.05, 0.0])
def test_fault_72_a_model_that_is_no_better_is_kept_out(gain):
    decision = compare(*draw_tables(gain), NO_REQUIREMENTS, COMPARISON, THRESHOLD)
    assert not decision.promote
    assert decision.reasons[1] == "The challenger is not shown to be better."


def test_the_same_model_is_as_good_and_no_better():
    champion, _ = draw_tables(0)
    decision = compare(champion, champion, NO_REQUIREMENTS, COMPARISON, THRESHOLD)
    assert (decision.promote, decision.difference, decision.interval, decision.p_value) == (False, 0, (0, 0), 1)


def test_non_inferiority_decides_only_where_it_is_the_rule():
    champion, challenger = draw_tables(0.0, num_lesions=100)
    generous = NO_REQUIREMENTS.model_copy(update={"non_inferiority_margin": 0.1})
    assert not compare(champion, challenger, generous, COMPARISON, THRESHOLD).promote
    rule = generous.model_copy(update={"rule": "non_inferior"})
    decision = compare(champion, challenger, rule, COMPARISON, THRESHOLD)
    assert decision.promote
    assert decision.interval[0] < 0
    strict = rule.model_copy(update={"non_inferiority_margin": 0.001})
    decision = compare(champion, challenger, strict, COMPARISON, THRESHOLD)
    assert not decision.promote
    assert "A loss of 0.001, the margin, is not ruled out." in decision.reasons


def test_without_budget_nothing_passes():
    decision = compare(*draw_tables(0.09), NO_REQUIREMENTS, SPENT, THRESHOLD)
    assert (decision.promote, decision.interval) == (False, (-1, 1))
    assert decision.reasons[1].startswith("The error budget of this test set, 0.05, is spent")


def test_a_model_that_is_better_in_every_group_passes_though_nothing_varies():
    champion, challenger = draw_tables(0)
    champion["score"] = 0.5
    challenger["score"] = np.where(challenger["label"] == LABELS[1], 0.9, 0.1)
    decision = compare(champion, challenger, NO_REQUIREMENTS, COMPARISON, THRESHOLD)
    assert (decision.promote, decision.difference) == (True, 0.5)


# Too few groups


@pytest.mark.parametrize(("num_lesion_groups", "num_normal_groups"), [(3, 5), (9, 40), (40, 9)])
def test_too_few_groups_are_not_judged(num_lesion_groups, num_normal_groups):
    labels = np.repeat([1, 0], [num_lesion_groups, num_normal_groups])
    scores = pd.DataFrame({"label": np.array(LABELS)[labels], "score": labels, "group": np.arange(len(labels))})
    decision = refuse_few_groups(scores, ReleaseSettings())
    assert decision is not None
    assert (decision.promote, decision.is_judged) == (False, False)
    for number in (num_lesion_groups, num_normal_groups, 10):
        assert f" {number} " in decision.reasons[0]
    assert refuse_few_groups(scores, ReleaseSettings(min_groups_per_class=5)) is None or num_lesion_groups == 3


# Requirements


def test_too_few_lesions_called_keep_a_better_model_out():
    decision = compare(*draw_tables(0.08), ReleaseSettings(), COMPARISON, threshold=0.95)
    assert not decision.promote
    sensitivity, specificity = decision.requirements
    assert (sensitivity.is_met, specificity.is_met) == (False, True)
    assert (sensitivity.name, sensitivity.num_images, sensitivity.num_groups) == ("all", 60, 30)
    lower, upper = sensitivity.interval
    assert lower <= sensitivity.value <= upper < 0.8
    for stated in (
        f"{sensitivity.value:.3f}",
        f"{lower:.3f}",
        f"{upper:.3f}",
        f"{round(60 * sensitivity.value)} of 60 lesions",
        "0.8",
    ):
        assert stated in decision.reasons[-1]


def test_too_many_false_alarms_keep_a_better_model_out():
    decision = compare(*draw_tables(0.08), ReleaseSettings(), COMPARISON, threshold=0.05)
    assert not decision.promote
    assert [it.metric for it in decision.requirements if not it.is_met] == ["specificity"]


def test_a_score_at_the_threshold_is_called():
    champion, challenger = draw_tables(0.08)
    challenger["score"] = challenger["score"].where(challenger["label"] != LABELS[1], THRESHOLD)
    decision = compare(champion, challenger, NO_REQUIREMENTS, COMPARISON, THRESHOLD)
    assert decision.requirements[0].value == 1


def test_one_subgroup_below_its_required_sensitivity_keeps_a_better_model_out():
    champion, challenger = draw_tables(0.08)
    attributes = describe(challenger, ["F", "M"])
    women = challenger["image_id"].map(attributes.set_index("image_id")[f"{ATTRIBUTE_PREFIX}sex"]) == "F"
    is_missed = women & (challenger["label"] == LABELS[1]) & (challenger["score"] < 0.8)
    challenger.loc[is_missed, "score"] *= 0.55
    loose = ReleaseSettings(min_sensitivity=0.1, min_specificity=0)
    decision = compare(champion, challenger, loose, COMPARISON, THRESHOLD, attributes)
    requirements = {it.name: it for it in decision.requirements if it.metric == "sensitivity"}
    assert list(requirements) == ["all", "sex = F", "sex = M"]
    assert not requirements["sex = F"].is_met
    assert not decision.promote
    assert any(reason.startswith("Sensitivity in sex = F: ") for reason in decision.reasons)


def test_a_subgroup_that_is_too_small_is_neither_compared_nor_named():
    champion, challenger = draw_tables(0.08)
    attributes = describe(champion, ["F", "M"])
    attributes.loc[:3, f"{ATTRIBUTE_PREFIX}sex"] = "Jane Doe"
    decision = compare(champion, challenger, NO_REQUIREMENTS, COMPARISON, THRESHOLD, attributes)
    (small,) = [requirement for requirement in decision.requirements if requirement.value is None]
    assert (small.name, small.num_groups, small.is_met) == ("sex = others", 1, True)
    assert "Sensitivity in sex = others: not judged, only 1 groups have lesions." in decision.reasons
    assert "Jane Doe" not in str(decision)


def test_the_first_version_is_compared_with_none():
    _, scores = draw_tables(0)
    decision = judge_first(scores, NO_REQUIREMENTS, THRESHOLD)
    assert (decision.promote, decision.difference, decision.comparison) == (True, None, None)
    assert "no champion to compare with" in decision.reasons[0]
    assert not judge_first(scores, ReleaseSettings(), threshold=1.0).promote


def test_a_first_version_that_ranks_every_lesion_below_every_normal_image_is_refused():
    _, scores = draw_tables(0)
    scores["score"] = np.where(scores["label"] == LABELS[1], 0.6, 0.9)
    decision = judge_first(scores, NO_REQUIREMENTS, THRESHOLD)
    assert (decision.promote, decision.requirements[0].value) == (False, 1)
    assert "AUC 0.000" in decision.reasons[1]


def test_the_lower_limit_of_the_first_auc_counts_and_not_the_auc():
    _, scores = draw_tables(-0.33)
    measured = measure_test_set(scores, THRESHOLD)
    lower, _ = measured["intervals"]["auc"]
    assert lower < 0.5 < measured["auc"]
    assert not judge_first(scores, NO_REQUIREMENTS, THRESHOLD).promote
    allowed = NO_REQUIREMENTS.model_copy(update={"min_first_auc": lower - 0.01})
    assert judge_first(scores, allowed, THRESHOLD).promote


# What cannot be compared


def test_other_images_are_counted_and_named():
    champion, challenger = draw_tables(0)
    challenger = challenger.sort_values("image_id")[3:]
    named = ", ".join(f"{number:016x}" for number in range(3))
    with pytest.raises(ReleaseError, match=rf"^release: .* 660 .* 657; 3 .*, 0 .*: {named}\."):
        compare(champion, challenger, NO_REQUIREMENTS, COMPARISON, THRESHOLD)


@pytest.mark.parametrize(("column", "value"), [("label", LABELS[0]), ("group", "another")])
def test_other_labels_or_groups_are_counted(column, value):
    champion, challenger = draw_tables(0)
    challenger.loc[challenger["image_id"] == f"{0:016x}", column] = value
    with pytest.raises(ReleaseError, match=f"1 of 660 .* {column} "):
        compare(champion, challenger, NO_REQUIREMENTS, COMPARISON, THRESHOLD)


def test_one_class_alone_is_refused():
    champion, challenger = (table[table["label"] == LABELS[0]] for table in draw_tables(0))
    with pytest.raises(EvaluationError, match="600 images are normal"):
        compare(champion, challenger, NO_REQUIREMENTS, COMPARISON, THRESHOLD)
    with pytest.raises(EvaluationError, match="600 images are normal"):
        judge_first(challenger, NO_REQUIREMENTS, THRESHOLD)


# How often it is wrong; `tests.benchmarks.gate` measures the same with 1,000 histories


def test_bounds_are_passed_where_the_p_value_says_so():
    labels, patients = make_test_set(40)
    champion, challengers = draw_history(np.random.default_rng(5), labels, patients, 0.03, 10)
    for alpha in (0.002, 0.05, 0.5):
        for scores in challengers:
            difference = bound_difference(labels, champion, scores, patients, alpha, 0.02, NUM_SUBSETS)
            assert (difference.interval[0] > 0) == (difference.p_value <= alpha)


def test_simulated_scores_are_as_good_and_as_alike_as_they_claim():
    labels, patients = make_test_set(4000)
    champion, challengers = draw_history(np.random.default_rng(0), labels, patients, -0.05, 1)
    difference = bound_difference(labels, champion, challengers[0], patients, 0.05, 0.02, NUM_SUBSETS)
    assert difference.champion_auc == pytest.approx(0.90, abs=0.01)
    assert difference.value == pytest.approx(-0.05, abs=0.01)
    normals = labels == 0
    logits = [np.log(scores[normals] / (1 - scores[normals])) for scores in (champion, challengers[0])]
    assert np.corrcoef(logits)[0, 1] == pytest.approx(0.9, abs=0.01)


def test_fault_72_of_histories_of_24_equal_models_few_promote_any():
    """At 3.5%, 80 histories give 9 or more with a probability of 0.3%."""
    p_values = find_p_values(40, 0.0, 80, 24, seed=11)
    for spending in ("even", "falling"):
        alphas = share_alpha(BENCHMARK_SETTINGS.model_copy(update={"spending": spending}))
        assert (p_values <= alphas).any(axis=1).sum() <= 8
    assert (p_values <= 0.05).any(axis=1).mean() > 0.2  # what happens without a budget


@pytest.mark.parametrize("options", [{"correlation": 0.0}, {"spread": 1.6}, {"has_uneven_patients": True}], ids=str)
def test_few_patients_promote_no_more_than_nominal(options):
    """At the nominal error, 500 looks give 6 or more with a probability of 0.05%."""
    assert count_false_promotions(20, 30, 500, auc=0.75, **options) <= 5 / 500 / (0.05 / 24)


def test_a_loss_that_few_patients_do_not_show_is_not_ruled_out():
    """Student's t alone accepts 4% of these models, each 0.02 worse than an AUC of 0.97: 12 of 300."""
    assert count_accepted_losses(20, 30, 300, 0.02, 0.97) * 300 * 0.05 / 24 <= 3


def test_fault_72_a_loss_of_5_points_is_kept_out():
    p_values = find_p_values(40, -0.05, 20, 24, seed=12)
    assert (p_values > share_alpha(BENCHMARK_SETTINGS)).all()
    excluded = [difference.excludes_loss for (difference,) in look_back(40, -0.05, 200, 1, 0.05 / 24, seed=13)]
    assert np.mean(excluded) <= 0.01


def test_a_gain_of_3_points_is_found_with_enough_lesions():
    assert (find_p_values(350, 0.03, 20, 1, seed=14) <= 0.05 / 24).mean() >= 0.9
