"""Material for pictures: a small, a typical and an extreme run."""

from dataclasses import dataclass

import numpy as np

from hip_mri.evaluation.charts.calibration import CalibrationSummary
from hip_mri.evaluation.charts.curves import ScoredSplit
from hip_mri.evaluation.charts.flow_diagram import SplitCount, SplitFlow
from hip_mri.evaluation.charts.leakage import FoldComparison, NeighbourDistances
from hip_mri.evaluation.charts.sheets import ClosePair, ExplainedCase, Outcome
from hip_mri.evaluation.metrics.curves import Band, DecisionCurve

LONG_ID = "a-hospital-with-a-very-long-name-000000000000000001"


@dataclass(frozen=True)
class Kind:
    """What makes a run small, typical or extreme."""

    num_images: int
    num_lesions: int
    separation: float
    image_id: str
    threshold: float


KINDS = {
    "small": Kind(30, 12, 0.8, "0123456789abcdef", 0.5),
    "typical": Kind(400, 120, 0.9, "0123456789abcdef", 0.31),
    "extreme": Kind(300, 1, 30.0, LONG_ID, 0.31),
}
"""`extreme`: one lesion, told from all normal images by far, and ids that are long."""


def make_split(kind: Kind, seed: int = 0) -> ScoredSplit:
    generator = np.random.default_rng(seed)
    labels = (np.arange(kind.num_images) < kind.num_lesions).astype(np.int64)
    noise = generator.normal(0, 1.1, kind.num_images)
    scores = 1 / (1 + np.exp(-np.where(labels, kind.separation, -kind.separation) - noise))
    grid = np.linspace(0, 1, 21)
    lower = np.where(grid < 0.1, np.nan, grid)
    band = Band(grid, grid, lower, np.minimum(1, grid + 0.3))
    return ScoredSplit(labels, scores, {"auc": (0.71, 0.93), "average_precision": (0.6, 0.9)}, band, band)


def make_splits(kind: Kind) -> dict[str, ScoredSplit]:
    return {"test": make_split(kind), "val": make_split(kind, seed=1)}


def make_decision_curve(kind: Kind) -> DecisionCurve:
    thresholds = np.linspace(0.01, 0.99, 50)
    share = kind.num_lesions / kind.num_images
    treat_all = share - (1 - share) * thresholds / (1 - thresholds)
    return DecisionCurve(thresholds, share * (1 - thresholds), treat_all, np.zeros_like(thresholds))


def make_cases(kind: Kind, outcomes: list[Outcome]) -> list[ExplainedCase]:
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (len(outcomes), 48, 48), np.uint8)
    heats = generator.random((len(outcomes), 48, 48)).astype(np.float32)
    heats[1:2] = 0
    return [
        ExplainedCase(kind.image_id, outcome, 0.5, image, heat)
        for outcome, image, heat in zip(outcomes, images, heats, strict=True)
    ]


def make_pairs(kind: Kind, count: int) -> list[ClosePair]:
    image = np.random.default_rng(4).integers(0, 256, (40, 50), np.uint8)
    return [ClosePair(kind.image_id, kind.image_id[::-1], image, image, 0.01 * number) for number in range(count)]


def make_flow(kind: Kind) -> SplitFlow:
    lesions = kind.num_lesions
    return SplitFlow(
        num_entries=6 * kind.num_images + 30,
        num_ignored=7,
        num_duplicates=13,
        splits={
            "train": SplitCount(4 * kind.num_images - 20, 4 * lesions, 40),
            "val": SplitCount(kind.num_images, lesions, 1),
            "test": SplitCount(kind.num_images, lesions),
        },
        quarantined={f"reason_{number}": number + 1 for number in range(8 if lesions == 1 else 2)},
        held_out=SplitCount(27, 5, 9) if lesions > 100 else None,
    )


def make_neighbours(kind: Kind) -> NeighbourDistances:
    generator = np.random.default_rng(5)
    within = generator.gamma(4, 0.04, kind.num_images) if kind.num_images > 100 else np.array([])
    return NeighbourDistances(generator.gamma(9, 0.04, kind.num_images), within, generator.gamma(9, 0.05, 100))


def make_folds(kind: Kind) -> FoldComparison:
    if kind.num_lesions == 1:
        return FoldComparison(np.ones(1), np.ones(1))
    return FoldComparison(np.array([0.93, 0.95, 0.94]), np.array([0.86, 0.89, 0.88]))


SUMMARY = CalibrationSummary(expected_error=0.061, slope=0.84, intercept=None)
