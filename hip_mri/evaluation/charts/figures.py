"""The pictures of a run, in the order in which a report shows them."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hip_mri.evaluation.charts import style
from hip_mri.evaluation.charts.calibration import CalibrationSummary, draw_calibration
from hip_mri.evaluation.charts.captions import SPLIT_TITLES
from hip_mri.evaluation.charts.curves import ScoredSplit, draw_precision_recall, draw_roc
from hip_mri.evaluation.charts.decisions import (
    draw_confusion_matrices,
    draw_decision_curve,
    draw_score_histogram,
)
from hip_mri.evaluation.charts.flow_diagram import SplitFlow, draw_flow
from hip_mri.evaluation.charts.leakage import (
    FoldComparison,
    NeighbourDistances,
    draw_fold_comparison,
    draw_neighbour_distances,
)
from hip_mri.evaluation.charts.sheets import (
    ClosePair,
    ContrastSample,
    ExplainedCase,
    draw_close_pairs,
    draw_contrast_samples,
    draw_explanations,
)
from hip_mri.evaluation.charts.training import draw_learning_curves
from hip_mri.evaluation.metrics.confidence_intervals import Interval
from hip_mri.evaluation.metrics.curves import Band, DecisionCurve
from hip_mri.evaluation.metrics.validation import check_predictions, number_labels

_one_at_a_time = threading.Lock()
"""Matplotlib shares caches between figures and does not promise that two threads may draw at once."""


@dataclass(frozen=True)
class Findings:
    """What other steps found out; a picture whose material is missing is left out.

    Attributes:
        intervals: 95 % intervals of `auc` and `average_precision`, by split.
        roc_bands: Band of sensitivity on a grid of 1 - specificity, by split.
        precision_bands: Band of precision on a grid of recall, by split.
        calibration: Calibration of the test images in numbers.
        recalibrated: Scores of the test images after recalibration, in the order of their rows, shape (num_images,).
        decision_curve: Net benefit on the test images.
        explained: Right and wrong calls with their heat maps, the most confident first.
        flow: What became of every entry of the source.
        neighbours: Distances to the nearest image.
        close_pairs: The closest pairs of test and training image, the closest first.
        folds: Cross-validation with folds by image and by group.
    """

    intervals: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    roc_bands: Mapping[str, Band] = field(default_factory=dict)
    precision_bands: Mapping[str, Band] = field(default_factory=dict)
    calibration: CalibrationSummary | None = None
    recalibrated: NDArray[np.float64] | None = None
    decision_curve: DecisionCurve | None = None
    explained: Sequence[ExplainedCase] = ()
    flow: SplitFlow | None = None
    neighbours: NeighbourDistances | None = None
    close_pairs: Sequence[ClosePair] = ()
    folds: FoldComparison | None = None


NO_FINDINGS: Final = Findings()


def draw_figures(
    predictions: pd.DataFrame,
    history: pd.DataFrame,
    samples: Sequence[ContrastSample],
    threshold: float,
    figures_folder: Path,
    notice: str = "",
    findings: Findings = NO_FINDINGS,
) -> list[Path]:
    """Draw and write all pictures of a run.

    Args:
        predictions: Columns `image_id`, `split`, `label` (name) and `score` (0-1), one row per image.
        history: Columns `epoch`, `loss`, `accuracy`, `val_loss` and `val_accuracy`, one row per epoch; a column
            `stage` (`head`, `fine_tune`), where there is one, is shown by a divider.
        samples: About three images per class; none leaves the contrast sheet out.
        threshold: Scores at or above it are called a lesion.
        figures_folder: Where the PNG files are written.
        notice: What every picture must say about itself, such as "SYNTHETIC DATA"; see `summarize_notices`.
        findings: What other steps found out; adds bands and further pictures.

    Returns:
        The files, in the order in which a report shows them.

    Raises:
        EvaluationError: The predictions cannot be evaluated.
        WorkspaceError: The disk is full or not writable.
    """
    check_predictions(predictions)
    splits = gather_splits(predictions, findings)
    with _one_at_a_time:
        pictures = _draw_in_order(splits, history, samples, threshold, notice, findings)
        return [style.save_figure(figure, figures_folder / f"{name}.png") for name, figure in pictures]


def gather_splits(predictions: pd.DataFrame, findings: Findings = NO_FINDINGS) -> dict[str, ScoredSplit]:
    """Scores of the splits that are measured, test before validation; of all splits where there are only others."""
    by_split = {str(split): rows for split, rows in predictions.groupby("split")}
    measured = [split for split in ("test", "val") if split in by_split] or list(by_split)
    return {
        split: ScoredSplit(
            labels=number_labels(by_split[split]),
            scores=by_split[split]["score"].to_numpy(np.float64),
            intervals=findings.intervals.get(split, {}),
            roc_band=findings.roc_bands.get(split),
            precision_band=findings.precision_bands.get(split),
        )
        for split in measured
    }


def _draw_in_order(
    splits: dict[str, ScoredSplit],
    history: pd.DataFrame,
    samples: Sequence[ContrastSample],
    threshold: float,
    notice: str,
    findings: Findings,
) -> Iterator[tuple[str, Figure]]:
    """Every picture that there is material for, one after the other, with the name that `CAPTIONS` knows it by."""
    name, first = next(iter(splits.items()))
    whose = f"{SPLIT_TITLES[name]} images"
    if findings.flow is not None:
        yield "split_flow", draw_flow(findings.flow, notice)
    yield "roc", draw_roc(splits, threshold, notice)
    yield "precision_recall", draw_precision_recall(splits, threshold, notice)
    yield "confusion_matrix", draw_confusion_matrices(splits, threshold, notice)
    yield "score_histogram", draw_score_histogram(first, threshold, whose, notice)
    title = f"Calibration ({whose.lower()})"
    yield "calibration", draw_calibration(first, title, findings.calibration, findings.recalibrated, notice)
    if findings.decision_curve is not None:
        title = f"Decision curve ({whose.lower()})"
        yield "decision_curve", draw_decision_curve(findings.decision_curve, threshold, title, notice)
    yield "learning_curves", draw_learning_curves(history, notice)
    if findings.explained:
        yield "explanations", draw_explanations(findings.explained, notice)
    if samples:
        yield "contrast_samples", draw_contrast_samples(samples, notice)
    if findings.neighbours is not None:
        yield "neighbour_distances", draw_neighbour_distances(findings.neighbours, notice)
    if findings.close_pairs:
        yield "close_pairs", draw_close_pairs(findings.close_pairs, notice)
    if findings.folds is not None:
        yield "fold_comparison", draw_fold_comparison(findings.folds, notice)
