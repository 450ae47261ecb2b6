import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.curves import find_net_benefit
from tests.evaluation.metrics.studies import IMAGES, quick


@quick
@given(IMAGES, st.floats(0.01, 0.99))
def test_net_benefit_counts_true_and_false_positives(images, threshold):
    labels, scores = zip(*images, strict=True)
    called = [label for label, score in images if score >= threshold]
    expected = (sum(called) - (len(called) - sum(called)) * threshold / (1 - threshold)) / len(images)
    curve = find_net_benefit(labels, scores, [threshold])
    assert curve.model.item() == pytest.approx(expected)
    share = sum(labels) / len(labels)
    assert curve.treat_all.item() == pytest.approx(share - (1 - share) * threshold / (1 - threshold))
    assert curve.treat_none.item() == 0


def test_scores_of_one_treat_all_and_scores_of_zero_treat_none():
    labels = [0, 0, 0, 1]
    everybody, nobody = find_net_benefit(labels, [1] * 4), find_net_benefit(labels, [0] * 4)
    assert everybody.model == pytest.approx(everybody.treat_all)
    assert nobody.model == pytest.approx(nobody.treat_none)
    assert everybody.treat_all[24] == pytest.approx(0, abs=1e-12)  # treating all breaks even at the prevalence
    assert everybody.thresholds[24] == 0.25


def test_perfect_scores_gain_the_prevalence():
    assert find_net_benefit([0, 0, 0, 1], [0, 0, 0, 1]).model == pytest.approx(np.full(99, 0.25))
    assert find_net_benefit([0, 0, 0, 1], [0, 0, 0, 1], prevalence=0.02).model == pytest.approx(np.full(99, 0.02))


def test_prevalence_reweighs_the_classes():
    """Repeating the normal images is the same as a lower prevalence."""
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.2, 0.7, 0.4, 0.9])
    rows = [0, 1] * 4 + [2, 3]
    expected = find_net_benefit(labels[rows], scores[rows]).model
    assert find_net_benefit(labels, scores, prevalence=0.2).model == pytest.approx(expected)


def test_thresholds_and_prevalence_out_of_range_are_refused():
    with pytest.raises(EvaluationError, match=r"above 0 and below 1, received 0\.0, 1\.0, nan\. Leave them out"):
        find_net_benefit([0, 1], [0.1, 0.9], [0, 0.5, 1, np.nan])
    with pytest.raises(EvaluationError, match=r"one row of thresholds is needed, received the shape \(1, 1\)"):
        find_net_benefit([0, 1], [0.1, 0.9], [[0.5]])
    with pytest.raises(EvaluationError, match="a prevalence from 0 to 1 is needed, received 2"):
        find_net_benefit([0, 1], [0.1, 0.9], prevalence=2)
