"""Decisions `normal`, `osseous_lesion` or `uncertain` keep the error rate of each class, also with groups."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from hip_mri.evaluation.conformal import (
    DecisionRule,
    calibrate,
    count_needed_groups,
    decide,
    measure_coverage,
    read_image_rule,
    read_patient_rule,
)
from tests.evaluation.metrics.studies import IMAGES, draw_study, quick

RULE = DecisionRule(threshold=0.5, error_rate=0.1, min_lesion=0.3, max_normal=0.7, reason="")


def test_a_score_is_decided_where_the_other_class_is_excluded():
    scores = [0.0, 0.29, 0.3, 0.5, 0.7, 0.71, np.nan]
    uncertain = ["uncertain"] * 3
    assert decide(scores, RULE).tolist() == ["normal", "normal", *uncertain, "osseous_lesion", ""]


def test_separated_classes_are_decided_by_the_threshold():
    assert decide([0.0, 0.45, 0.5, 0.6, 1.0], replace(RULE, min_lesion=0.7, max_normal=0.3)).tolist() == [
        *["normal"] * 2,
        *["osseous_lesion"] * 3,
    ]


def test_nothing_is_decided_against_the_label_at_the_threshold():
    low, high = replace(RULE, threshold=0.1), replace(RULE, threshold=0.9)
    assert decide([0.2, 0.6], low).tolist() == ["uncertain", "uncertain"]
    assert decide([0.5, 0.8], high).tolist() == ["uncertain", "uncertain"]


def test_an_earlier_run_has_no_decisions():
    rule = read_image_rule({"threshold": 0.25})
    assert (rule.threshold, rule.error_rate) == (0.25, None)
    assert "earlier version" in rule.reason
    assert decide([0.1, 0.9], rule).tolist() == ["", ""]
    assert read_patient_rule({"threshold": 0.25}) is None


def test_limits_of_single_images_are_order_statistics():
    """Independent oracle: with one image per group, the rank is that of split conformal prediction."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], [40, 25])
    scores = generator.permutation(65) / 100
    rule = calibrate(labels, scores, None, 0.3, 0.1)
    normals, lesions = np.sort(scores[labels == 0]), np.sort(scores[labels == 1])[::-1]
    assert rule.max_normal == pytest.approx(normals[int(np.ceil(0.9 * 41)) - 1] + 0.005)
    assert rule.min_lesion == pytest.approx(max(lesions[int(np.ceil(0.9 * 26)) - 1] - 0.005, 0))


def test_copies_of_an_image_within_its_group_change_nothing():
    labels, scores, groups = draw_study(np.random.default_rng(1), 80)
    rule = calibrate(labels, scores, groups, 0.4, 0.1)
    copied = groups % 7 == 0
    twice = [np.concatenate([values, values[copied]]) for values in (labels, scores, groups)]
    assert calibrate(*twice, 0.4, 0.1) == rule


@pytest.mark.parametrize(("error_rate", "needed"), [(0.1, 9), (0.05, 19), (0.2, 4), (0.3, 3)])
def test_too_few_groups_are_said(error_rate, needed):
    assert count_needed_groups(error_rate) == needed
    labels, scores = np.repeat([0, 1], [50, needed]), np.linspace(0, 1, 50 + needed)
    assert not calibrate(labels, scores, None, 0.5, error_rate).reason
    rule = calibrate(labels[:-1], scores[:-1], None, 0.5, error_rate)
    assert f"osseous_lesion {needed - 1};" in rule.reason
    assert f"needs {needed} " in rule.reason
    assert decide(scores, rule).tolist() == [""] * len(scores)
    assert measure_coverage(labels, scores, None, rule) is None


@quick
@given(IMAGES, st.floats(0.05, 0.45), st.floats(0.01, 0.99))
def test_the_error_rate_holds_on_the_calibration_images(images, error_rate, threshold):
    labels, scores = (np.array(values, float) for values in zip(*images, strict=True))
    rule = calibrate(labels, scores, None, threshold, error_rate)
    measured = measure_coverage(labels, scores, None, rule)
    assert (measured is None) == bool(rule.reason)
    for found in (measured or {}).values():
        assert found["coverage"] >= 1 - error_rate - 1e-9
        assert 0 <= found["uncertain"] <= 1


def test_each_group_counts_once():
    labels = np.array([0] * 10 + [1] * 4)
    scores = np.array([0.1] * 8 + [0.9, 0.5] + [0.9, 0.1, 0.6, 0.9])
    groups = [*["a"] * 8, "b", "c", "d", "d", "e", "f"]
    found = measure_coverage(labels, scores, groups, RULE)
    assert found["normal"]["coverage"] == pytest.approx(2 / 3)
    assert found["normal"]["uncertain"] == pytest.approx(1 / 3)
    assert found["osseous_lesion"]["coverage"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert (found["osseous_lesion"]["num_images"], found["osseous_lesion"]["num_groups"]) == (4, 3)
    for label in found:
        low, high = found[label]["intervals"]["coverage"]
        assert low < found[label]["coverage"] < high


def test_error_rate_of_simulated_groups_is_kept():
    """Of each study, one random image of a new patient of each class; errors are independent between studies."""
    generator, errors, num_studies = np.random.default_rng(4), {0: 0, 1: 0}, 400
    for _ in range(num_studies):
        labels, scores, groups = draw_study(generator, 60)
        rule = calibrate(labels, scores, groups, 0.4, 0.1)
        new_labels, new_scores, new_groups = draw_study(generator, 40)
        for label, other in enumerate(("osseous_lesion", "normal")):
            patient = generator.choice(np.unique(new_groups[new_labels == label]))
            score = generator.choice(new_scores[(new_labels == label) & (new_groups == patient)])
            errors[label] += decide(score, rule) == other
    assert max(errors.values()) <= binom.ppf(1 - 1e-4, num_studies, 0.1)
