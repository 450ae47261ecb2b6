import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.delong import compare_auc, compute_variance, place_scores
from hip_mri.evaluation.metrics.validation import validate_scores
from tests.evaluation.metrics.studies import draw_study, quick

PAIRED = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(0, 8), st.integers(0, 6)), min_size=6, max_size=40
).filter(lambda rows: all(len({group for label, _, _, group in rows if label == wanted}) > 1 for wanted in (0, 1)))
"""Label, two scores in eighths (ties are common) and group, with two groups of either class at least."""


def unpack(rows):
    labels, first, second, groups = (np.array(values) for values in zip(*rows, strict=True))
    return labels, first / 8, second / 8, groups


def compare_pairs(labels, scores):
    """1 where a lesion beats a normal image, a half where they tie, shape (num_lesions, num_normals)."""
    lesions, normals = scores[labels == 1][:, None], scores[labels == 0]
    return (lesions > normals) + 0.5 * (lesions == normals)


def find_delong_covariance(labels, first, second):
    """DeLong's formulas (4) and (5), pair by pair: covariance of the means of rows plus that of columns."""
    pairs = [compare_pairs(labels, scores) for scores in (first, second)]
    rows, columns = np.cov([own.mean(axis=1) for own in pairs]), np.cov([own.mean(axis=0) for own in pairs])
    return rows / pairs[0].shape[0] + columns / pairs[0].shape[1]


def find_obuchowski_variance(labels, scores, groups):
    """Obuchowski's S10, S01 and S11, group by group."""
    pairs = compare_pairs(labels, scores)
    auc, (num_lesions, num_normals) = pairs.mean(), pairs.shape
    of_lesions, of_normals = groups[labels == 1], groups[labels == 0]
    s10 = s01 = s11 = 0.0
    for group in set(groups):
        lesion_part = (pairs.mean(axis=1)[of_lesions == group] - auc).sum()
        normal_part = (pairs.mean(axis=0)[of_normals == group] - auc).sum()
        s10, s01, s11 = s10 + lesion_part**2, s01 + normal_part**2, s11 + lesion_part * normal_part
    i10, i01, count = len(set(of_lesions)), len(set(of_normals)), len(set(groups))
    s10, s01, s11 = s10 * i10 / (i10 - 1) / num_lesions, s01 * i01 / (i01 - 1) / num_normals, s11 * count / (count - 1)
    return s10 / num_lesions + s01 / num_normals + 2 * s11 / (num_lesions * num_normals)


def find_error(labels, scores, groups=None):
    _, placements = place_scores(np.asarray(labels), np.asarray(scores))
    return math.sqrt(compute_variance(validate_scores(labels, scores, groups), placements))


def test_published_ratings_give_the_published_area_and_error():
    """109 CT images rated 1 to 5 by one reader: Hanley and McNeil, Radiology 143, 1982, table I: area 0.893.

    The standard error by DeLong's method, 0.0307, is that of Stata's `roctab` on the same ratings.
    """
    counts = {0: (33, 6, 6, 11, 2), 1: (3, 2, 2, 11, 33)}
    labels = np.repeat([0, 1], [sum(counts[0]), sum(counts[1])])
    ratings = np.concatenate([np.repeat([1, 2, 3, 4, 5], counts[label]) for label in (0, 1)])
    assert place_scores(labels, ratings)[0] == pytest.approx(0.8932, abs=5e-5)
    assert find_error(labels, ratings / 5) == pytest.approx(0.0307, abs=5e-5)


def test_small_example_by_hand():
    """Lesions at 2 and 4, normal images at 1 and 3: placements 1/2 and 1, 1 and 1/2; variances 1/8, halved, added."""
    labels, scores = np.array([1, 1, 0, 0]), np.array([0.2, 0.4, 0.1, 0.3])
    auc, placements = place_scores(labels, scores)
    assert auc == 0.75
    assert placements.tolist() == [0.5, 1, 1, 0.5]
    assert find_error(labels, scores) == pytest.approx(math.sqrt(1 / 8))


@quick
@given(PAIRED)
def test_areas_and_error_are_those_of_delong_pair_by_pair(rows):
    labels, first, second, _ = unpack(rows)
    compared, covariance = compare_auc(labels, first, second), find_delong_covariance(labels, first, second)
    assert compared.first_auc == pytest.approx(compare_pairs(labels, first).mean())
    assert compared.second_auc == pytest.approx(compare_pairs(labels, second).mean())
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert compared.standard_error**2 == pytest.approx(variance, abs=1e-12)


@quick
@given(PAIRED)
def test_with_groups_the_error_is_obuchowski_s(rows):
    labels, first, _, groups = unpack(rows)
    expected = max(find_obuchowski_variance(labels, first, groups), 0)
    assert find_error(labels, first, groups) ** 2 == pytest.approx(expected, abs=1e-12)


@quick
@given(PAIRED)
def test_single_images_as_groups_are_no_groups(rows):
    labels, first, second, _ = unpack(rows)
    assert compare_auc(labels, first, second, np.arange(len(labels))) == compare_auc(labels, first, second)


@quick
@given(PAIRED)
def test_the_other_way_round_the_difference_changes_its_sign(rows):
    labels, first, second, groups = unpack(rows)
    there, back = compare_auc(labels, first, second, groups), compare_auc(labels, second, first, groups)
    assert back.difference == pytest.approx(-there.difference)
    assert back.standard_error == pytest.approx(there.standard_error)


def test_each_image_twice_says_nothing_new():
    labels, first, patients = draw_study(np.random.default_rng(0), 60)
    second = np.random.default_rng(1).random(len(labels))
    once = compare_auc(labels, first, second, patients)
    twice = compare_auc(np.tile(labels, 2), np.tile(first, 2), np.tile(second, 2), np.tile(patients, 2))
    assert twice.standard_error == pytest.approx(once.standard_error)


def test_equal_scores_differ_by_nothing():
    labels, scores, patients = draw_study(np.random.default_rng(0), 30)
    compared = compare_auc(labels, scores, scores, patients)
    assert (compared.difference, compared.standard_error) == (0, 0)


def test_degrees_of_freedom_lie_between_those_of_the_rarer_class_and_of_both():
    """With equal parts of the variance they add up; where one class has all of it, its own remain."""
    labels = np.repeat([1, 0], [5, 20])
    first = np.concatenate([[0.9, 0.1, 0.8, 0.2, 0.7], np.full(20, 0.5)])
    compared = compare_auc(labels, first, np.full(25, 0.5))
    assert compared.degrees_of_freedom == pytest.approx(4)
    labels, first, patients = draw_study(np.random.default_rng(0), 60)
    compared = compare_auc(labels, first, np.random.default_rng(1).random(len(labels)), patients)
    num_groups = [len(set(patients[labels == label])) for label in (0, 1)]
    assert min(num_groups) - 1 <= compared.degrees_of_freedom <= sum(num_groups) - 2


def test_one_group_with_lesions_is_not_enough():
    with pytest.raises(EvaluationError, match=r"1 groups .* 2 "):
        compare_auc([1, 1, 0, 0], [0.5] * 4, [0.5] * 4, ["a", "a", "a", "b"])
