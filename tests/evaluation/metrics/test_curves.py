import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve, roc_curve

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.curves import bootstrap_curves, compute_net_benefit
from tests.evaluation.metrics.studies import IMAGES, TRUE_AUC, draw_study, quick


@quick
@given(IMAGES.filter(lambda images: 1 < sum(label for label, _ in images) < len(images) - 1))
def test_curves_are_those_of_scikit_learn(images):
    labels, scores = zip(*images, strict=True)
    bands = bootstrap_curves(labels, scores, None, num_resamples=20, num_points=11)
    false_alarms, sensitivities, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert bands.roc.curve == pytest.approx(np.interp(bands.roc.grid, false_alarms, sensitivities))
    precisions, recalls, _ = precision_recall_curve(labels, scores)
    steps = list(zip(recalls[-2::-1], precisions[-2::-1], strict=True))  # from the highest threshold down
    expected = [next(precision for recall, precision in steps if recall >= x - 1e-12) for x in bands.roc.grid]
    assert bands.precision_recall.curve == pytest.approx(expected)


def test_bands_surround_the_curves():
    bands = bootstrap_curves(*draw_study(np.random.default_rng(0), 60), num_resamples=200)
    for band in (bands.roc, bands.precision_recall):
        assert band.grid.shape == band.curve.shape == band.lower.shape == band.upper.shape == (101,)
        assert (band.lower >= 0).all()
        assert (band.lower <= band.curve).all()
        assert (band.curve <= band.upper).all()
        assert (band.upper <= 1).all()
    assert (bands.roc.lower[-1], bands.roc.upper[-1]) == (1, 1)
    assert np.trapezoid(bands.roc.lower, bands.roc.grid) < TRUE_AUC < np.trapezoid(bands.roc.upper, bands.roc.grid)


def test_more_patients_make_narrower_bands():
    widths = []
    for num_patients in (40, 400):
        band = bootstrap_curves(*draw_study(np.random.default_rng(0), num_patients), num_resamples=200).roc
        widths.append((band.upper - band.lower)[10:90].mean())
    assert widths[1] < widths[0] / 2


def test_one_group_of_a_class_has_no_band():
    with pytest.raises(EvaluationError, match=r"found 1 and 2"):
        bootstrap_curves([1, 1, 0, 0], [0.5] * 4, list("aabc"))


@quick
@given(IMAGES, st.floats(0.01, 0.99))
def test_net_benefit_counts_true_and_false_positives(images, threshold):
    labels, scores = zip(*images, strict=True)
    called = [label for label, score in images if score >= threshold]
    expected = (sum(called) - (len(called) - sum(called)) * threshold / (1 - threshold)) / len(images)
    curve = compute_net_benefit(labels, scores, np.array([threshold]))
    assert curve.model.item() == pytest.approx(expected)
    prevalence = sum(labels) / len(labels)
    assert curve.treat_all.item() == pytest.approx(prevalence - (1 - prevalence) * threshold / (1 - threshold))


def test_scores_of_one_treat_all_and_scores_of_zero_treat_none():
    labels = [0, 0, 0, 1]
    treat_all, treat_none = compute_net_benefit(labels, [1] * 4), compute_net_benefit(labels, [0] * 4)
    assert treat_all.model == pytest.approx(treat_all.treat_all)
    assert treat_none.model == pytest.approx(np.zeros(99))
    assert treat_all.treat_all[24] == pytest.approx(0, abs=1e-12)  # treating all breaks even at the prevalence
    assert treat_all.thresholds[24] == 0.25


def test_the_net_benefit_of_perfect_scores_is_the_prevalence():
    assert compute_net_benefit(labels := [0, 0, 0, 1], labels).model == pytest.approx(np.full(99, 0.25))
