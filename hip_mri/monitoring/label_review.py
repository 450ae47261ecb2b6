"""Label review: which labels are probably wrong, by scores of models that were not trained on the image.

Training images are scored out of fold, by the grouped folds of cross-validation; validation and test images by the
model of the run. Confident learning finds the labels that contradict these scores. Near duplicates with different
labels are suspected as well.

Source: Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset labels", Journal of
Artificial Intelligence Research 70, 2021, as implemented by cleanlab.
"""

import warnings
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS, SPLITS
from hip_mri.dataset.manifest import digest_table, read_manifest, select_ready
from hip_mri.dataset.table_files import read_table as read_parquet
from hip_mri.evaluation.metrics.validation import number_labels
from hip_mri.evaluation.run_tables import read_table
from hip_mri.grouping.evidence import TIE_COLUMNS
from hip_mri.hashes import digest
from hip_mri.models.features import FeatureSet
from hip_mri.models.network import TrainedModel
from hip_mri.monitoring.neighbors import find_nearest
from hip_mri.storage import replace_file
from hip_mri.workspace import Workspace

REVIEW_RECIPE: Final = 1
"""Version of the review; raised by changes that alter its table."""

REVIEW_COLUMNS: Final = ("image_id", "split", "label", "score", "rank", "is_suspected", "reason", "neighbors")
"""Columns of the result. `score` is the probability of a lesion, out of fold for training images, or not a number;
`rank` is 1 for the most suspect label; `reason` has the values of `SCORE` and `NEAR_DUPLICATE`, joined by +, or is
empty; `neighbors` are the ids of the nearest images, the nearest first, separated by spaces."""

SCORE: Final = "score"
"""Reason: the score contradicts the label."""

NEAR_DUPLICATE: Final = "near_duplicate"
"""Reason: a near duplicate has the other label."""

NUM_NEIGHBORS: Final = 3

MAX_NUM_QUERIES: Final = 2000
"""Images whose neighbors are searched, those of the lowest ranks. More take hours for a million images."""


def review_labels(workspace: Workspace, features: FeatureSet, trained: TrainedModel, folds_file: Path | None) -> Path:
    """Rank all images in use by how probably their label is wrong.

    Args:
        workspace: Its manifest, ties and features are read; its `label_review` folder is written.
        features: The set of features that neighbors are searched in.
        trained: Scores validation and test images.
        folds_file: Scores of cross-validation; without it, training images are not judged by a score.

    Returns:
        CSV with the columns of `REVIEW_COLUMNS`, the most suspect label first.
    """
    images = select_ready(read_manifest(workspace.manifest_file))
    images = images.loc[images["split"].isin(SPLITS), ["image_id", "sha256", "split", "label"]]
    pairs = _read_contradictory_pairs(images, workspace)
    folds = None if folds_file is None else read_table(folds_file)
    identity = [
        *(REVIEW_RECIPE, features.digest, trained.digest, digest_table(pairs)),
        None if folds is None else digest_table(folds.astype("str")),
    ]
    file = workspace.label_review_folder / f"{digest(identity)[:16]}.csv"
    if file.exists():
        return file
    scores = collect_scores(images, read_table(trained.predictions_file), folds)
    review = rank_labels(images.assign(score=scores), set(pairs.to_numpy().ravel()))
    review["neighbors"] = _name_neighbors(review, workspace, features)
    with replace_file(file) as temporary:
        review[list(REVIEW_COLUMNS)].to_csv(temporary, index=False, na_rep="nan")
    return file


