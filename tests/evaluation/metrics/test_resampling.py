import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hip_mri.evaluation.metrics import resampling
from hip_mri.evaluation.metrics.measures import compute_probability_metrics, compute_ranking_metrics, tally_scores
from hip_mri.evaluation.metrics.resampling import MAX_CELLS, draw_group_weights, resample, tally_resamples
from hip_mri.evaluation.metrics.validation import validate_scores
from tests.evaluation.metrics.studies import draw_study, quick


@quick
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=4, max_size=30), st.integers(0, 99))
def test_every_resample_has_both_classes_and_the_total_weight(images, seed):
    labels, groups = (np.array(values) for values in zip(*images, strict=True))
    if any(len(set(groups[labels == label])) < 2 for label in (0, 1)):
        return
    validated = validate_scores(labels, np.full(len(labels), 0.5), groups)
    weights = draw_group_weights(validated, np.random.default_rng(seed), 20)
    assert weights.shape == (validated.num_groups, 20)
    assert weights.mean(axis=0) == pytest.approx(np.ones(20))
    for label in (0, 1):
        assert (weights[validated.groups[labels == label]].sum(axis=0) > 0).all()


def test_images_of_a_group_stay_together():
    labels, scores, patients = draw_study(np.random.default_rng(0), 30)
    scores = (patients + 1) / 100  # the score identifies the patient
    validated = validate_scores(labels, scores, patients)
    weights = draw_group_weights(validated, np.random.default_rng(0), 50)
    tally = tally_scores(validated, weights)
    sizes = np.bincount(patients)[:, None]
    assert tally.lesions + tally.normals == pytest.approx(weights * sizes)


def test_a_mean_over_groups_varies_as_theory_says():
    """Groups of one size: the variance of the mean is that of the groups' means, n - 1 in the denominator, over n."""
    generator = np.random.default_rng(0)
    scores = generator.random(12)
    labels, groups = np.tile([0, 1], 12), np.repeat(np.arange(12), 2)
    validated = validate_scores(labels, np.repeat(scores, 2), groups)
    brier = resample(validated, compute_probability_metrics, 0, 20_000)["brier"]
    means = ((1 - scores) ** 2 + scores**2) / 2
    assert brier.var() == pytest.approx(means.var(ddof=1) / 12, rel=0.05)


def test_the_same_seed_gives_the_same_resamples():
    validated = validate_scores(*draw_study(np.random.default_rng(0), 30))
    first, again, other = (resample(validated, compute_ranking_metrics, seed, 50)["auc"] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_memory_is_bounded_by_measuring_a_few_resamples_at_a_time():
    labels = np.tile([0, 1], MAX_CELLS // 8)
    validated = validate_scores(labels, np.linspace(0, 1, len(labels)))
    sizes = [tally.lesions.shape for tally in tally_resamples(validated, 0, 10)]
    assert sizes == [(len(labels), 4), (len(labels), 4), (len(labels), 2)]


def test_scores_are_sorted_once_for_all_resamples(monkeypatch):
    """Otherwise the time of a bootstrap grows with the square of the number of images."""
    validated = validate_scores(*draw_study(np.random.default_rng(0), 30))
    sorted_lengths = []
    sort = np.argsort
    monkeypatch.setattr(np, "argsort", lambda values, **how: sorted_lengths.append(len(values)) or sort(values, **how))
    monkeypatch.setattr(resampling, "MAX_CELLS", len(validated.labels))  # one resample per chunk
    resample(validated, compute_ranking_metrics, 0, 50)
    assert sorted_lengths == [len(validated.labels)]
