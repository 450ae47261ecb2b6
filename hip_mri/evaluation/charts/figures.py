"""Draws all figures of a run, in the order in which the report shows them."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hip_mri.evaluation.charts import style
from hip_mri.evaluation.charts.calibration import draw_calibration
from hip_mri.evaluation.charts.captions import SPLIT_TITLES, name_group
from hip_mri.evaluation.charts.curves import ScoredSplit, draw_precision_recall, draw_roc
from hip_mri.evaluation.charts.decisions import draw_confusion_matrices, draw_decision_curve, draw_score_histogram
from hip_mri.evaluation.charts.flow_diagram import draw_flow
from hip_mri.evaluation.charts.image_sheets import (
    ContrastSample,
    ExplainedCase,
    ImagePair,
    draw_contrast_samples,
    draw_explanations,
    draw_pairs,
)
from hip_mri.evaluation.charts.leakage import draw_fold_comparison, draw_leakage
from hip_mri.evaluation.charts.shortcuts import draw_shortcuts
from hip_mri.evaluation.charts.training import draw_learning_curves, draw_training_sizes
from hip_mri.evaluation.metrics.curves import CurveBands, DecisionCurve
from hip_mri.evaluation.metrics.validation import check_predictions, number_labels

_drawing_lock = threading.Lock()
"""Matplotlib shares caches between figures and is not thread-safe."""


@dataclass(frozen=True)
class FigureData:
    """Data of all figures; a figure without its data is left out.

    Attributes:
        predictions: Columns `image_id`, `split`, `label` (name) and `score` (0-1), one row per image.
        metrics: Content of `metrics.json`.
        history: Columns `epoch`, `loss`, `accuracy`, `val_loss`, `val_accuracy` and possibly `stage`, one row per
            epoch; a single one gives no figure.
        bands: Bands of the curves of the test images.
        recalibrated: Recalibrated scores of the test images, in the order of their rows, shape (num_images,).
        decision_curve: Net benefit on the test images.
        explained: Correct and incorrect calls with their heat maps, the most confident first.
        samples: Images before and after preprocessing.
        close_pairs: The closest pairs of test and training image, the closest first.
        suspected_labels: Images whose label is suspected, beside their nearest image, the most suspect first.
        doubtful_pairs: The least certain joins and cuts between inferred groups.
    """

    predictions: pd.DataFrame
    metrics: Mapping[str, Any]
    history: pd.DataFrame
    bands: CurveBands | None = None
    recalibrated: NDArray[np.float64] | None = None
    decision_curve: DecisionCurve | None = None
    explained: Sequence[ExplainedCase] = ()
    samples: Sequence[ContrastSample] = ()
    close_pairs: Sequence[ImagePair] = ()
    suspected_labels: Sequence[ImagePair] = ()
    doubtful_pairs: Sequence[ImagePair] = ()


def draw_figures(data: FigureData, figures_folder: Path, notice: str = "") -> list[Path]:
    """Draw and write all figures of a run.

    Args:
        data: What they show.
        figures_folder: Folder for the PNG files.
        notice: Text of the banner, such as "SYNTHETIC DATA"; see `summarize_notices`.

    Returns:
        The files, in the order in which the report shows them.

    Raises:
        EvaluationError: The predictions cannot be evaluated.
        WorkspaceError: The disk is full or not writable.
    """
    check_predictions(data.predictions)
    with _drawing_lock:
        return [style.save_figure(figure, figures_folder / f"{name}.png") for name, figure in _draw(data, notice)]


def _draw(data: FigureData, notice: str) -> Iterator[tuple[str, Figure]]:
    """Draw one figure after the other, with the name of its file and of its caption."""
    metrics, threshold = data.metrics, data.metrics["threshold"]
    splits = {split: _select_split(data, split) for split in ("test", "val")}
    test, images, group = splits["test"], f"{SPLIT_TITLES['test']} images", name_group(metrics["grouping"])
    yield "split_flow", draw_flow(metrics, notice, group)
    yield "roc", draw_roc(splits, threshold, notice)
    yield "precision_recall", draw_precision_recall(splits, threshold, notice)
    yield "confusion_matrix", draw_confusion_matrices(splits, threshold, notice)
    yield "score_histogram", draw_score_histogram(test, threshold, images, notice)
    yield "calibration", draw_calibration(test, f"Calibration ({images.lower()})", data.recalibrated, notice)
    if data.decision_curve is not None:
        title = f"Decision curve ({images.lower()})"
        yield "decision_curve", draw_decision_curve(data.decision_curve, threshold, title, notice)
    if metrics.get("shortcuts"):
        yield "shortcuts", draw_shortcuts(metrics["shortcuts"], metrics["test"], notice)
    if metrics.get("training_sizes"):
        yield "training_sizes", draw_training_sizes(metrics["training_sizes"], notice, group)
    if len(data.history) > 1:
        yield "learning_curves", draw_learning_curves(data.history, notice)
    if data.explained:
        yield "explanations", draw_explanations(data.explained, notice)
    if data.suspected_labels:
        yield "suspected_labels", draw_pairs(data.suspected_labels, ("Suspected label", "Nearest image"), notice)
    if data.samples:
        yield "contrast_samples", draw_contrast_samples(data.samples, notice)
    if metrics["leakage"]["blocks"]:
        yield "leakage", draw_leakage(metrics["leakage"], notice)
    if data.close_pairs:
        yield "close_pairs", draw_pairs(data.close_pairs, ("Test", "Training"), notice)
    if data.doubtful_pairs:
        yield "doubtful_pairs", draw_pairs(data.doubtful_pairs, ("One image", "Its neighbor"), notice)
    folds = metrics["cross_validation"]
    if folds and folds["by_image"]["aucs"] and folds["grouped"]["aucs"]:
        by_image, by_group = (np.array(folds[scheme]["aucs"]) for scheme in ("by_image", "grouped"))
        yield "fold_comparison", draw_fold_comparison(by_image, by_group, notice, group)


def _select_split(data: FigureData, split: str) -> ScoredSplit:
    rows = data.predictions[data.predictions["split"] == split]
    bands = data.bands if split == "test" else None
    return ScoredSplit(number_labels(rows), rows["score"].to_numpy(np.float64), data.metrics[split], bands)
