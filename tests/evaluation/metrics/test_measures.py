"""Each metric against an independent oracle, and weighted metrics against the same metrics of repeated images."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle
from sklearn.linear_model import LogisticRegression

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.logistic import compute_logits, fit_logistic
from hip_mri.evaluation.metrics.measures import (
    compute_decision_metrics,
    compute_probability_metrics,
    compute_ranking_metrics,
    measure_decisions,
    measure_probabilities,
    measure_ranking,
    project_prevalence,
    tally_scores,
)
from hip_mri.evaluation.metrics.validation import validate_scores
from tests.evaluation.metrics.studies import IMAGES, SCORES, draw_study, quick


def measure(labels, scores, threshold=0.5, weights=None):
    tally = tally_scores(validate_scores(labels, scores), weights)
    ranking, probabilities = compute_ranking_metrics(tally), compute_probability_metrics(tally)
    return ranking | probabilities | compute_decision_metrics(tally, threshold)


def measure_once(labels, scores, threshold=0.5):
    return {name: values.item() for name, values in measure(labels, scores, threshold).items()}


def sum_over_bins(labels, scores):
    """Expected calibration error, image by image: its bin is ten times its mid-rank."""
    bins = {}
    for label, score in zip(labels, scores, strict=True):
        below, equal = sum(other < score for other in scores), sum(other == score for other in scores)
        number = 10 * (2 * below + equal) // (2 * len(scores))
        bins.setdefault(number, []).append(label - score)
    return sum(abs(sum(members)) for members in bins.values()) / len(scores)


@quick
@given(IMAGES, SCORES)
def test_scikit_learn_agrees(images, threshold):
    labels, scores = zip(*images, strict=True)
    measures, calls = measure_once(labels, scores, threshold), np.array(scores) >= threshold
    expected = {
        "auc": oracle.roc_auc_score(labels, scores),
        "average_precision": oracle.average_precision_score(labels, scores),
        "brier": oracle.brier_score_loss(labels, scores),
        "sensitivity": oracle.recall_score(labels, calls),
        "specificity": oracle.recall_score(labels, calls, pos_label=0),
        "accuracy": oracle.accuracy_score(labels, calls),
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, calls),
        "f1": oracle.f1_score(labels, calls),
        "ppv": oracle.precision_score(labels, calls) if calls.any() else math.nan,
        "npv": oracle.precision_score(labels, calls, pos_label=0) if not calls.all() else math.nan,
        "mcc": oracle.matthews_corrcoef(labels, calls) if calls.any() and not calls.all() else math.nan,
    }
    assert {name: measures[name] for name in expected} == pytest.approx(expected, nan_ok=True)


@quick
@given(IMAGES)
def test_calibration_error_is_that_of_the_definition(images):
    labels, scores = zip(*images, strict=True)
    found = measure_once(labels, scores)["expected_calibration_error"]
    assert found == pytest.approx(sum_over_bins(labels, scores), abs=1e-12)


@quick
@given(IMAGES, st.data())
def test_weights_count_as_repeats(images, data):
    """The oracle of the bootstrap: a weight of 3 is the image three times over."""
    labels, scores = (np.array(values) for values in zip(*images, strict=True))
    columns = st.lists(st.integers(0, 3), min_size=len(labels), max_size=len(labels))
    both = columns.filter(lambda repeats: len(set(np.repeat(labels, repeats))) == 2)
    repeats = np.array(data.draw(st.lists(both, min_size=1, max_size=3))).T
    measures = measure(labels, scores, 0.5, repeats.astype(float))
    for column in range(repeats.shape[1]):
        rows = np.repeat(np.arange(len(labels)), repeats[:, column])
        expected = measure_once(labels[rows], scores[rows], 0.5)
        found = {name: values[column] for name, values in measures.items()}
        slope = expected.pop("calibration_slope"), found.pop("calibration_slope")
        assert found == pytest.approx(expected, nan_ok=True, abs=1e-7)
        assert slope[1] == pytest.approx(slope[0], nan_ok=True, rel=1e-4, abs=1e-6)


@quick
@given(IMAGES, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(images, random):
    shuffled = random.sample(images, len(images))
    before, after = (measure_once(*zip(*rows, strict=True)) for rows in (images, shuffled))
    assert after == pytest.approx(before, nan_ok=True)


@quick
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1000)), min_size=2, max_size=40))
def test_ranking_is_invariant_to_monotonic_changes_and_reverses_with_the_labels(images):
    labels, numbers = (np.array(values) for values in zip(*images, strict=True))
    if len(set(labels)) < 2:
        return
    scores = numbers / 1000
    before = measure_once(labels, scores)
    after = measure_once(labels, scores**3 / 2 + 0.1)
    assert (after["auc"], after["average_precision"]) == (before["auc"], before["average_precision"])
    assert measure_once(1 - labels, scores)["auc"] == pytest.approx(1 - before["auc"])
    assert measure_once(1 - labels, 1 - scores)["auc"] == pytest.approx(before["auc"])


def test_calibration_is_the_logistic_regression_of_scikit_learn():
    labels, scores, _ = draw_study(np.random.default_rng(0), 300)
    logits = compute_logits(scores)
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, None], labels)
    measures = measure_once(labels, scores)
    assert measures["calibration_slope"] == pytest.approx(fitted.coef_.item(), rel=1e-5)
    shifted = 1 / (1 + np.exp(-(logits + measures["calibration_intercept"])))
    assert shifted.mean() == pytest.approx(labels.mean(), abs=1e-12)


@quick
@given(IMAGES)
def test_the_regression_finds_the_maximum_if_there_is_one(images):
    labels, scores = (np.array(values) for values in zip(*sorted(images, key=lambda image: image[1]), strict=True))
    logits = compute_logits(scores)
    slopes, intercepts = fit_logistic(logits, labels[:, None] * 1.0, 1.0 - labels[:, None])
    lesions, normals = logits[labels == 1], logits[labels == 0]
    overlap = lesions.min() < normals.max() and normals.min() < lesions.max()
    assert np.isfinite(slopes.item()) == overlap
    if overlap:
        surplus = labels - 1 / (1 + np.exp(-np.clip(intercepts + slopes * logits, -700, 700)))
        assert [surplus.sum(), surplus @ logits] == pytest.approx([0, 0], abs=1e-5)


def test_predictive_values_at_the_prevalence_of_the_study_are_unchanged():
    labels, scores, _ = draw_study(np.random.default_rng(0), 100)
    decisions = compute_decision_metrics(tally_scores(validate_scores(labels, scores)), 0.4)
    for name, values in project_prevalence(decisions, labels.mean()).items():
        assert values == pytest.approx(decisions[name])


@quick
@given(IMAGES, SCORES)
def test_results_are_strict_json(images, threshold):
    labels, scores = zip(*images, strict=True)
    decisions = measure_decisions(labels, scores, threshold, [0, 0.1, 1])
    results = [measure_ranking(labels, scores), measure_probabilities(labels, scores), decisions]
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_decisions_at_a_threshold():
    decisions = measure_decisions([0, 0, 0, 0, 1, 1], [0.1, 0.2, 0.5, 0.3, 0.5, 0.4], 0.5, [0.5])
    assert decisions.pop("confusion_matrix") == [[3, 1], [1, 1]]
    assert decisions.pop("at_prevalences") == [pytest.approx({"prevalence": 0.5, "ppv": 2 / 3, "npv": 3 / 5})]
    assert decisions == pytest.approx(
        {
            "threshold": 0.5,
            "sensitivity": 1 / 2,
            "specificity": 3 / 4,
            "ppv": 1 / 2,
            "npv": 3 / 4,
            "accuracy": 4 / 6,
            "f1": 1 / 2,
            "balanced_accuracy": 5 / 8,
            "mcc": 1 / 4,
        }
    )


def test_predictive_values_follow_from_bayes_rule():
    """Sensitivity and specificity of 90 % at a prevalence of 1 %: one call in twelve is correct."""
    labels, scores = [0] * 10 + [1] * 10, [0.1] * 9 + [0.9] + [0.9] * 9 + [0.1]
    (values,) = measure_decisions(labels, scores, 0.5, [0.01])["at_prevalences"]
    assert values["ppv"] == pytest.approx(0.009 / 0.108)
    assert values["npv"] == pytest.approx(0.891 / 0.892)


def test_undefined_metrics_are_none():
    nothing_called = measure_decisions([0, 1], [0.1, 0.2], 0.5, [0.1])
    assert (nothing_called["ppv"], nothing_called["mcc"], nothing_called["f1"]) == (None, None, 0)
    assert nothing_called["at_prevalences"] == [{"prevalence": 0.1, "ppv": None, "npv": 0.9}]
    assert measure_decisions([0, 1], [0.6, 0.7], 0.5)["npv"] is None
    separated = measure_probabilities([0, 0, 1, 1], [0.1, 0.2, 0.7, 0.8])
    assert separated["calibration_slope"] is None
    assert separated["calibration_intercept"] is not None
    assert measure_probabilities([0, 1], [0.5, 0.5])["calibration_slope"] is None


def test_calibrated_scores():
    """A fraction s of the images with score s has a lesion."""
    scores = np.repeat([0.2, 0.4, 0.6, 0.8], 10)
    labels = np.concatenate([np.arange(10) < 10 * fraction for fraction in (0.2, 0.4, 0.6, 0.8)]).astype(int)
    assert measure_probabilities(labels, scores) == pytest.approx(
        {
            "brier": 0.2,
            "expected_calibration_error": 0,
            "calibration_slope": 1,
            "calibration_intercept": 0,
        },
        abs=1e-9,
    )


def test_doubled_log_odds_halve_the_slope():
    labels = np.concatenate([np.arange(10) < 10 * fraction for fraction in (0.2, 0.4, 0.6, 0.8)]).astype(int)
    odds = np.repeat([0.2 / 0.8, 0.4 / 0.6, 0.6 / 0.4, 0.8 / 0.2], 10)
    stretched = measure_probabilities(labels, odds**2 / (1 + odds**2))
    assert stretched["calibration_slope"] == pytest.approx(0.5)
    shifted = measure_probabilities(labels, 3 * odds / (1 + 3 * odds))
    assert shifted["calibration_intercept"] == pytest.approx(-np.log(3))


def test_scores_of_0_and_1_are_measured():
    measures = measure_probabilities([0, 1, 1, 0], [0.0, 1.0, 0.0, 1.0])
    assert measures["calibration_slope"] == pytest.approx(0, abs=1e-9)
    assert measures["brier"] == 0.5


def test_thresholds_and_prevalences_out_of_range_are_rejected():
    with pytest.raises(EvaluationError, match=r"threshold: .* 0 to 1 .* \[1\.5\]"):
        measure_decisions([0, 1], [0.1, 0.9], 1.5)
    with pytest.raises(EvaluationError, match=r"prevalence: .* 0 to 1 .* \[-1, 2\]"):
        measure_decisions([0, 1], [0.1, 0.9], 0.5, [0.1, -1, 2])
