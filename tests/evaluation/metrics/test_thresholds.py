import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.thresholds import choose_threshold
from tests.evaluation.metrics.studies import IMAGES, quick


def compute_rate(labels, scores, threshold, label):
    return np.mean([score >= threshold for own, score in zip(labels, scores, strict=True) if own == label])


def list_thresholds(scores):
    """Every threshold inside (0, 1) that could decide differently, and more."""
    distinct = np.unique([0, *scores, 1])
    return [t for t in np.concatenate([distinct, (distinct[1:] + distinct[:-1]) / 2]) if 0 < t < 1]


def test_threshold_stands_halfway_between_neighbors():
    assert choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.8], "youden") == pytest.approx(0.4)
    assert choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.8], "sensitivity", 0.5) == pytest.approx(0.7)
    assert choose_threshold([0, 1, 1], [0.3, 0.2, 0.9], "sensitivity", 1) == pytest.approx(0.1)


def test_among_equals_youden_finds_the_most_lesions():
    """Calling the upper one, or the upper three, is worth 1/2 either way."""
    assert choose_threshold([1, 0, 1, 0], [0.2, 0.1, 0.8, 0.5], "youden") == pytest.approx(0.15)


def test_equal_scores_are_all_called():
    assert choose_threshold([0, 1], [0.5, 0.5], "youden") == pytest.approx(0.25)
    assert choose_threshold([0, 1], [0.5, 0.5], "sensitivity", 0.9) == pytest.approx(0.25)


def test_a_tenth_is_not_lost_to_rounding():
    scores = np.linspace(0.1, 0.9, 11)
    labels = [0] + [1] * 10
    assert compute_rate(labels, scores, choose_threshold(labels, scores, "sensitivity", 0.7), 1) == pytest.approx(0.7)


@quick
@given(IMAGES)
def test_no_threshold_beats_youden_s(images):
    labels, scores = zip(*images, strict=True)
    candidates = list_thresholds(scores)
    if set(scores) <= {0.0, 1.0} and len(set(scores)) == 1:
        return
    chosen = choose_threshold(labels, scores, "youden")
    assert 0 < chosen < 1
    values = [compute_rate(labels, scores, t, 1) - compute_rate(labels, scores, t, 0) for t in [chosen, *candidates]]
    assert values[0] == pytest.approx(max(values))


@quick
@given(IMAGES, st.floats(0.01, 1))
def test_sensitivity_is_reached_by_the_highest_threshold(images, required):
    labels, scores = zip(*images, strict=True)
    if compute_rate(labels, scores, np.nextafter(0, 1), 1) < required:
        with pytest.raises(EvaluationError, match="have a score above 0"):
            choose_threshold(labels, scores, "sensitivity", required)
        return
    chosen = choose_threshold(labels, scores, "sensitivity", required)
    reached = compute_rate(labels, scores, chosen, 1)
    assert 0 < chosen < 1
    assert reached >= required - 1e-9
    higher = [t for t in list_thresholds(scores) if t > chosen and compute_rate(labels, scores, t, 1) < reached]
    assert all(compute_rate(labels, scores, t, 1) < required for t in higher)


def test_neighbors_without_a_number_between_are_still_divided():
    upper = np.nextafter(0.5, 1)
    assert choose_threshold([0, 1], [0.5, upper], "youden") == upper


@pytest.mark.parametrize(
    ("labels", "scores", "rule", "required", "text"),
    [
        ([1, 1], [0.5, 0.6], "youden", None, "all 2 images are osseous_lesion"),
        ([0, 1], [0.5, 0.6], "best", None, "'best' is unknown.* 'youden' or 'sensitivity'"),
        ([0, 1], [0.5, 0.6], "sensitivity", None, "required sensitivity .* received None"),
        ([0, 1], [0.5, 0.6], "sensitivity", 1.2, "received 1.2"),
        ([0, 1, 1], [0.5, 0, 0.7], "sensitivity", 0.9, "2 of 2 lesions, but only 1 have"),
        ([0, 1], [1.0, 1.0], "sensitivity", 0.5, None),
        ([0, 1], [0.0, 0.0], "youden", None, None),
    ],
)
def test_scores_without_a_threshold_are_rejected(labels, scores, rule, required, text):
    if text is None:
        assert 0 < choose_threshold(labels, scores, rule, required) < 1
        return
    with pytest.raises(EvaluationError, match=text):
        choose_threshold(labels, scores, rule, required)
