import json

import numpy as np
import pytest
from hypothesis import given

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.measures import measure_decisions, measure_probabilities, measure_ranking
from tests.evaluation.metrics.studies import IMAGES, SCORES, quick


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


def test_bayes_gives_the_textbook_s_surprise():
    """Sensitivity and specificity of 90 % at a prevalence of 1 %: one call in twelve is right."""
    labels, scores = [0] * 10 + [1] * 10, [0.1] * 9 + [0.9] + [0.9] * 9 + [0.1]
    (values,) = measure_decisions(labels, scores, 0.5, [0.01])["at_prevalences"]
    assert values["ppv"] == pytest.approx(0.009 / 0.108)
    assert values["npv"] == pytest.approx(0.891 / 0.892)


def test_what_is_not_defined_is_none():
    nothing_called = measure_decisions([0, 1], [0.1, 0.2], 0.5, [0.1])
    assert (nothing_called["ppv"], nothing_called["mcc"], nothing_called["f1"]) == (None, None, 0)
    assert nothing_called["at_prevalences"] == [{"prevalence": 0.1, "ppv": None, "npv": 0.9}]
    assert measure_decisions([0, 1], [0.6, 0.7], 0.5)["npv"] is None
    separated = measure_probabilities([0, 0, 1, 1], [0.1, 0.2, 0.7, 0.8])
    assert separated["calibration_slope"] is None
    assert separated["calibration_intercept"] is not None
    assert measure_probabilities([0, 1], [0.5, 0.5])["calibration_slope"] is None


def test_scores_that_hold_are_calibrated():
    """Of images with a score of s, a share of s has a lesion."""
    scores = np.repeat([0.2, 0.4, 0.6, 0.8], 10)
    labels = np.concatenate([np.arange(10) < 10 * share for share in (0.2, 0.4, 0.6, 0.8)]).astype(int)
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
    labels = np.concatenate([np.arange(10) < 10 * share for share in (0.2, 0.4, 0.6, 0.8)]).astype(int)
    odds = np.repeat([0.2 / 0.8, 0.4 / 0.6, 0.6 / 0.4, 0.8 / 0.2], 10)
    stretched = measure_probabilities(labels, odds**2 / (1 + odds**2))
    assert stretched["calibration_slope"] == pytest.approx(0.5)
    shifted = measure_probabilities(labels, 3 * odds / (1 + 3 * odds))
    assert shifted["calibration_intercept"] == pytest.approx(-np.log(3))


def test_certain_scores_are_measured_too():
    measures = measure_probabilities([0, 1, 1, 0], [0.0, 1.0, 0.0, 1.0])
    assert measures["calibration_slope"] == pytest.approx(0, abs=1e-9)
    assert measures["brier"] == 0.5


def test_shares_out_of_range_are_refused():
    with pytest.raises(EvaluationError, match=r"threshold: a number from 0 to 1 is needed, received \[1\.5\]"):
        measure_decisions([0, 1], [0.1, 0.9], 1.5)
    with pytest.raises(EvaluationError, match=r"prevalence: a number from 0 to 1 is needed, received \[-1, 2\]"):
        measure_decisions([0, 1], [0.1, 0.9], 0.5, [0.1, -1, 2])
