"""Leakage test: whether images of one patient are in different folds, without knowing any patient.

Labels are drawn at random for blocks of images that probably show one patient, and predicted from the stored features
with the folds of the run. If no patient has images in two folds, training images hold no information on these labels.
If the AUC is above 0.5 all the same, images that belong together are in different groups.

The expected AUC of sound folds is exactly 0.5: the head is linear in the labels, so that the opposite training labels
give the opposite scores, and both are equally likely. This holds given the images, so features may be centered with
all of them, and draws are independent. A block that reaches over two patients adds the chance similarity of these two;
the limit of 0.55 in `hip_mri.evaluation.metrics.results` allows for it.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hip_mri.config import LABELS, EvaluationSettings
from hip_mri.dataset.manifest import digest_table
from hip_mri.dataset.table_files import read_table
from hip_mri.grouping.examinations.sequences import ORDER_COLUMNS
from hip_mri.hashes import digest
from hip_mri.models.cross_validation import MIN_NUM_FOLDS, assign_folds, count_folds, read_training_images
from hip_mri.models.features import FeatureSet
from hip_mri.models.network_inputs import Rows
from hip_mri.monitoring.leakage_blocks import (
    count_blocks,
    find_isolated_pairs,
    normalize,
    number_blocks,
    select_neighborhoods,
    select_stretches,
)
from hip_mri.storage import replace_file
from hip_mri.workspace import Workspace

LEAKAGE_RECIPE: Final = 1
"""Version of the test; raised by changes that alter its AUCs."""

BLOCK_LENGTHS: Final = (2, 4, 8, 16)
"""Consecutive images that get one label. Long blocks show a leak most clearly but need many images."""

NUM_DRAWS: Final = 100
"""Draws of labels for each kind of blocks."""

MIN_NUM_BLOCKS: Final = 10
"""Minimum number of blocks of at least two images; fewer give too few independent labels."""

MAX_NUM_IMAGES: Final = 1000
"""Images that are tested. Among more, a patient's own images count less, and the time grows with the cube."""

MAX_DIVIDED_IMAGES: Final = 10_000
"""Images up to which the folds are those of the run; of more, which take minutes, the sample is divided likewise."""

PENALTY: Final = 0.1
"""Penalty of the ridge regression, relative to the squared length of a row. Of 0.01 to 1, and of nearest neighbors, it
detects widely spaced slices of one patient best."""

COLUMNS: Final = ("by", "length", "num_images", "num_blocks", "draw", "auc")
"""Columns of the result: `by` is `order` (blocks of `length` consecutive images) or `features` (pairs)."""


def measure_leakage(workspace: Workspace, features: FeatureSet, evaluation: EvaluationSettings) -> Path:
    """Predict labels drawn at random for blocks of training images, with folds that keep groups whole.

    Args:
        workspace: Its manifest, features and order of images are read; its `leakage` folder is written.
        features: The set of features to learn from.
        evaluation: Number of folds and of repetitions with other folds.

    Returns:
        CSV with the columns of `COLUMNS`, one row per draw; without rows if there are too few images.
    """
    images = _read_images(workspace)
    columns = ["image_id", "sha256", "label", "group", "sequence", "place"]
    folds = [evaluation.cross_validation_folds, max(evaluation.cross_validation_seeds, 1)]
    identity = digest([LEAKAGE_RECIPE, features.digest, folds, digest_table(images[columns])])
    file = workspace.leakage_folder / f"{identity[:16]}.csv"
    if not file.exists():
        rows = features.open_store(workspace).select(images["sha256"], mirrored=False)
        table = predict_random_labels(rows, images, *folds)
        with replace_file(file) as temporary:
            table.to_csv(temporary, index=False)
    return file


def _read_images(workspace: Workspace) -> pd.DataFrame:
    """Read the training images with their order: columns sequence, empty where it is not known, and place."""
    order = read_table(workspace.order_file, ORDER_COLUMNS, "Remove it and start again: it is written again.")
    order = order.astype({"sequence": "str"}).drop_duplicates("sha256")
    images = read_training_images(workspace).merge(order, on="sha256", how="left")
    places = pd.to_numeric(images["place"]).fillna(0).astype("int64")
    return images.assign(sequence=images["sequence"].fillna(""), place=places)


