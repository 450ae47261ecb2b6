"""The permutation test against an oracle that exchanges groups and compares pair by pair, and its error."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from hip_mri.errors import EvaluationError
from hip_mri.promotion import permutation
from hip_mri.promotion.permutation import compare_by_permutation, find_min_p_value
from tests.evaluation.metrics.studies import quick

PAIRED = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(0, 8), st.integers(0, 4)), min_size=6, max_size=30
).filter(lambda rows: len({row[0] for row in rows}) == 2 and len({row[3] for row in rows}) >= 3)
"""Label, two scores in eighths (ties are common) and group."""


def unpack(rows):
    labels, first, second, groups = (np.array(values) for values in zip(*rows, strict=True))
    return labels, first / 8, second / 8, groups


def draw_study(generator, num_lesion_groups, num_normal_groups, correlation, size=6, gain=0.0):
    """Binormal scores of two models; half of what is particular to an image is shared within its group."""
    labels = np.repeat([1, 0], [num_lesion_groups * size, num_normal_groups * size])
    groups = np.repeat(np.arange(num_lesion_groups + num_normal_groups), size)

    def draw():
        return 0.7**0.5 * generator.normal(size=groups.max() + 1)[groups] + 0.3**0.5 * generator.normal(
            size=len(groups)
        )

    shared = draw()
    first, second = (
        correlation**0.5 * shared + (1 - correlation) ** 0.5 * draw() + (1.3 + shift) * labels for shift in (gain, 0)
    )
    return labels, 1 / (1 + np.exp(-first)), 1 / (1 + np.exp(-second)), groups


def count_pairs(labels, scores):
    lesions, normals = scores[labels == 1][:, None], scores[labels == 0]
    return ((lesions > normals) + 0.5 * (lesions == normals)).mean()


def exchange_groups(labels, first, second, groups):
    """Difference of the AUCs, pair by pair, after exchanging each subset of groups, and what part of them it has."""
    ranks = rankdata(first), rankdata(second)
    names = np.unique(groups)
    for chosen in itertools.product([False, True], repeat=len(names)):
        is_exchanged = np.isin(groups, names[list(chosen)])
        swapped = np.where(is_exchanged, ranks[1], ranks[0]), np.where(is_exchanged, ranks[0], ranks[1])
        share = (is_exchanged[labels == 1].mean() + is_exchanged[labels == 0].mean()) / 2
        yield count_pairs(labels, swapped[0]) - count_pairs(labels, swapped[1]), share


@quick
@given(PAIRED)
def test_p_value_counts_exchanged_groups_with_as_large_a_difference(rows):
    labels, first, second, groups = unpack(rows)
    differences, shares = np.array(list(exchange_groups(labels, first, second, groups))).T
    num_groups = len(np.unique(groups))
    factor = math.sqrt(num_groups / (num_groups - 2))
    is_as_large = (factor * differences >= differences[0] - 1e-9) | (2 * factor * shares <= factor - 1 + 1e-9)
    _, p_value = compare_by_permutation(labels, first, second, groups, 0.05)
    assert p_value == np.mean(is_as_large)


@quick
@given(PAIRED)
def test_the_other_way_round_limits_change_their_sign(rows):
    labels, first, second, groups = unpack(rows)
    there, _ = compare_by_permutation(labels, first, second, groups, 0.2)
    back, _ = compare_by_permutation(labels, second, first, groups, 0.2)
    assert back == pytest.approx((-there[1], -there[0]))


@quick
@given(PAIRED, st.sampled_from([0.01, 0.1, 0.4]))
def test_the_lower_limit_is_above_zero_where_the_p_value_says_so(rows, alpha):
    labels, first, second, groups = unpack(rows)
    (lower, upper), p_value = compare_by_permutation(labels, first, second, groups, alpha)
    assert lower - 1e-9 <= count_pairs(labels, first) - count_pairs(labels, second) <= upper + 1e-9
    assert lower <= 1e-9 or p_value <= alpha
    assert lower >= -1e-9 or p_value > alpha


@quick
@given(PAIRED, st.integers(0, 100))
def test_neither_calibration_nor_the_order_of_images_matters(rows, seed):
    labels, first, second, groups = unpack(rows)
    order = np.random.default_rng(seed).permutation(len(labels))
    interval, p_value = compare_by_permutation(labels, first, second, groups, 0.1)
    again = compare_by_permutation(labels[order], first[order] ** 3 / 2, second[order], groups[order], 0.1)
    assert again[0] == pytest.approx(interval)
    assert again[1] == p_value


def test_equal_scores_differ_by_nothing():
    labels, first, _, groups = draw_study(np.random.default_rng(0), 12, 12, 0.9)
    assert compare_by_permutation(labels, first, first, groups, 0.05) == ((0, 0), 1)


def test_without_an_error_to_spend_nothing_is_known():
    interval, _ = compare_by_permutation(*draw_study(np.random.default_rng(0), 12, 12, 0.9), 0.0)
    assert interval == (-1, 1)


def test_a_model_that_is_better_in_every_group_is_better():
    labels = np.repeat([1, 0], 10)
    groups = np.arange(20)
    (lower, _), p_value = compare_by_permutation(labels, 0.2 + 0.6 * labels, np.full(20, 0.5), groups, 0.001)
    assert p_value < 1e-4
    assert lower > 0.3


def test_random_subsets_agree_with_all_of_them():
    study = draw_study(np.random.default_rng(3), 7, 8, 0.5, gain=0.8)
    every, some = compare_by_permutation(*study, 0.05, 1 << 15), compare_by_permutation(*study, 0.05, (1 << 15) - 1)
    assert some[1] == pytest.approx(every[1], abs=0.01)
    assert some[0] == pytest.approx(every[0], abs=0.02)


def test_the_result_does_not_depend_on_the_memory_that_is_used(monkeypatch):
    study, num_subsets = draw_study(np.random.default_rng(3), 151, 150, 0.5, size=1, gain=0.1), 10_003
    expected = compare_by_permutation(*study, 0.05, num_subsets)
    monkeypatch.setattr(permutation, "MAX_BYTES", 1 << 16)
    tracemalloc.start()
    found = compare_by_permutation(*study, 0.05, num_subsets)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found[0] == pytest.approx(expected[0], abs=1e-12)
    assert found[1] == expected[1]
    assert peak < 301 * 10_003 * 8 / 4  # a quarter of all subsets


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_few_groups_reject_no_more_than_nominal(correlation):
    """Of 400 studies of equal models, 20 are expected below 5%; 37 or more have a probability of 0.02%."""
    generator = np.random.default_rng(7)
    p_values = [compare_by_permutation(*draw_study(generator, 5, 5, correlation), 0.05)[1] for _ in range(400)]
    assert sum(value <= 0.05 for value in p_values) < 37


@quick
@given(PAIRED)
def test_no_p_value_is_below_the_smallest(rows):
    labels, first, second, groups = unpack(rows)
    assert find_min_p_value(labels, groups) <= compare_by_permutation(labels, first, second, groups, 0.05)[1]


def test_the_smallest_p_value_is_that_of_no_exchange():
    labels = np.repeat([1, 0], 4)
    assert find_min_p_value(labels, np.arange(8)) == 1 / 2**8
    assert find_min_p_value(np.repeat([1, 0], 20), np.arange(40), 999) == 1 / 1000


def test_too_few_groups_are_refused():
    with pytest.raises(EvaluationError, match=r"3 groups .* 2\b"):
        compare_by_permutation([1, 1, 0, 0], [0.5] * 4, [0.5] * 4, ["a", "a", "a", "b"], 0.05)
