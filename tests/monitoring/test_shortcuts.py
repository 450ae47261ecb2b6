"""The shortcut test finds planted differences between the classes, and none where there is none."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from hip_mri.config import LABELS
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.images.shortcut_statistics import NUMBERS, compute_numbers
from hip_mri.monitoring.shortcuts import COMBINATIONS, measure_shortcuts, score_images

NUM_IMAGES = 240


def draw_table(seed: int, plant: Callable[[np.ndarray], np.ndarray] = lambda image: image) -> pd.DataFrame:
    """Numbers of noise with a brightness of its own per image; lesions get `plant`."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(NUM_IMAGES):
        levels = generator.normal(generator.uniform(80, 110), 20, (64, 64)).clip(0, 255).round().astype(np.uint8)
        label = LABELS[number % 2]
        rows.append({"label": label, **compute_numbers(plant(levels) if label == LABELS[1] else levels, 1.0)})
    return pd.DataFrame(rows).assign(file_kind="png")


def measure_auc(table: pd.DataFrame, scores: np.ndarray) -> float:
    is_lesion = (table["label"] == LABELS[1]).to_numpy()
    above, below = scores[is_lesion][:, None], scores[~is_lesion]
    return float(((above > below) + (above == below) / 2).mean())


def put_marker(levels: np.ndarray) -> np.ndarray:
    levels = levels.copy()
    levels[1:4, 1:4] = 255
    return levels


def brighten(levels: np.ndarray) -> np.ndarray:
    return (levels.astype(float) * 1.5).clip(0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("plant", [put_marker, brighten, lambda levels: levels[:60]], ids=["marker", "bright", "size"])
def test_planted_differences_are_found_without_anatomy(plant):
    test = draw_table(1, plant)
    assert measure_auc(test, score_images(draw_table(0, plant), test)["score_without_anatomy"]) > 0.9


def test_a_difference_in_the_center_is_none_of_size_file_or_margin():
    def paint_center(levels: np.ndarray) -> np.ndarray:
        levels = levels.copy()
        levels[20:44, 20:44] = 255
        return levels

    test = draw_table(1, paint_center)
    scores = score_images(draw_table(0, paint_center), test)
    assert measure_auc(test, scores["score_gray_levels"]) > 0.9
    assert 0.3 < measure_auc(test, scores["score_without_anatomy"]) < 0.7


def test_the_kind_of_file_is_found():
    training, test = (
        table.assign(file_kind=np.where(table["label"] == LABELS[1], "JPG", "png"))
        for table in (draw_table(0), draw_table(1))
    )
    scores = score_images(training, test)
    assert measure_auc(test, scores["score_size_and_file"]) == 1
    assert 0.3 < measure_auc(test, scores["score_margin"]) < 0.7
    unknown = score_images(training, test.assign(file_kind="bmp"))["score_size_and_file"]
    assert ((unknown >= 0) & (unknown <= 1)).all()


def test_test_images_of_a_workspace_are_scored_once(prepared):
    file = measure_shortcuts(prepared, num_threads=1)
    table = pd.read_csv(file)
    images = select_ready(read_manifest(prepared.manifest_file)).query("split == 'test'")
    assert sorted(table["image_id"]) == sorted(images["image_id"])
    assert set(table["file_kind"]) == {"png"}
    assert {*NUMBERS, *(f"score_{name}" for name in COMBINATIONS)} < set(table.columns)
    written_at = file.stat().st_mtime_ns
    assert measure_shortcuts(prepared, num_threads=1).stat().st_mtime_ns == written_at
