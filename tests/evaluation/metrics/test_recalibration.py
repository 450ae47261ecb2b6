import numpy as np
import pytest
from hypothesis import given
from scipy.optimize import minimize

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.logistic import compute_logits
from hip_mri.evaluation.metrics.measures import measure_probabilities, measure_ranking
from hip_mri.evaluation.metrics.recalibration import Platt, fit_platt
from tests.evaluation.metrics.studies import IMAGES, draw_study, quick


def test_fit_minimises_platt_s_cross_entropy():
    labels, scores, _ = draw_study(np.random.default_rng(0), 40)
    logits, num_lesions = compute_logits(scores), labels.sum()
    targets = np.where(labels == 1, (num_lesions + 1) / (num_lesions + 2), 1 / (len(labels) - num_lesions + 2))

    def find_loss(coefficients):
        raised = coefficients[0] * logits + coefficients[1]
        return (np.logaddexp(0, raised) - targets * raised).sum()

    expected = minimize(find_loss, [1, 0], tol=1e-10).x
    fitted = fit_platt(labels, scores)
    assert [fitted.slope, fitted.intercept] == pytest.approx(expected, abs=1e-4)


@quick
@given(IMAGES)
def test_order_and_auc_stay(images):
    labels, scores = (np.array(values) for values in zip(*images, strict=True))
    try:
        platt = fit_platt(labels, scores)
    except EvaluationError:
        return
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    calibrated = platt.apply(scores)
    assert ((calibrated >= 0) & (calibrated <= 1)).all()
    rising = np.argsort(clipped, kind="stable")
    assert (np.diff(calibrated[rising]) >= 0).all()


def test_recalibrated_scores_are_calibrated_and_rank_as_before():
    """Fitted on one study, applied to another of the same kind."""
    labels, scores, _ = draw_study(np.random.default_rng(0), 3000)
    distorted = 1 / (1 + np.exp(-(2.5 * compute_logits(scores) + 1)))
    platt = fit_platt(labels, distorted)
    new_labels, new_scores, _ = draw_study(np.random.default_rng(1), 3000)
    new_scores = 1 / (1 + np.exp(-(2.5 * compute_logits(new_scores) + 1)))
    before = measure_probabilities(new_labels, new_scores)
    after = measure_probabilities(new_labels, platt.apply(new_scores))
    assert before["calibration_slope"] < 0.6
    assert after["calibration_slope"] == pytest.approx(1, abs=0.1)
    assert after["calibration_intercept"] == pytest.approx(0, abs=0.15)
    assert after["brier"] < before["brier"]
    ranking = measure_ranking(new_labels, new_scores)
    assert measure_ranking(new_labels, platt.apply(new_scores)) == pytest.approx(ranking, abs=1e-12)


def test_separated_classes_still_give_a_finite_fit():
    platt = fit_platt([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    assert 0 < platt.slope < 100
    assert platt.apply([0.0, 1.0]).tolist() == sorted(platt.apply([0.0, 1.0]))


def test_identity_leaves_scores_alone():
    assert Platt(1, 0).apply([[0.25], [0.5]]) == pytest.approx(np.array([[0.25], [0.5]]))


@pytest.mark.parametrize("scores", [[0.9, 0.8, 0.2, 0.1], [0.5, 0.5, 0.5, 0.5]])
def test_the_order_is_never_reversed(scores):
    with pytest.raises(EvaluationError, match="do not score higher"):
        fit_platt([0, 0, 1, 1], scores)
