import numpy as np
import pytest
from hypothesis import given
from sklearn.metrics import precision_recall_curve, roc_curve

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.curves import bootstrap_curves
from hip_mri.evaluation.metrics.resampling import count_rarer_groups
from hip_mri.evaluation.metrics.validation import check_sample
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
    assert count_rarer_groups(check_sample([1, 1, 0, 0], [0.5] * 4, list("aabc"))) == 1
    with pytest.raises(EvaluationError, match="needs at least two groups with lesions and two with normal images"):
        bootstrap_curves([1, 1, 0, 0], [0.5] * 4, list("aabc"))
