"""Phantoms drawn as volumes: slices, series, classes and running numbers of the patients."""

import itertools
from dataclasses import fields

import numpy as np
import pytest

from hip_mri.config import LABELS
from hip_mri.synthetic.volumes import (
    MAX_SERIES,
    MAX_SLICES,
    MAX_SPACING,
    MIN_SLICES,
    SLICE_DISTANCE,
    VolumeImage,
    draw_volumes,
)

NUM_PATIENTS = 14


@pytest.fixture(scope="module")
def images() -> list[VolumeImage]:
    return draw_volumes(6, NUM_PATIENTS, [5, MAX_SPACING])


def split_by(images: list[VolumeImage], *names: str) -> dict[tuple, list[VolumeImage]]:
    parts: dict[tuple, list[VolumeImage]] = {}
    for image in images:
        parts.setdefault(tuple(getattr(image, name) for name in names), []).append(image)
    return parts


def number_of(image: VolumeImage) -> int:
    return int(image.source_name[-10:-4])


def test_series_of_a_patient_show_nearly_the_same_slices_in_other_contrast(images: list[VolumeImage]):
    patients = split_by(images, "patient_id")
    assert len(patients) == NUM_PATIENTS
    for slices in patients.values():
        series = list(split_by(slices, "series").values())
        assert len(series) <= MAX_SERIES
        positions = np.array([[image.position for image in one] for one in series])
        assert np.ptp(positions, axis=0).max() < SLICE_DISTANCE
        assert len({image.pixels.shape for image in slices}) == 1
        assert MIN_SLICES <= len(series[0]) <= MAX_SLICES
        assert not any(np.array_equal(one[0].pixels, other[0].pixels) for one, other in itertools.pairwise(series))
    assert {len(split_by(slices, "series")) for slices in patients.values()} == {1, 2, 3}


def test_every_kth_slice_of_an_acquisition_is_kept(images: list[VolumeImage]):
    for series in split_by(images, "patient_id", "series").values():
        (distance,) = set(np.diff([image.position for image in series]).round(6))
        assert distance / SLICE_DISTANCE in (5, MAX_SPACING)


def test_numbers_run_on_in_each_class_folder_with_gaps(images: list[VolumeImage]):
    for (label,), of_class in split_by(images, "label").items():
        steps = np.diff(np.array([number_of(image) for image in of_class]))
        assert all(f"/{label}/" in image.source_name for image in of_class)
        assert steps.min() == 1
        assert 0.02 < (steps > 1).mean() < 0.3


def test_few_patients_have_slices_in_both_class_folders(images: list[VolumeImage]):
    labels = [{image.label for image in slices} for slices in split_by(images, "patient_id").values()]
    assert 1 <= sum(len(classes) == 2 for classes in labels) <= NUM_PATIENTS / 4
    assert {LABELS[0]} in labels
    assert {LABELS[1]} in labels


def test_neighboring_slices_of_a_series_are_more_alike_than_patients(images: list[VolumeImage]):
    def correlate(one: VolumeImage, other: VolumeImage) -> float:
        first, second = (image.pixels[::7, ::7][:32, :32].ravel() for image in (one, other))
        return float(np.corrcoef(first, second)[0, 1])

    firsts = [series[:2] for series in split_by(images, "patient_id", "series").values()]
    within = [correlate(*pair) for pair in firsts]
    between = [correlate(one[0], other[1]) for one, other in itertools.pairwise(firsts[::3])]
    assert np.median(within) > np.median(between) + 0.2


def test_random_labels_are_drawn_for_patients_and_no_lesion_is_painted():
    painted, unpainted = (draw_volumes(3, 8, [MAX_SPACING], has_random_labels=random) for random in (False, True))
    assert all(len({image.label for image in slices}) == 1 for slices in split_by(unpainted, "patient_id").values())
    assert {image.label for image in unpainted} == set(LABELS)
    is_ill = {image.patient_id: False for image in painted} | {
        image.patient_id: True for image in painted if image.label == LABELS[1]
    }
    assert set(is_ill.values()) == {False, True}
    for patient, with_lesion in is_ill.items():
        pairs = [(one, other) for one, other in zip(painted, unpainted, strict=True) if one.patient_id == patient]
        assert with_lesion != all(np.array_equal(one.pixels, other.pixels) for one, other in pairs)


def test_shuffled_numbers_alone_differ_and_same_seed_gives_the_same():
    drawn, again, shuffled = (draw_volumes(4, 4, [MAX_SPACING], is_shuffled=flag) for flag in (False, False, True))
    for one, other, moved in zip(drawn, again, shuffled, strict=True):
        for field in fields(VolumeImage):
            assert np.array_equal(getattr(one, field.name), getattr(other, field.name))
            assert field.name == "source_name" or np.array_equal(getattr(one, field.name), getattr(moved, field.name))
    assert sorted(image.source_name for image in drawn) == sorted(image.source_name for image in shuffled)
    assert [image.source_name for image in drawn] != [image.source_name for image in shuffled]
