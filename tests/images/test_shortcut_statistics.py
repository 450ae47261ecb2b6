"""Numbers that need no anatomy."""

import numpy as np
import pytest

from hip_mri.images.shortcut_statistics import KINDS, NUMBERS, compute_numbers, name_file_kind


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(20, 120, (100, 80), np.uint8)


def select(numbers: dict[str, float], kind: str) -> dict[str, float]:
    return {name: numbers[name] for name in KINDS[kind] if name != "file_kind"}


def test_the_center_changes_neither_size_nor_margin(image):
    changed = image.copy()
    changed[10:-10, 8:-8] = 250
    before, after = compute_numbers(image, 1.5), compute_numbers(changed, 1.5)
    for kind in ("size_and_file", "margin"):
        assert select(before, kind) == select(after, kind)
    assert before["mean"] < after["mean"]


def test_the_margin_changes_with_each_of_its_pixels(image):
    before = compute_numbers(image, 1)
    for row, column in ((0, 40), (9, 40), (-10, 40), (50, 7), (50, -8), (99, 79)):
        changed = image.copy()
        changed[row, column] = 250
        assert compute_numbers(changed, 1)["margin_mean"] > before["margin_mean"]


def test_a_marker_shows_in_its_corner_alone(image):
    changed = image.copy()
    changed[2:6, -6:-2] = 255
    before, after = compute_numbers(image, 1), compute_numbers(changed, 1)
    different = {name for name in NUMBERS if name.endswith("maximum") and before[name] != after[name]}
    assert different == {"upper_right_maximum"}


def test_size_file_and_blackness(image):
    image[:50] = 20
    numbers = compute_numbers(image, 0.25)
    assert (numbers["height"], numbers["width"], numbers["aspect"], numbers["compression"]) == (100, 80, 0.8, 0.25)
    assert 0.5 <= numbers["black_fraction"] < 0.6


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3), (8, 8)])
def test_all_numbers_are_finite_for_every_shape(shape):
    numbers = compute_numbers(np.full(shape, 7, np.uint8), 1)
    assert set(numbers) == set(NUMBERS)
    assert np.isfinite(list(numbers.values())).all()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a/b.png", "png"), ("b.JPG", "JPG"), ("b.nii.gz", "gz"), ("no suffix", "other"), ("Smith.Anna", "other")],
)
def test_only_known_suffixes_are_told_apart(name, kind):
    assert name_file_kind(name) == kind
