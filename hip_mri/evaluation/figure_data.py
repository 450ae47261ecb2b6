"""The material of the pictures that is not in `metrics.json`: curves with bands, explained images, close pairs."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS, SPLITS, PreprocessingSettings
from hip_mri.dataset.preprocessing import read_images, read_stored_image
from hip_mri.errors import EvaluationError
from hip_mri.evaluation.charts.calibration import CalibrationSummary
from hip_mri.evaluation.charts.figures import Findings
from hip_mri.evaluation.charts.flow_diagram import SplitCount, SplitFlow
from hip_mri.evaluation.charts.leakage import FoldComparison, NeighbourDistances
from hip_mri.evaluation.charts.sheets import ClosePair, ContrastSample, ExplainedCase
from hip_mri.evaluation.explain import ExplainImages, explain_cases, pick_cases
from hip_mri.evaluation.metrics.curves import Band, bootstrap_curves, compute_net_benefit
from hip_mri.evaluation.metrics.recalibration import Platt
from hip_mri.evaluation.metrics.results import Scores
from hip_mri.workspace import Workspace

SAMPLES_PER_CLASS: Final = 3
"""Images on the sheet that shows the contrast before and after."""

NUM_CLOSE_PAIRS: Final = 6
"""Pairs on the sheet of the leakage audit."""


class Images:
    """Reads the images of a run by their pseudonyms."""

    def __init__(self, manifest: pd.DataFrame, workspace: Workspace, preprocessing: PreprocessingSettings) -> None:
        self._hashes = manifest.set_index("image_id")["sha256"]
        self._workspace, self._preprocessing = workspace, preprocessing

    def read(self, image_ids: Sequence[str]) -> list[NDArray[np.uint8]]:
        """Images as the network sees them."""
        hashes = list(self._hashes[list(image_ids)])
        return read_images(hashes, self._workspace, self._preprocessing, num_threads=1)

    def read_original(self, image_id: str) -> NDArray[np.uint8]:
        """An image as it came."""
        return read_stored_image(self._hashes[image_id], self._workspace)


def gather_findings(
    scores: Scores, metrics: dict[str, Any], images: Images, explain: ExplainImages, seed: int, num_resamples: int
) -> Findings:
    """Collect what the pictures show.

    Args:
        scores: The tables of the run.
        metrics: What `metrics.json` holds.
        images: The run's images.
        explain: Finds which places of images raised their scores.
        seed: Start of the resampling of the bands.
        num_resamples: Bootstrap samples of the bands.
    """
    test = scores.predictions[scores.predictions["split"] == "test"]
    truth, score = (test["label"] == LABELS[1]).to_numpy(np.int64), test["score"].to_numpy()
    measured = metrics["test"]
    bounds = {name: measured["intervals"][name] for name in ("auc", "average_precision")}
    roc_band, precision_band = _find_bands(truth, score, test["group"].to_numpy(), seed, num_resamples)
    return Findings(
        intervals={"test": {name: tuple(found) for name, found in bounds.items() if found}},
        roc_bands=roc_band,
        precision_bands=precision_band,
        calibration=CalibrationSummary(
            measured["expected_calibration_error"], measured["calibration_slope"], measured["calibration_intercept"]
        ),
        recalibrated=_recalibrate(metrics["recalibration"], score),
        decision_curve=compute_net_benefit(truth, score),
        explained=_explain(test, metrics["threshold"], images, explain),
        flow=describe_flow(metrics),
        neighbours=_describe_distances(scores.neighbours),
        close_pairs=_show_close_pairs(scores.neighbours, test.set_index("image_id")["group"], images),
        folds=_compare_folds(metrics["cross_validation"]),
    )


def pick_samples(manifest: pd.DataFrame, images: Images) -> list[ContrastSample]:
    """The first training images of each class by id: a repeatable choice without a preference."""
    training = manifest[manifest["split"] == "train"].sort_values("image_id")
    rows = pd.concat([training[training["label"] == label].head(SAMPLES_PER_CLASS) for label in LABELS])
    after = images.read(list(rows["image_id"]))
    return [
        ContrastSample(image_id, label, images.read_original(image_id), image)
        for image_id, label, image in zip(rows["image_id"], rows["label"], after, strict=True)
    ]


def _explain(test: pd.DataFrame, threshold: float, images: Images, explain: ExplainImages) -> list[ExplainedCase]:
    """The most confident right and wrong calls among test images, with the places that spoke for a lesion."""
    truth = (test["label"] == LABELS[1]).to_numpy(np.int64)
    positions, outcomes = zip(*pick_cases(truth, test["score"], threshold, test["group"]), strict=True)
    chosen = test.iloc[list(positions)]
    pixels = np.stack(images.read(list(chosen["image_id"])))
    return explain_cases(explain, list(chosen["image_id"]), pixels, chosen["score"], outcomes)


def describe_flow(metrics: dict[str, Any]) -> SplitFlow:
    """What became of every entry of the source."""
    data = metrics["data"]
    held_out = data["num_held_out"]
    return SplitFlow(
        num_entries=data["num_entries"],
        num_ignored=data["num_ignored"],
        num_duplicates=data["num_duplicates"],
        splits={
            split: SplitCount(metrics[split]["num_images"], metrics[split]["num_lesions"], metrics[split]["num_groups"])
            for split in SPLITS
        },
        quarantined=data["quarantined"],
        held_out=SplitCount(held_out, data["num_held_out_lesions"]) if held_out else None,
    )


def _recalibrate(recalibration: dict[str, Any] | None, score: NDArray[np.float64]) -> NDArray[np.float64] | None:
    if recalibration is None or recalibration["slope"] is None:
        return None
    return Platt(recalibration["slope"], recalibration["intercept"]).apply(score)


def _find_bands(
    truth: NDArray[np.int64], score: NDArray[np.float64], groups: NDArray, seed: int, num_resamples: int
) -> tuple[dict[str, Band], dict[str, Band]]:
    try:
        bands = bootstrap_curves(truth, score, groups, seed, num_resamples)
    except EvaluationError:
        return {}, {}  # too few groups for a band; the curves stand alone
    return {"test": bands.roc}, {"test": bands.precision_recall}


def _describe_distances(neighbours: pd.DataFrame) -> NeighbourDistances:
    distances = {
        kind: neighbours.loc[neighbours["kind"] == kind, "distance"].to_numpy()
        for kind in ("test_to_train", "within_group", "between_groups")
    }
    return NeighbourDistances(**distances, measure="1 - cosine of the features, to the nearest image")


def _show_close_pairs(neighbours: pd.DataFrame, groups: pd.Series, images: Images) -> list[ClosePair]:
    """The closest pair of each group of test images, the closest first."""
    tested = neighbours[neighbours["kind"] == "test_to_train"].sort_values(["distance", "image_id"])
    tested = tested[~tested["image_id"].map(groups).duplicated()].head(NUM_CLOSE_PAIRS)
    pixels = zip(images.read(list(tested["image_id"])), images.read(list(tested["neighbour_id"])), strict=True)
    return [
        ClosePair(row["image_id"], row["neighbour_id"], test, train, row["distance"])
        for row, (test, train) in zip(tested.to_dict("records"), pixels, strict=True)
    ]


def _compare_folds(cross_validation: dict[str, Any] | None) -> FoldComparison | None:
    if cross_validation is None:
        return None
    aucs = [np.array(cross_validation[scheme]["aucs"]) for scheme in ("by_image", "grouped")]
    return FoldComparison(*aucs) if all(len(values) for values in aucs) else None
