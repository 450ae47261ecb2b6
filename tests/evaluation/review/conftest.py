"""A page of the images that the metrics of the tests of the evaluation come from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from hip_mri.evaluation.charts.image_sheets import ExplainedCase
from hip_mri.evaluation.metrics.results import Scores
from hip_mri.evaluation.report.run_report import RunReport
from hip_mri.evaluation.review.page import write_review

HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>\"'&"
EXPLAINED = f"{170:016x}"
"""A test image with a heat map."""


class DrawnImages:
    """Stands in for `RunImages`: draws each image from its id."""

    def __init__(self, size: int = 32) -> None:
        self.size = size

    def read(self, image_ids: Sequence[str]) -> list[NDArray[np.uint8]]:
        return [self._draw(image_id, (self.size, self.size)) for image_id in image_ids]

    def read_original(self, image_id: str) -> NDArray[np.uint8]:
        return self._draw(image_id, (300, 250))

    def _draw(self, image_id: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
        rows, columns = np.mgrid[: shape[0], : shape[1]] / shape[0]
        number = int(image_id, 16)
        waves = np.sin(rows * (3 + number % 7) + number) * np.cos(columns * (3 + number % 5))
        noise = np.random.default_rng(number).normal(0, 6, shape)
        return np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def reviewed(scores: Scores) -> Scores:
    """The tables, with an attribute whose values are hostile, or belong to too few groups."""
    ids = scores.predictions["image_id"]
    values = np.where(np.arange(len(ids)) < 4, "Rare Name", np.where(np.arange(len(ids)) % 3, HOSTILE, "1.5 T"))
    attributes = pd.DataFrame({"image_id": ids, "attribute: field": values})
    return Scores(**{**vars(scores), "attributes": attributes})


@pytest.fixture(scope="session")
def distances(predictions) -> pd.DataFrame:
    ids = predictions["image_id"]
    is_outside = np.arange(len(ids)) % 50 == 49
    return pd.DataFrame(
        {"image_id": ids, "distance": np.where(is_outside, 0.9, 0.25), "is_outside": is_outside.astype(str)}
    )


@pytest.fixture(scope="session")
def review_run(metrics) -> RunReport:
    return RunReport(
        metrics,
        {
            "evaluation": {"min_subgroup_size": 5},
            "preprocessing": {"clahe_clip_limit": 2.0},
            "training": {"fine_tune": {"epochs": 0}},
        },
        Path("runs", "0007"),
    )


@pytest.fixture(scope="session")
def review_file(reviewed, distances, review_run, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("review") / "review.html"
    drawn = DrawnImages()
    heat = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    case = ExplainedCase(EXPLAINED, "true negative", 0.2, drawn.read([EXPLAINED])[0], heat)
    write_review(file, review_run, reviewed, distances, drawn, [case], num_threads=1)
    return file
