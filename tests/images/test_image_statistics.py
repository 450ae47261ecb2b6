"""The numbers that describe an image, against definitions written out."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.stats import entropy, skew

from hip_mri.errors import ImageError
from hip_mri.images.image_statistics import PERCENTILES, STATISTICS, compute_statistics
from tests.conftest import draw_image

IMAGES = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=st.integers(0, 255))


def describe(image: np.ndarray) -> dict[str, float]:
    return dict(zip([statistic.name for statistic in STATISTICS], compute_statistics(image), strict=True))


@pytest.fixture
def image() -> np.ndarray:
    return draw_image(np.random.default_rng(4), has_lesion=True)


@given(IMAGES)
def test_values_are_those_of_their_definitions(image):
    values = describe(image)
    levels = np.sort(image.ravel()).astype(np.float64)
    assert np.isfinite(list(values.values())).all()
    assert (values["height"], values["width"]) == image.shape
    assert values["mean"] == pytest.approx(levels.mean())
    assert values["standard_deviation"] == pytest.approx(levels.std(), abs=1e-9)
    for percent in PERCENTILES:
        assert values[f"percentile_{percent}"] == levels[-(-percent * len(levels) // 100) - 1]
    counts = np.unique(levels, return_counts=True)[1]
    assert values["entropy"] == pytest.approx(entropy(counts, base=2), abs=1e-9)
    assert values["skewness"] == pytest.approx(skew(levels) if len(counts) > 1 else 0, abs=1e-6)


@given(IMAGES)
def test_inverting_an_image_mirrors_its_levels_and_keeps_its_contrast(image):
    plain, inverted = describe(image), describe(255 - image)
    for name in ("mean", "border"):
        assert inverted[name] == pytest.approx(255 - plain[name])
    for name in ("height", "width", "aspect", "standard_deviation", "entropy", "gradient"):
        assert inverted[name] == pytest.approx(plain[name], abs=1e-9)
    assert inverted["skewness"] == pytest.approx(-plain["skewness"], abs=1e-6)


def test_the_border_is_a_frame_of_one_fiftieth():
    image = np.full((100, 150), 200, np.uint8)
    image[2:-2, 2:-2] = 30
    assert describe(image)["border"] == 200
    image[1:-1, 1:-1] = 30
    assert 30 < describe(image)["border"] < 200


def test_steps_tell_blur_and_noise(image):
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 20, image.shape), 0, 255).astype(np.uint8)
    steps = [describe(picture)["gradient"] for picture in (cv2.GaussianBlur(image, (0, 0), 2), image, noisy)]
    assert steps == sorted(steps)
    ramp = np.tile(np.arange(0, 100, 5, dtype=np.uint8), (10, 1))
    assert describe(ramp)["gradient"] == 2.5  # 5 along rows, 0 along columns


def test_aspect_is_width_over_height():
    assert describe(np.eye(30, 60, dtype=np.uint8))["aspect"] == 2


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8)], ids=str
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ImageError, match="uint8 are needed"):
        compute_statistics(image)


def test_names_and_titles_are_unique():
    assert len({statistic.name for statistic in STATISTICS}) == len({s.title for s in STATISTICS}) == len(STATISTICS)
    assert all(statistic.min_spread > 0 for statistic in STATISTICS)
