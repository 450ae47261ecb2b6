"""Collects the data of the figures that is not in `metrics.json`."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS, PreprocessingSettings
from hip_mri.dataset.preprocessing import read_images, read_stored_image
from hip_mri.errors import EvaluationError
from hip_mri.evaluation.audits.label_review import is_suspected
from hip_mri.evaluation.charts.captions import name_label
from hip_mri.evaluation.charts.figures import FigureData
from hip_mri.evaluation.charts.image_sheets import ContrastSample, ExplainedCase, ImagePair
from hip_mri.evaluation.explain import ExplainImages, pick_cases
from hip_mri.evaluation.metrics.curves import bootstrap_curves, compute_net_benefit
from hip_mri.evaluation.metrics.recalibration import Platt
from hip_mri.evaluation.metrics.results import Scores
from hip_mri.evaluation.metrics.validation import number_labels
from hip_mri.workspace import Workspace

SAMPLES_PER_CLASS: Final = 3
"""Images per class on the sheet that shows preprocessing."""

NUM_CLOSE_PAIRS: Final = 6
"""Pairs on the sheet of the closest pairs."""

NUM_SUSPECTED_LABELS: Final = 8
"""Pairs on the sheet of suspected labels."""

NUM_DOUBTFUL_PAIRS: Final = 4
"""Joins, and cuts, on the sheet of inferred groups that are least certain."""


class RunImages:
    """Reads the images of a run by their pseudonyms.

    Attributes:
        manifest: Columns image_id, sha256, split and label.
    """

    def __init__(self, manifest: pd.DataFrame, workspace: Workspace, preprocessing: PreprocessingSettings) -> None:
        self.manifest = manifest
        self._hashes = manifest.set_index("image_id")["sha256"]
        self._workspace, self._preprocessing = workspace, preprocessing

    def read(self, image_ids: Sequence[str]) -> list[NDArray[np.uint8]]:
        """Read preprocessed images, the input of the network."""
        hashes = list(self._hashes[list(image_ids)])
        return read_images(hashes, self._workspace, self._preprocessing, num_threads=1)

    def read_original(self, image_id: str) -> NDArray[np.uint8]:
        """Read an image before preprocessing."""
        return read_stored_image(self._hashes[image_id], self._workspace)


def collect_figure_data(
    scores: Scores,
    metrics: dict[str, Any],
    history: pd.DataFrame,
    images: RunImages,
    explain: ExplainImages,
    seed: int,
    num_resamples: int,
    borders: pd.DataFrame,
) -> FigureData:
    """Collect what the figures show; seed and number of resamples are those of the bands, borders of `borders.csv`."""
    test = scores.predictions[scores.predictions["split"] == "test"]
    labels, test_scores = number_labels(test), test["score"].to_numpy()
    try:
        bands = bootstrap_curves(labels, test_scores, test["group"].to_numpy(), seed, num_resamples)
    except EvaluationError:  # too few groups for bands
        bands = None
    return FigureData(
        predictions=scores.predictions,
        metrics=metrics,
        history=history,
        bands=bands,
        recalibrated=_recalibrate(metrics["recalibration"], test_scores),
        decision_curve=compute_net_benefit(labels, test_scores),
        explained=_explain(test, metrics["threshold"], images, explain),
        samples=_select_samples(images),
        close_pairs=_select_close_pairs(scores.neighbors, test.set_index("image_id")["group"], images),
        suspected_labels=_select_suspected_labels(scores, images),
        doubtful_pairs=_select_doubtful_pairs(borders, images),
    )


def _select_samples(images: RunImages) -> list[ContrastSample]:
    """Select the first training images of each class by id, which is repeatable and independent of their content."""
    training = images.manifest.query("split == 'train'").sort_values("image_id")
    rows = pd.concat([training[training["label"] == label].head(SAMPLES_PER_CLASS) for label in LABELS])
    after = images.read(list(rows["image_id"]))
    return [
        ContrastSample(image_id, label, images.read_original(image_id), image)
        for image_id, label, image in zip(rows["image_id"], rows["label"], after, strict=True)
    ]


def _explain(test: pd.DataFrame, threshold: float, images: RunImages, explain: ExplainImages) -> list[ExplainedCase]:
    """Compute heat maps of the most confident correct and incorrect calls among the test images."""
    cases = pick_cases(number_labels(test), test["score"], threshold, test["group"])
    rows = [test.iloc[position] for position, _ in cases]
    pixels = np.stack(images.read([row["image_id"] for row in rows]))
    return [
        ExplainedCase(row["image_id"], outcome, float(row["score"]), image, heat)
        for row, (_, outcome), image, heat in zip(rows, cases, pixels, explain(pixels), strict=True)
    ]


def _recalibrate(recalibration: dict[str, Any] | None, scores: NDArray[np.float64]) -> NDArray[np.float64] | None:
    if recalibration is None or recalibration["slope"] is None:
        return None
    return Platt(recalibration["slope"], recalibration["intercept"]).apply(scores)


def _select_close_pairs(neighbors: pd.DataFrame, groups: pd.Series, images: RunImages) -> list[ImagePair]:
    """Select the closest pair of each group of test images, the closest first."""
    tested = neighbors.sort_values(["distance", "image_id"])
    tested = tested[~tested["image_id"].map(groups).duplicated()].head(NUM_CLOSE_PAIRS)
    pixels = zip(images.read(list(tested["image_id"])), images.read(list(tested["neighbour_id"])), strict=True)
    return [
        ImagePair(row["image_id"], row["neighbour_id"], test, train, f"distance {row['distance']:.4g}")
        for row, (test, train) in zip(tested.to_dict("records"), pixels, strict=True)
    ]


def _select_suspected_labels(scores: Scores, images: RunImages) -> list[ImagePair]:
    """Select the most suspect label of each group, with the nearest image; images without a neighbor are left out."""
    if scores.label_review is None:
        return []
    review = scores.label_review.set_index("image_id")
    shown = review[is_suspected(review) & (review["neighbors"] != "")].sort_values("rank")
    groups = scores.predictions.set_index("image_id")["group"]
    shown = shown[~groups[shown.index].duplicated().to_numpy()].head(NUM_SUSPECTED_LABELS)
    nearest = shown["neighbors"].str.split(" ").str[0]  # `partition` gives no columns where no label is suspected
    pixels = zip(images.read(list(shown.index)), images.read(list(nearest)), strict=True)
    return [
        ImagePair(image_id, neighbor, *pair, _describe_label(row, review.loc[neighbor, "label"]))
        for (image_id, row), neighbor, pair in zip(shown.to_dict("index").items(), nearest, pixels, strict=True)
    ]


def _describe_label(row: Mapping[str, Any], neighbor_label: str) -> str:
    """Describe a suspected label below its image."""
    score = "no score" if np.isnan(row["score"]) else f"score {row['score']:.2f}"
    return f"labeled {name_label(row['label'])}, {score}\nneighbor: {name_label(neighbor_label)}"


def _select_doubtful_pairs(borders: pd.DataFrame, images: RunImages) -> list[ImagePair]:
    """Select the least certain joins, and the cuts that would most probably have been right as joins."""
    is_joined = borders["is_joined"] == "True"
    joins = borders[is_joined].sort_values(["certainty", "first_id"]).head(NUM_DOUBTFUL_PAIRS)
    cuts = borders[~is_joined].sort_values(["certainty", "first_id"], ascending=[False, True]).head(NUM_DOUBTFUL_PAIRS)
    shown = pd.concat([joins, cuts])
    pixels = zip(images.read(list(shown["first_id"])), images.read(list(shown["second_id"])), strict=True)
    return [
        ImagePair(
            row["first_id"],
            row["second_id"],
            *pair,
            f"{'one group' if row['is_joined'] == 'True' else 'two groups'}; the same patient: {row['certainty']:.0%}",
        )
        for row, pair in zip(shown.to_dict("records"), pixels, strict=True)
    ]
