import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hip_mri.evaluation.metrics import resampling, weighted
from hip_mri.evaluation.metrics.resampling import MOST_CELLS, draw_group_weights, resample, tally_resamples
from hip_mri.evaluation.metrics.validation import check_sample
from tests.evaluation.metrics.studies import draw_study, quick


@quick
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=4, max_size=30), st.integers(0, 99))
def test_every_resample_has_both_classes_and_the_study_s_weight(images, seed):
    labels, groups = (np.array(values) for values in zip(*images, strict=True))
    if any(len(set(groups[labels == label])) < 2 for label in (0, 1)):
        return
    sample = check_sample(labels, np.full(len(labels), 0.5), groups)
    weights = draw_group_weights(sample, np.random.default_rng(seed), 20)
    assert weights.shape == (sample.num_groups, 20)
    assert weights.mean(axis=0) == pytest.approx(np.ones(20))
    for label in (0, 1):
        assert (weights[sample.groups[labels == label]].sum(axis=0) > 0).all()


def test_images_of_a_group_stay_together():
    labels, scores, patients = draw_study(np.random.default_rng(0), 30)
    scores = (patients + 1) / 100  # the score tells the patient
    sample = check_sample(labels, scores, patients)
    weights = draw_group_weights(sample, np.random.default_rng(0), 50)
    tally = weighted.tally_sample(sample, weights)
    sizes = np.bincount(patients)[:, None]
    assert tally.lesions + tally.normals == pytest.approx(weights * sizes)


def test_a_mean_over_groups_varies_as_theory_says():
    """Groups of one size: the variance of the mean is that of the groups' means, n - 1 in the denominator, over n."""
    generator = np.random.default_rng(0)
    scores = generator.random(12)
    labels, groups = np.tile([0, 1], 12), np.repeat(np.arange(12), 2)
    sample = check_sample(labels, np.repeat(scores, 2), groups)
    brier = resample(sample, weighted.measure_probabilities, 0, 20_000)["brier"]
    means = ((1 - scores) ** 2 + scores**2) / 2
    assert brier.var() == pytest.approx(means.var(ddof=1) / 12, rel=0.05)


def test_the_same_seed_gives_the_same_resamples():
    sample = check_sample(*draw_study(np.random.default_rng(0), 30))
    first, again, other = (resample(sample, weighted.measure_ranking, seed, 50)["auc"] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_memory_is_bounded_by_measuring_a_few_resamples_at_a_time():
    labels = np.tile([0, 1], MOST_CELLS // 8)
    sample = check_sample(labels, np.linspace(0, 1, len(labels)))
    sizes = [tally.lesions.shape for tally in tally_resamples(sample, 0, 10)]
    assert sizes == [(len(labels), 4), (len(labels), 4), (len(labels), 2)]


def test_a_sample_is_sorted_once_for_all_its_resamples(monkeypatch):
    """Else the time of a bootstrap grows with the square of the images: the more there are, the fewer resamples fit
    into one chunk."""
    sample = check_sample(*draw_study(np.random.default_rng(0), 30))
    sorted_lengths = []
    sort = np.argsort
    monkeypatch.setattr(np, "argsort", lambda values, **how: sorted_lengths.append(len(values)) or sort(values, **how))
    monkeypatch.setattr(resampling, "MOST_CELLS", len(sample.labels))  # one resample per chunk
    resample(sample, weighted.measure_ranking, 0, 50)
    assert sorted_lengths == [len(sample.labels)]
