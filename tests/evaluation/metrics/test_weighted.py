"""Each measure against an independent oracle, and weighted measures against the same measures of repeated images."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle
from sklearn.linear_model import LogisticRegression

from hip_mri.evaluation.metrics import weighted
from hip_mri.evaluation.metrics.logistic import find_logits, fit_logistic
from hip_mri.evaluation.metrics.validation import check_sample
from tests.evaluation.metrics.studies import IMAGES, SCORES, draw_study, quick


def measure(labels, scores, threshold=0.5, weights=None):
    tally = weighted.tally_sample(check_sample(labels, scores), weights)
    ranking, probabilities = weighted.measure_ranking(tally), weighted.measure_probabilities(tally)
    return ranking | probabilities | weighted.measure_decisions(tally, threshold)


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
def test_ranking_survives_any_rising_change_and_turns_round_with_the_labels(images):
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
    logits = find_logits(scores)
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, None], labels)
    measures = measure_once(labels, scores)
    assert measures["calibration_slope"] == pytest.approx(fitted.coef_.item(), rel=1e-5)
    shifted = 1 / (1 + np.exp(-(logits + measures["calibration_intercept"])))
    assert shifted.mean() == pytest.approx(labels.mean(), abs=1e-12)


@quick
@given(IMAGES)
def test_the_regression_finds_the_maximum_or_says_that_there_is_none(images):
    labels, scores = (np.array(values) for values in zip(*sorted(images, key=lambda image: image[1]), strict=True))
    logits = find_logits(scores)
    slopes, intercepts = fit_logistic(logits, labels[:, None] * 1.0, 1.0 - labels[:, None])
    lesions, normals = logits[labels == 1], logits[labels == 0]
    overlap = lesions.min() < normals.max() and normals.min() < lesions.max()
    assert np.isfinite(slopes.item()) == overlap
    if overlap:
        surplus = labels - 1 / (1 + np.exp(-np.clip(intercepts + slopes * logits, -700, 700)))
        assert [surplus.sum(), surplus @ logits] == pytest.approx([0, 0], abs=1e-5)


def test_predictive_values_at_the_study_s_own_prevalence_are_its_own():
    labels, scores, _ = draw_study(np.random.default_rng(0), 100)
    decisions = weighted.measure_decisions(weighted.tally_sample(check_sample(labels, scores)), 0.4)
    for name, values in weighted.project_prevalence(decisions, labels.mean()).items():
        assert values == pytest.approx(decisions[name])
