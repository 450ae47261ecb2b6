"""Size of a candidate, and the time that it needs for an image."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from hip_mri.dataset.preprocessing import read_sample
from hip_mri.model_comparison.candidates import DescribedCandidate
from hip_mri.models.backbones.backbone import BYTES_PER_NUMBER
from hip_mri.models.backbones.engines import open_engine
from hip_mri.models.cross_validation import read_training_images
from hip_mri.models.heads.head import build_head
from hip_mri.models.heads.nearest_neighbors import MAX_NUM_REFERENCES
from hip_mri.models.predict import predict
from hip_mri.workspace import Workspace

NUM_TIMED_IMAGES: Final = 16
NUM_TIMED_ROWS: Final = 256
NUM_REPETITIONS: Final = 3
"""The shortest of so many measurements counts; other programs lengthen the others."""


@dataclass(frozen=True)
class CandidateCost:
    """Cost of a candidate.

    Attributes:
        num_bytes: Size of backbone and head in float32.
        feature_seconds: Seconds for the features of an image, with mirror averaging of both images.
        head_seconds: Seconds for the score of an image from its features, likewise.
    """

    num_bytes: int
    feature_seconds: float
    head_seconds: float


def measure_cost(described: DescribedCandidate, workspace: Workspace) -> CandidateCost:
    """Measure a candidate on this machine, with the engine and precision of its scores; call it alone."""
    features, design = described.features, described.candidate.config.model.head_design
    choice = described.scoring_choice
    if design.kind == "knn":
        num_references = min(len(read_training_images(workspace)), MAX_NUM_REFERENCES)
        design = replace(design, num_references=num_references)
    head = build_head(features.backbone.num_features, design, seed=0)
    head.run_eagerly = design.kind != "dense"
    rows = np.zeros((NUM_TIMED_ROWS, features.backbone.num_features), np.float32)
    engine = open_engine(features.backbone, choice.engine, choice.precision)
    _, images = read_sample(workspace, features.preprocessing, NUM_TIMED_IMAGES, num_threads=1)
    num_views = 2 if features.averages_mirrored else 1
    return CandidateCost(
        num_bytes=features.backbone.weights_file.stat().st_size + BYTES_PER_NUMBER * head.count_params(),
        feature_seconds=num_views * _time(lambda: engine.compute(images)) / len(images),
        head_seconds=num_views * _time(lambda: predict(head, rows, NUM_TIMED_ROWS)) / len(rows),
    )


def _time(function: Callable[[], object]) -> float:
    """Measure the seconds of a call, after one that warms it up."""
    function()
    seconds = []
    for _ in range(NUM_REPETITIONS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
