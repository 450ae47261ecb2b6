"""Examinations are inferred from descriptors drawn at random, of patients that are known to the test alone."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hip_mri.dataset.row_store import StoredRows
from hip_mri.grouping.examinations.descriptors import (
    Descriptors,
    describe_features,
    describe_orientations,
    find_informative_order,
    make_comparable,
)
from hip_mri.grouping.examinations.images import UNKNOWN
from hip_mri.grouping.examinations.inference import Inference, infer_examinations
from hip_mri.grouping.examinations.p_value_mixture import fit_mixture

NUM_VALUES = 60


def draw_patients(seed: int, num_patients: int = 40, step: float = 0.5) -> tuple[NDArray, NDArray]:
    """Slices of patients one after the other: the anatomy changes from slice to slice, the patient does not.

    Returns:
        Descriptors and the patient of each image.
    """
    generator = np.random.default_rng(seed)
    anatomy = generator.normal(size=(20, NUM_VALUES)).cumsum(axis=0) * step
    rows, patients = [], []
    for patient in range(num_patients):
        first, count = generator.integers(0, 8), generator.integers(3, 12)
        own = 3 * generator.normal(size=NUM_VALUES)
        rows.append(own + anatomy[first : first + count] + 0.3 * generator.normal(size=(count, NUM_VALUES)))
        patients += [patient] * count
    return np.concatenate(rows).astype(np.float32), np.array(patients)


def read(rows: NDArray) -> Descriptors:
    class Stored(StoredRows):
        def __getitem__(self, positions):
            return rows[positions]

    return Descriptors(Stored((), np.zeros(len(rows), np.int32), np.arange(len(rows))), describe_features)


def infer(rows, sequence=None, patient=None, max_images=500) -> Inference:
    sequence = np.zeros(len(rows), np.int64) if sequence is None else sequence
    patient = np.full(len(rows), UNKNOWN) if patient is None else patient
    return infer_examinations(make_comparable([read(rows)], sequence, patient, seed=0), max_images, seed=0)


def connect(inference: Inference, num_images: int) -> NDArray:
    joins = inference.joins
    graph = coo_array((np.ones(len(joins)), (joins["first"], joins["second"])), shape=(num_images, num_images))
    return connected_components(graph, directed=False)[1]


def count_errors(groups: NDArray, patients: NDArray) -> tuple[float, float]:
    """Fractions of the neighbors of one patient that are cut, and of the borders between patients that are missed."""
    is_same, is_joined = patients[1:] == patients[:-1], groups[1:] == groups[:-1]
    return float((~is_joined[is_same]).mean()), float(is_joined[~is_same].mean())


@pytest.mark.parametrize("seed", range(3))
def test_slices_in_order_are_joined_and_patients_are_not(seed):
    rows, patients = draw_patients(seed)
    inference = infer(rows)
    cut, missed = count_errors(connect(inference, len(rows)), patients)
    assert cut <= 0.02
    assert missed <= 0.5
    assert inference.is_ordered
    assert 0 <= inference.false_cuts <= 0.05


def test_joins_have_no_cycle_and_probabilities():
    rows, _ = draw_patients(0)
    inference = infer(rows)
    assert len(inference.joins) == len(rows) - len(set(connect(inference, len(rows))))
    for borders in (inference.joins, inference.cuts):
        assert borders["certainty"].between(0, 1).all()
    assert set(inference.cuts["second"] - inference.cuts["first"]) == {1}


def test_the_same_for_the_same_images():
    rows, _ = draw_patients(1)
    assert infer(rows).joins.equals(infer(rows).joins)


def test_an_image_unlike_its_neighbors_cuts_nothing():
    rows, patients = draw_patients(2)
    inside = np.flatnonzero((patients[1:-1] == patients[2:]) & (patients[1:-1] == patients[:-2]))[::9] + 1
    rows[inside] = np.random.default_rng(0).normal(size=(len(inside), NUM_VALUES)) * 4
    groups = connect(infer(rows), len(rows))
    assert (groups[inside - 1] == groups[inside + 1]).mean() > 0.9


def test_an_examination_in_both_class_folders_is_found_by_its_features():
    rows, patients = draw_patients(3)
    is_mixed = patients < 4
    is_lesion = np.where(is_mixed, np.arange(len(rows)), patients) % 2 == 1
    order = np.lexsort((np.arange(len(rows)), is_lesion))
    inference = infer(rows[order], is_lesion[order].astype(np.int64))
    groups = np.empty(len(rows), np.int64)
    groups[order] = connect(inference, len(rows))
    found = [set(groups[(patients == it) & is_lesion]) & set(groups[(patients == it) & ~is_lesion]) for it in range(4)]
    assert sum(bool(shared) for shared in found) >= 3
    assert "features" in set(inference.joins["kind"])


def test_a_shuffled_order_is_not_used():
    rows, patients = draw_patients(4)
    shuffled = np.random.default_rng(0).permutation(len(rows))
    sequence = np.zeros(len(rows), np.int64)
    assert find_informative_order([read(rows)], sequence, seed=0).all()
    assert not find_informative_order([read(rows[shuffled])], sequence, seed=0).any()
    both = np.concatenate([rows, rows[shuffled]])
    found = find_informative_order([read(both)], np.repeat([0, 1], len(rows)), seed=0)
    assert found.tolist() == [True] * len(rows) + [False] * len(rows)
    inference = infer(rows[shuffled], np.full(len(rows), UNKNOWN))
    assert not inference.is_ordered
    groups = np.empty(len(rows), np.int64)
    groups[shuffled] = connect(inference, len(rows))
    assert len(set(groups)) < len(rows) / 2
    assert count_errors(groups, patients)[1] <= 0.2


def test_images_without_an_order_are_joined_beside_others_with_one():
    """Half of the patients have numbered files; the metric is learned from these."""
    rows, patients = draw_patients(7)
    is_unordered = patients % 2 == 0
    shuffled = np.random.default_rng(0).permutation(np.flatnonzero(is_unordered))
    order = np.concatenate([shuffled, np.flatnonzero(~is_unordered)])
    sequence = np.where(is_unordered, UNKNOWN, 0)[order]
    groups = connect(infer(rows[order], sequence), len(rows))
    patients = patients[order]
    alone = [((groups == groups[it]) & (patients == patients[it])).sum() == 1 for it in range(len(shuffled))]
    assert np.mean(alone) < 0.1


def test_images_that_are_all_alike_are_no_error():
    rows = np.ones((100, NUM_VALUES), np.float32)
    assert len(infer(rows).joins) < len(rows)


def test_known_patients_are_neither_joined_nor_divided():
    rows, patients = draw_patients(5, step=0.0)
    rows[:] = rows[0] + np.random.default_rng(0).normal(size=rows.shape)  # all alike
    groups = connect(infer(rows, patient=patients), len(rows))
    assert count_errors(groups, patients) == (0, 0)


def test_no_examination_exceeds_the_largest_size():
    rows, _ = draw_patients(6)
    groups = connect(infer(rows, max_images=5), len(rows))
    assert np.bincount(groups).max() <= 5


def test_gradient_orientations_do_not_depend_on_the_contrast():
    thumbnails = np.random.default_rng(0).integers(0, 255, (4, 8, 8)).repeat(4, axis=1).repeat(4, axis=2)
    inverted = (255 - thumbnails) * 0.5 + 60
    first, second = (describe_orientations(images.astype(np.uint8)) for images in (thumbnails, inverted))
    similarity = np.corrcoef(np.concatenate([first, second]))
    assert np.diag(similarity[:4, 4:]).min() > 0.95
    assert (similarity[:4, 4:] - 2 * np.eye(4)).max() < 0.5


@pytest.mark.parametrize(("fraction", "shape"), [(0.3, 0.02), (0.7, 0.1)])
def test_the_mixture_of_p_values_is_recovered(fraction, shape):
    generator = np.random.default_rng(0)
    p_values = np.where(
        generator.uniform(size=4000) < fraction, generator.uniform(size=4000), generator.beta(shape, 1, size=4000)
    )
    mixture = fit_mixture(p_values)
    assert mixture.stranger_fraction == pytest.approx(fraction, abs=0.05)
    assert mixture.shape == pytest.approx(shape, rel=0.15)
    missed = generator.beta(shape, 1, size=100_000) > mixture.find_limit(0.05)
    assert missed.mean() == pytest.approx(0.05, abs=0.015)
    certainty = mixture.certainty(np.array([1e-9, 0.01, 0.5, 1.0]))
    assert list(certainty) == sorted(certainty, reverse=True)
    assert mixture.certainty(np.array(mixture.find_certain(0.4))) == pytest.approx(0.4)


def test_uniform_p_values_show_no_pairs():
    assert fit_mixture(np.random.default_rng(1).uniform(size=500)).stranger_fraction == 1
