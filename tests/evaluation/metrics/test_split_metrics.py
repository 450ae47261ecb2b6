import json

import numpy as np
import pytest

from hip_mri.evaluation.metrics.measures import (
    compute_decision_metrics,
    compute_ranking_metrics,
    measure_decisions,
    measure_probabilities,
    measure_ranking,
    tally_scores,
)
from hip_mri.evaluation.metrics.resampling import resample
from hip_mri.evaluation.metrics.split_metrics import compute_intervals, measure_split, pool_by_patient
from hip_mri.evaluation.metrics.table import list_keys
from hip_mri.evaluation.metrics.validation import validate_scores
from tests.evaluation.metrics.studies import THRESHOLD, TRUE_AUC, draw_study, find_true_sensitivity

FLAT = (*list_keys("ranking"), *list_keys("probability"))


@pytest.fixture(scope="module")
def study():
    return draw_study(np.random.default_rng(0), 80)


@pytest.fixture(scope="module")
def result(study):
    return measure_split(*study, THRESHOLD, [0.01, 0.2], seed=0, num_resamples=500)


def test_result_holds_the_point_estimates(study, result):
    labels, scores, patients = study
    counts = (result["num_images"], result["num_lesions"], result["num_groups"])
    assert counts == (len(labels), labels.sum(), len(set(patients)))
    assert {name: result[name] for name in FLAT} == {
        **measure_ranking(labels, scores),
        **measure_probabilities(labels, scores),
    }
    assert result["at_threshold"] == measure_decisions(labels, scores, THRESHOLD, [0.01, 0.2])
    assert result["at_half"] == measure_decisions(labels, scores, 0.5, [0.01, 0.2])


def test_every_measure_is_inside_its_interval(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    pairs = [(result[name], result["intervals"][name]) for name in FLAT if name != "expected_calibration_error"]
    for section in ("at_threshold", "at_half"):
        measures, intervals = result[section], result["intervals"][section]
        assert set(intervals) == set(measures) - {"threshold", "confusion_matrix"}
        pairs += [(measures[name], intervals[name]) for name in list_keys("decision")]
        for values, limits in zip(measures["at_prevalences"], intervals["at_prevalences"], strict=True):
            assert values["prevalence"] == limits["prevalence"]
            pairs += [(values["ppv"], limits["ppv"]), (values["npv"], limits["npv"])]
    assert all(lower < value < upper for value, (lower, upper) in pairs)


def test_the_interval_of_the_calibration_error_is_corrected_for_chance():
    """Calibrated scores: the error of a small study is random, and its interval includes 0."""
    generator = np.random.default_rng(0)
    scores = generator.uniform(0.1, 0.9, 100)
    result = measure_split(generator.random(100) < scores, scores, None, 0.5, num_resamples=500)
    assert result["expected_calibration_error"] > 0.05
    assert result["intervals"]["expected_calibration_error"][0] == 0


def test_the_seed_decides(study, result):
    again = measure_split(*study, THRESHOLD, [0.01, 0.2], seed=0, num_resamples=500)
    other = measure_split(*study, THRESHOLD, [0.01, 0.2], seed=1, num_resamples=500)
    assert again == result
    assert other["intervals"]["auc"] != result["intervals"]["auc"]
    assert other["intervals"]["auc"] == pytest.approx(result["intervals"]["auc"], abs=0.02)


def test_perfect_scores_still_have_intervals():
    """Ten patients of each class, all called correctly: the resamples do not vary."""
    labels = np.repeat([0, 1], 10)
    result = measure_split(labels, np.linspace(0.01, 0.99, 20), None, 0.5, [0.01], num_resamples=200)
    intervals = result["intervals"]
    assert 0.6 < intervals["auc"][0] < 0.8
    assert intervals["at_half"]["sensitivity"] == intervals["at_half"]["specificity"]
    assert 0.6 < intervals["at_half"]["sensitivity"][0] < 0.8
    (values,) = intervals["at_half"]["at_prevalences"]
    assert values["ppv"][0] < 0.05  # at a specificity of 70%, 2% of the calls are correct
    assert values["ppv"][1] == 1
    assert (result["calibration_slope"], intervals["calibration_slope"]) == (None, None)


def test_undefined_metrics_have_no_interval():
    labels, scores, patients = draw_study(np.random.default_rng(1), 40)
    nothing_called = measure_split(labels, scores / 2, patients, 0.9, [0.1], num_resamples=100)
    intervals = nothing_called["intervals"]["at_threshold"]
    assert (intervals["ppv"], intervals["mcc"], intervals["at_prevalences"][0]["ppv"]) == (None, None, None)
    assert intervals["sensitivity"][0] == 0
    assert intervals["npv"] is not None


def test_one_patient_with_lesions_has_metrics_without_intervals():
    result = measure_split([1, 1, 0, 0, 0], [0.9, 0.3, 0.4, 0.1, 0.2], list("aabcd"), 0.35, [0.1])
    assert result["auc"] == pytest.approx(5 / 6)
    assert set(map(str, (result["intervals"][name] for name in FLAT))) == {"None"}
    assert result["intervals"]["at_threshold"] == {
        **dict.fromkeys(list_keys("decision")),
        "at_prevalences": [{"prevalence": 0.1, "ppv": None, "npv": None}],
    }


def test_a_patient_has_a_lesion_where_any_image_has():
    labels, scores = pool_by_patient([0, 1, 0, 0, 0], [0.2, 0.6, 0.5, 0.1, 0.7], ["b", "b", "a", "c", "c"])
    assert labels.tolist() == [0, 1, 0]
    assert scores == pytest.approx([0.5, 0.4, 0.4])


def test_patients_are_measured_like_images(study):
    result = measure_split(*pool_by_patient(*study), None, THRESHOLD, num_resamples=100)
    assert result["num_images"] == result["num_groups"] == 80


def test_intervals_over_groups_cover_the_true_value():
    """At a coverage of 95%, 179 to 198 of 200 intervals contain the true value with a probability of 99.9%.

    Resamples of single images cover less, since images of one patient are correlated.
    """
    truths = {"auc": TRUE_AUC, "sensitivity": find_true_sensitivity()}
    hits = {True: dict.fromkeys(truths, 0), False: dict.fromkeys(truths, 0)}
    generator = np.random.default_rng(0)

    def measure(tally):
        found = compute_ranking_metrics(tally) | compute_decision_metrics(tally, THRESHOLD)
        return {name: found[name] for name in truths}

    for _ in range(200):
        labels, scores, patients = draw_study(generator, 100)
        for grouped, groups in ((True, patients), (False, None)):
            validated = validate_scores(labels, scores, groups)
            measures = {name: value.item() for name, value in measure(tally_scores(validated)).items()}
            limits = compute_intervals(validated, measures, resample(validated, measure, 0, 200), THRESHOLD)
            for name, truth in truths.items():
                hits[grouped][name] += limits[name][0] <= truth <= limits[name][1]
    assert all(179 <= count <= 198 for count in hits[True].values()), hits
    assert all(count < 179 for count in hits[False].values()), hits