@threadpool_limits.wrap(limits=1, user_api="blas")
def predict_random_labels(rows: Rows, images: pd.DataFrame, max_folds: int, num_seeds: int) -> pd.DataFrame:
    """Measure how well random labels of blocks are predicted, for each kind of blocks.

    Of more than `MAX_NUM_IMAGES` images, a sample is used. One thread computes: on a busy machine, two take ten times
    as long for matrices of this size.

    Args:
        rows: Features of the images, shape (images, features).
        images: Columns label, group, sequence (empty where the order is not known) and place.
        max_folds: Number of folds if each class has enough groups.
        num_seeds: Number of divisions into folds; each draw uses one of them.

    Returns:
        Columns of `COLUMNS`. Kinds with fewer than `MIN_NUM_BLOCKS` blocks are left out.
    """
    generator = np.random.default_rng(0)
    samples = {
        "order": select_stretches(images, MAX_NUM_IMAGES, generator),
        "features": select_neighborhoods(rows, MAX_NUM_IMAGES, generator),
    }
    run_folds = _divide(images, max_folds, num_seeds) if len(images) <= MAX_DIVIDED_IMAGES else None
    tables = [pd.DataFrame(columns=list(COLUMNS))]
    for by, positions in samples.items():
        sample = images.iloc[positions]
        folds = _divide(sample, max_folds, num_seeds) if run_folds is None else run_folds[:, positions]
        if not folds.size:
            continue
        features = rows[positions].astype(np.float64)
        unit = normalize(features, features.mean(axis=0))
        similarity = unit @ unit.T
        for length in BLOCK_LENGTHS if by == "order" else BLOCK_LENGTHS[:1]:
            blocks = _list_blocks(by, sample, similarity, length, generator)
            num_blocks = count_blocks(blocks[0])
            if num_blocks >= MIN_NUM_BLOCKS:
                labels = np.stack([_draw_labels(numbers, generator) for numbers in blocks], axis=1)
                aucs = _cross_validate(similarity, labels, folds)
                counts = {"by": by, "length": length, "num_images": len(sample), "num_blocks": num_blocks}
                tables.append(pd.DataFrame({**counts, "draw": np.arange(NUM_DRAWS), "auc": aucs}).dropna())
    return pd.concat(tables[1:] or tables, ignore_index=True)


def _divide(images: pd.DataFrame, max_folds: int, num_seeds: int) -> NDArray[np.int64]:
    """Divide images into folds that keep groups whole, once for each seed, as cross-validation does.

    Folds need not be stratified, since no label of an image is used; they are not if a class has a single group.

    Returns:
        Number of each image's fold, shape (seeds, images); without rows if there are fewer than two groups.
    """
    if count_folds(images, max_folds) < MIN_NUM_FOLDS:
        images = images.assign(label=LABELS[0])
    num_folds = count_folds(images, max_folds)
    if num_folds < MIN_NUM_FOLDS:
        return np.empty((0, len(images)), np.int64)
    return np.stack([assign_folds(images, seed, num_folds) for seed in range(num_seeds)])


def _list_blocks(
    by: str, sample: pd.DataFrame, similarity: NDArray[np.float64], length: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """List the number of each image's block for each draw; blocks of consecutive images begin at random offsets."""
    if by == "features":
        return [find_isolated_pairs(similarity)] * NUM_DRAWS
    return [number_blocks(sample, length, offset) for offset in generator.integers(length, size=NUM_DRAWS)]


def _draw_labels(blocks: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw -1 or 1 for each block; returns the label of each image."""
    return generator.choice((-1.0, 1.0), int(blocks.max()) + 1)[blocks]


def _cross_validate(
    similarity: NDArray[np.float64], labels: NDArray[np.float64], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Predict labels by ridge regression from the other folds.

    Args:
        similarity: Gram matrix of the features, shape (images, images).
        labels: -1 or 1, shape (images, draws).
        folds: Number of each image's fold, shape (divisions, images); the draws use the divisions in turn.

    Returns:
        AUC of each draw: mean over its folds, weighted by their pairs of images with opposite labels; not a number
        where no fold has both labels.
    """
    concordant, num_pairs = np.zeros(labels.shape[1]), np.zeros(labels.shape[1])
    for number, fold in enumerate(folds):
        draws = np.arange(number, labels.shape[1], len(folds))
        for held_out in range(fold.max() + 1):
            fit_on, scored = np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)
            penalized = similarity[np.ix_(fit_on, fit_on)] + PENALTY * np.eye(len(fit_on))
            dual = np.linalg.solve(penalized, labels[np.ix_(fit_on, draws)])
            scores = similarity[np.ix_(scored, fit_on)] @ dual
            counts = _count_concordant(scores, labels[np.ix_(scored, draws)])
            concordant[draws] += counts[0]
            num_pairs[draws] += counts[1]
    with np.errstate(invalid="ignore"):
        return concordant / num_pairs


def _count_concordant(
    scores: NDArray[np.float64], labels: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count, for each column, pairs of opposite labels whose scores are in their order, and all pairs.

    Source: Mann and Whitney, Annals of Mathematical Statistics 18 (1947).
    """
    from scipy.stats import rankdata  # noqa: PLC0415 - slow to import

    is_positive = labels > 0
    num_positive = is_positive.sum(axis=0)
    ranks = rankdata(scores, axis=0)
    concordant = (ranks * is_positive).sum(axis=0) - num_positive * (num_positive + 1) / 2
    return concordant, num_positive * (len(scores) - num_positive)
