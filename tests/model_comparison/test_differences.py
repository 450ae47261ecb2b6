"""AUCs and paired differences: independent formulas, coverage in simulations, and equal candidates."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from hip_mri.config import LABELS
from hip_mri.errors import EvaluationError
from hip_mri.model_comparison.differences import (
    MIN_NUM_GROUPS,
    compare_candidates,
    correct_for_training,
    measure_aucs,
    measure_repetition,
)
from tests.benchmarks.comparison import Study, measure_coverage, simulate


def draw_scores(num_groups: int = 40, num_candidates: int = 3, seed: int = 0) -> pd.DataFrame:
    """Random scores of groups of two images; candidates are equally good."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_groups), 2)
    labels = (np.arange(num_groups) % 2)[groups]
    tables = []
    for candidate in range(num_candidates):
        for repetition in range(2):
            scores = labels + generator.normal(size=len(groups))
            columns = {"fold": groups // 2 % 5, "group": groups, "label": np.array(LABELS)[labels], "score": scores}
            tables.append(pd.DataFrame(columns).assign(candidate=str(candidate), seed=repetition))
    return pd.concat(tables, ignore_index=True)


def test_aucs_are_means_over_folds_weighted_by_pairs():
    scores = draw_scores().query("fold != 0 or group > 4")  # folds of different sizes
    aucs = measure_aucs(scores, ["0", "1", "2"])
    for (candidate, repetition), rows in scores.groupby(["candidate", "seed"]):
        folds = [fold for _, fold in rows.groupby("fold")]
        pairs = [(fold["label"] == LABELS[0]).sum() * (fold["label"] == LABELS[1]).sum() for fold in folds]
        expected = np.average(
            [roc_auc_score(fold["label"] == LABELS[1], fold["score"]) for fold in folds], weights=pairs
        )
        assert aucs.by_seed[int(candidate), repetition] == pytest.approx(expected)


def test_the_influence_of_a_group_is_the_change_by_a_small_part_of_one_more_copy_of_it():
    rows = draw_scores(num_candidates=1).query("seed == 0")
    labels, scores, groups = (rows["label"] == LABELS[1]).to_numpy(int), rows["score"].to_numpy(), rows["group"]
    auc, influences = measure_repetition(labels, scores, groups.to_numpy(), np.zeros(len(rows), int), 40)
    for group in range(0, 40, 7):
        heavier = np.where(groups == group, 1 + 1e-6, 1)
        change = roc_auc_score(labels, scores, sample_weight=heavier) - auc
        assert change / 1e-6 == pytest.approx(influences[group], rel=1e-3, abs=1e-8)


def test_differences_are_paired():
    """Equal scores differ by nothing, with an interval of no width, although each AUC is uncertain."""
    scores = draw_scores(num_candidates=2)
    twin = scores[scores["candidate"] == "0"].assign(candidate="2")
    aucs = measure_aucs(pd.concat([scores, twin]), ["0", "1", "2"])
    found = compare_candidates(aucs, seed=1)
    assert found is not None
    assert found.values[0, 2] == found.halves[0, 2] == found.simultaneous_halves[0, 2] == 0
    assert not found.are_shown[0, 2]
    assert aucs.standard_errors[0] > 0.01
    np.testing.assert_array_equal(found.values, -found.values.T)
    assert (found.simultaneous_halves >= found.halves).all()


def test_few_groups_have_no_intervals():
    assert compare_candidates(measure_aucs(draw_scores(2 * MIN_NUM_GROUPS - 2), ["0", "1", "2"]), seed=0) is None
    assert compare_candidates(measure_aucs(draw_scores(2 * MIN_NUM_GROUPS), ["0", "1", "2"]), seed=0) is not None


def test_folds_of_one_class_have_no_auc():
    scores = draw_scores(num_candidates=1)
    with pytest.raises(EvaluationError, match="both classes"):
        measure_aucs(scores.assign(fold=scores["group"] % 2), ["0"])


def test_the_correction_is_that_of_repeated_cross_validation():
    """Bouckaert and Frank: (1 / 30 + 1 / 9) times the variance of a fold, of which resampling gives a tenth."""
    assert correct_for_training(num_folds=10, num_seeds=3) == pytest.approx((1 / 30 + 1 / 9) * 10)


def test_intervals_cover_the_true_difference():
    outcomes = simulate(Study((1.5, 1.5), num_groups=150, num_features=10, shared=0.5), 50, seed=3)
    covered = round(50 * measure_coverage(outcomes, 0.0))
    assert covered >= binom.ppf(1e-4, 50, 0.93)


def test_equal_candidates_are_called_different_at_most_at_the_stated_rate():
    outcomes = simulate(Study((1.5,) * 6, num_groups=100, num_features=10, shared=0.5), 20, seed=4)
    assert sum(it.is_any_shown for it in outcomes) <= binom.ppf(1 - 1e-4, 20, 0.07)


def test_a_better_candidate_comes_first():
    outcomes = simulate(Study((0.3, 2.5, 0.3, 0.3), num_groups=100, num_features=10, shared=0.5), 8, seed=5)
    assert [it.best for it in outcomes] == [1] * 8
    assert all(it.is_any_shown for it in outcomes)
