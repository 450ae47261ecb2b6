"""The permutation test, against the definition of the distance and all relabelings; statistics of stored images."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import ingest_images
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.preprocessing import read_stored_image
from hip_mri.errors import WorkspaceError
from hip_mri.images.image_statistics import STATISTICS, compute_statistics
from hip_mri.monitoring import shift
from hip_mri.monitoring.shift import (
    describe_stored_images,
    draw_relabelings,
    measure_distances,
    measure_shifts,
    sample_one_per_group,
)

NUM_STATISTICS = len(STATISTICS)
MEAN = [statistic.name for statistic in STATISTICS].index("mean")


def draw_groups(seed: int, count: int) -> np.ndarray:
    """Independent statistics, with a spread far above `min_spread`."""
    return np.random.default_rng(seed).normal(100, 30, (count, NUM_STATISTICS))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_distances_are_those_of_kolmogorov_and_smirnov_with_ties_too(old, new):
    pooled = np.array([*old, *new], np.float64)[:, None]
    is_new = np.arange(len(pooled)) >= len(old)
    distance = measure_distances(pooled, is_new[None])[0, 0]
    largest = max(abs(np.mean(np.array(old) <= level) - np.mean(np.array(new) <= level)) for level in range(7))
    assert distance / (len(old) * len(new)) == pytest.approx(largest)


def test_the_true_labels_come_first_and_permutations_keep_the_counts(monkeypatch):
    monkeypatch.setattr(shift, "MAX_CELLS", 60)
    chunks = list(draw_relabelings(7, 5, 0.1, seed=3))
    rows = np.concatenate(chunks)
    assert len(chunks) > 2
    assert len(rows) == 100
    assert rows[0].tolist() == [False] * 7 + [True] * 5
    assert (rows.sum(axis=1) == 5).all()
    assert 0.3 < rows[1:].mean(axis=0).min() < rows[1:].mean(axis=0).max() < 0.55
    np.testing.assert_array_equal(rows, np.concatenate(list(draw_relabelings(7, 5, 0.1, seed=3))))


def test_p_values_are_those_of_all_relabelings():
    old, new = draw_groups(0, 7), draw_groups(1, 4) + 25
    pooled = np.concatenate([old, new])
    rows = np.array([np.isin(np.arange(11), chosen) for chosen in combinations(range(11), 4)])
    distances = measure_distances(pooled, rows)
    real = measure_distances(pooled, (np.arange(11) >= 7)[None])[0]
    exact = (distances.max(axis=1)[:, None] >= real).mean(axis=0)
    found = [found.p_value for found in measure_shifts(old, new, 0.001, seed=5)]
    np.testing.assert_allclose(found, exact, atol=0.02)


def test_p_values_hold_the_rate_over_all_statistics_together():
    lowest = []
    for seed in range(200):
        shifts = measure_shifts(draw_groups(seed, 25), draw_groups(1000 + seed, 8), 0.1, seed)
        lowest.append(min(found.p_value for found in shifts))
    assert np.mean(np.array(lowest) <= 0.1) <= 0.17  # 0.1 and 3 standard errors


def test_a_pure_shift_has_the_effect_of_the_standardized_difference():
    old = draw_groups(2, 40)
    for found, values in zip(measure_shifts(old, old - 45, None, 0), old.T, strict=True):
        assert found.effect == pytest.approx(45 / values.std())
        assert found.reference_median - found.new_median == pytest.approx(45)
        assert found.p_value is None


def test_a_change_of_shape_alone_is_found():
    old = draw_groups(3, 120)
    new = old[:60].copy()
    new[:, MEAN] = 100 + 60 * np.sign(new[:, MEAN] - 100)  # two kinds of images, with the old mean
    found = measure_shifts(old, new, 0.01, 0)[MEAN]
    assert found.p_value <= 0.01
    assert found.effect > 0.8


def test_values_that_all_but_agree_are_held_against_the_min_spread():
    old, new = np.full((20, NUM_STATISTICS), 100.0), np.full((10, NUM_STATISTICS), 101.0)
    found = measure_shifts(old, new, 0.01, 0)[MEAN]
    assert found.p_value <= 0.01
    assert found.effect == 0.25  # one gray level of four
    assert not found.is_beyond


@pytest.mark.parametrize(("nearest", "is_beyond"), [(29.0, False), (31.0, True), (-29.0, False), (-31.0, True)])
def test_beyond_means_outside_the_range_widened_by_itself(nearest, is_beyond):
    old = np.tile([[-10.0], [4.0], [10.0]], NUM_STATISTICS)
    new = np.tile([[nearest], [-500.0], [500.0]], NUM_STATISTICS)
    assert measure_shifts(old, new, None, 0)[MEAN].is_beyond == is_beyond


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(1, 20))
def test_one_image_is_sampled_per_group(codes, max_groups):
    groups = np.array(codes)
    positions = sample_one_per_group(groups, seed=1, max_groups=max_groups)
    assert len(set(groups[positions])) == len(positions) == min(max_groups, len(set(codes)))
    assert positions.tolist() == sorted(positions)
    np.testing.assert_array_equal(sample_one_per_group(groups, seed=1, max_groups=max_groups), positions)


def test_each_image_of_a_group_is_as_likely():
    groups = np.repeat([5, 2, 9], 4)
    drawn = np.concatenate([sample_one_per_group(groups, seed) for seed in range(2000)])
    assert (np.bincount(drawn, minlength=12) > 400).all()  # 500 expected, and a standard deviation of 19


def test_statistics_of_stored_images_are_those_of_their_pixels(workspace, source_zip):
    ingest_images([Delivery("source", source_zip)], workspace, num_threads=2)
    hashes = list(select_ready(read_manifest(workspace.manifest_file))["sha256"].head(5))[::-1]
    rows = describe_stored_images(hashes, workspace, num_threads=2)
    for sha256, row in zip(hashes, rows, strict=True):
        np.testing.assert_array_equal(row, compute_statistics(read_stored_image(sha256, workspace)))
    assert describe_stored_images([], workspace, num_threads=1).shape == (0, len(STATISTICS))
    workspace.image_file(hashes[2]).unlink()
    with pytest.raises(WorkspaceError, match=f"{hashes[2]}.* is missing"):
        describe_stored_images(hashes, workspace, num_threads=2)