def collect_scores(images: pd.DataFrame, predictions: pd.DataFrame, folds: pd.DataFrame | None) -> NDArray[np.float64]:
    """Collect scores of models that were not trained on the image.

    Args:
        images: Columns image_id and split.
        predictions: Columns image_id and score, by the model of the run.
        folds: See `hip_mri.models.cross_validation.join_folds`; `None` without cross-validation.

    Returns:
        Mean of the grouped folds over all repetitions for training images, the model's score for the others; not a
        number for training images without a fold. Shape (num_images,).
    """
    scores = images["image_id"].map(predictions.set_index("image_id")["score"])
    if folds is None:
        out_of_fold = pd.Series(dtype="float64")
    else:
        out_of_fold = folds[folds["scheme"] == "grouped"].groupby("image_id")["score"].mean()
    is_training = images["split"] == "train"
    return scores.mask(is_training, images["image_id"].map(out_of_fold)).to_numpy(np.float64)


def rank_labels(images: pd.DataFrame, contradictory: set[str]) -> pd.DataFrame:
    """Rank images by how probably their label is wrong.

    Suspected labels come first. Among them, and among the others, the order is that of the probability of the given
    label. Images without a score come last of each.

    Args:
        images: Columns image_id, sha256, label (of `LABELS`) and score (0-1, or not a number).
        contradictory: SHA-256 of images that have a near duplicate with the other label.

    Returns:
        The images with the columns rank, is_suspected and reason, sorted by rank.
    """
    labels, scores = number_labels(images), images["score"].to_numpy(np.float64)
    is_unlikely = find_unlikely_labels(labels, scores)
    is_contradictory = images["sha256"].isin(contradictory).to_numpy()
    is_suspected = is_unlikely | is_contradictory
    reasons = np.array(["", SCORE, NEAR_DUPLICATE, f"{SCORE}+{NEAR_DUPLICATE}"])[is_unlikely + 2 * is_contradictory]
    probability = np.where(labels == 1, scores, 1 - scores)
    ranked = images.assign(is_suspected=is_suspected, reason=reasons, is_trusted=~is_suspected, probability=probability)
    ranked = ranked.sort_values(["is_trusted", "probability", "image_id"], ignore_index=True)
    return ranked.assign(rank=np.arange(1, len(ranked) + 1))


def find_unlikely_labels(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Find labels that contradict the scores by confident learning; images without a score are not judged.

    Args:
        labels: 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, or not a number, shape (num_images,).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in a notebook, its progress bars miss a widget, and none is shown
        from cleanlab.filter import find_label_issues  # noqa: PLC0415 - seconds to import

    is_scored = np.isfinite(scores)
    is_unlikely = np.zeros(len(labels), bool)
    if len(np.unique(labels[is_scored])) == len(LABELS):
        probabilities = np.column_stack([1 - scores[is_scored], scores[is_scored]])
        is_unlikely[is_scored] = find_label_issues(labels[is_scored], probabilities, n_jobs=1)
    return is_unlikely


def _read_contradictory_pairs(images: pd.DataFrame, workspace: Workspace) -> pd.DataFrame:
    """Read the pairs of near duplicates with different labels; columns first and second, SHA-256."""
    ties = read_parquet(workspace.ties_file, TIE_COLUMNS, "Start again: it is made anew.")
    keys = ties.loc[ties["kind"] == "similar", "key"].drop_duplicates()
    pairs = keys.str.split("/", expand=True).reindex(columns=[0, 1]).set_axis(["first", "second"], axis="columns")
    label_of = images.set_index("sha256")["label"]
    labels = pairs.apply(lambda ends: ends.map(label_of))
    return pairs[labels.notna().all(axis="columns") & (labels["first"] != labels["second"])].astype("str")


def _name_neighbors(review: pd.DataFrame, workspace: Workspace, features: FeatureSet) -> pd.Series:
    """Ids of the nearest images of the first `MAX_NUM_QUERIES` rows; empty for the others."""
    rows = features.open_store(workspace).select(review["sha256"], mirrored=False)
    nearest = find_nearest(rows, min(len(review), MAX_NUM_QUERIES), NUM_NEIGHBORS)
    named = [" ".join(ids) for ids in review["image_id"].to_numpy()[nearest]]
    return pd.Series(named, dtype="str").reindex(review.index, fill_value="")
