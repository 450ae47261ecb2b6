"""Learning curve over patients: the cross-validated AUC of a cheap head for several numbers of training groups.

The head is a linear discriminant with a ridge penalty on standardized features, reduced to their principal components.
It stands in for the head of the network, whose training would take a hundred times as long; its AUC can differ, but it
grows with the number of patients in a similar way. Each draw divides the groups into folds and trains on random,
nested parts of the groups outside of the fold that is scored. Validation and test images are not used.

Uncertainty has two parts, which the resamples combine: the choice of groups that are trained on (draws are resampled)
and the choice of groups that are scored (groups are resampled, through the influence of each on the AUC).

Sources: Figueroa et al., "Predicting sample size required for classification performance", BMC Medical Informatics and
Decision Making 12, 2012 (the curve); LeDell, Petersen and van der Laan, "Computationally efficient confidence intervals
for cross-validated AUC estimates", Electronic Journal of Statistics 9, 2015 (influence).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hip_mri.config import LABELS
from hip_mri.dataset.manifest import digest_table, sample_groups
from hip_mri.evaluation.metrics.delong import place_scores
from hip_mri.hashes import digest
from hip_mri.models.cross_validation import read_training_images
from hip_mri.models.features import FeatureSet
from hip_mri.models.network_inputs import Rows, cut_positions
from hip_mri.models.predict import ROWS_PER_BLOCK
from hip_mri.storage import replace_file
from hip_mri.workspace import Workspace

TRAINING_SIZES_RECIPE: Final = 1
"""Version of the measurement; raised by changes that alter AUCs."""

FRACTIONS: Final = (0.1, 0.2, 0.4, 0.7, 1.0)
"""Fractions of the groups outside of the scored fold that are trained on."""

NUM_DRAWS: Final = 10
NUM_FOLDS: Final = 5
NUM_RESAMPLES: Final = 400

MIN_NUM_GROUPS: Final = 10
"""Minimum number of groups of each class; with fewer there is no curve."""

MAX_NUM_IMAGES: Final = 20_000
"""Images that are used. Of more, whole groups are drawn."""

MAX_NUM_COMPONENTS: Final = 256
"""Principal components of the features that are used."""

MAX_COMPONENT_IMAGES: Final = 4096
"""Images from which the principal components are computed."""

PENALTY: Final = 1.0
"""Ridge penalty relative to the mean variance of the components within classes. Of 0.01 to 10 the best on 355 phantoms
with random weights."""

MIN_SPREAD: Final = 1e-6
"""Standard deviation below which a feature counts as constant; features are of the order of 1."""

COLUMNS: Final = ("kind", "number", "fraction", "num_groups", "num_images", "auc")
"""Columns of the result: `kind` is `draw` or `resample`, `number` counts them, `num_groups` and `num_images` are the
rounded means of what was trained on."""


class _Curve(NamedTuple):
    """One draw: what was trained on, the AUC, and the influence of each group on it, for each of `FRACTIONS`."""

    num_groups: NDArray[np.float64]
    num_images: NDArray[np.float64]
    aucs: NDArray[np.float64]
    influences: NDArray[np.float64]


def measure_training_sizes(workspace: Workspace, features: FeatureSet, seed: int) -> Path:
    """Cross-validate a cheap head with 10 to 100% of the training groups.

    Args:
        workspace: Its manifest and features are read; its `training_sizes` folder is written.
        features: The set of features to learn from.
        seed: Seed of folds, parts and resamples.

    Returns:
        CSV with the columns of `COLUMNS`; without rows if a class has fewer than `MIN_NUM_GROUPS` groups.
    """
    images = read_training_images(workspace)
    identity = [TRAINING_SIZES_RECIPE, features.digest, seed, digest_table(images[["sha256", "label", "group"]])]
    file = workspace.training_sizes_folder / f"{digest(identity)[:16]}.csv"
    if file.exists():
        return file
    images = sample_groups(images, MAX_NUM_IMAGES)
    table = pd.DataFrame(columns=list(COLUMNS))
    if images.groupby("label")["group"].nunique().reindex(LABELS, fill_value=0).min() >= MIN_NUM_GROUPS:
        rows = features.open_store(workspace).select(images["sha256"], mirrored=False)
        labels = (images["label"] == LABELS[1]).to_numpy(np.int64)
        table = draw_curves(reduce_features(rows, seed), labels, pd.factorize(images["group"])[0], seed)
    with replace_file(file) as temporary:
        table.to_csv(temporary, index=False)
    return file


@threadpool_limits.wrap(limits=1, user_api="blas")
def reduce_features(rows: Rows, seed: int) -> NDArray[np.float32]:
    """Standardize features and project them on their principal components.

    Returns:
        Shape (num_images, num_components), with at most `MAX_NUM_COMPONENTS` components. With fewer images than that,
        nothing is lost.
    """
    from sklearn.decomposition import PCA  # noqa: PLC0415 - a second to import

    chosen = np.random.default_rng(seed).permutation(len(rows))[:MAX_COMPONENT_IMAGES]
    sample = rows[np.sort(chosen)].astype(np.float32)
    mean, spread = sample.mean(axis=0), np.maximum(sample.std(axis=0), np.float32(MIN_SPREAD))
    num_components = min(MAX_NUM_COMPONENTS, len(sample) - 1, sample.shape[1])
    pca = PCA(num_components, random_state=seed).fit((sample - mean) / spread)
    blocks = cut_positions(len(rows), ROWS_PER_BLOCK)
    return np.concatenate([pca.transform((rows[block] - mean) / spread) for block in blocks]).astype(np.float32)


@threadpool_limits.wrap(limits=1, user_api="blas")
def draw_curves(
    features: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int
) -> pd.DataFrame:
    """Measure the AUC with each of `FRACTIONS`, in `NUM_DRAWS` draws and `NUM_RESAMPLES` resamples of them.

    One thread computes: the matrices are small, and on a busy machine several threads wait for each other.

    Args:
        features: Result of `reduce_features`.
        labels: 0 normal or 1 lesion, shape (num_images,).
        groups: Number of each image's group, from 0, shape (num_images,).
        seed: Seed of every random choice.

    Returns:
        Columns of `COLUMNS`.
    """
    generator = np.random.default_rng(seed)
    curves = [_draw_curve(features, labels, groups, generator) for _ in range(NUM_DRAWS)]
    aucs, influences = (np.stack([getattr(curve, name) for curve in curves]) for name in ("aucs", "influences"))
    num_groups = groups.max() + 1
    redrawn = generator.integers(NUM_DRAWS, size=(NUM_RESAMPLES, NUM_DRAWS))
    drawn = generator.multinomial(num_groups - 1, np.full(num_groups, 1 / num_groups), size=NUM_RESAMPLES)
    weights = drawn * (num_groups / (num_groups - 1)) - 1
    resampled = np.clip(aucs[redrawn].mean(axis=1) + weights @ influences.mean(axis=0), 0, 1)
    counts = {
        name: np.mean([getattr(curve, name) for curve in curves], axis=0).round().astype(np.int64)
        for name in ("num_groups", "num_images")
    }
    return pd.concat([_tabulate("draw", aucs, counts), _tabulate("resample", resampled, counts)], ignore_index=True)


def _tabulate(kind: str, aucs: NDArray[np.float64], counts: dict[str, NDArray[np.int64]]) -> pd.DataFrame:
    num_rows, num_fractions = aucs.shape
    columns = {"fraction": np.array(FRACTIONS), **counts}
    return pd.DataFrame(
        {
            "kind": kind,
            "number": np.repeat(np.arange(num_rows), num_fractions),
            **{name: np.tile(values, num_rows) for name, values in columns.items()},
            "auc": aucs.ravel().round(6),
        }
    )[list(COLUMNS)]


def _draw_curve(
    features: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64], generator: np.random.Generator
) -> _Curve:
    """Cross-validate once with each fraction; AUCs of the folds are weighted by their pairs of images."""
    has_lesion = np.bincount(groups, labels) > 0
    folds, ranks = _deal_groups(has_lesion, generator)
    num_groups, num_images, aucs, total = (np.zeros(len(FRACTIONS)) for _ in range(4))
    influences = np.zeros((len(has_lesion), len(FRACTIONS)))
    for fold in range(NUM_FOLDS):
        scored = folds[groups] == fold
        num_pairs = float((labels[scored] == 1).sum() * (labels[scored] == 0).sum())
        if not num_pairs:
            continue
        for place, chosen in enumerate(_choose_groups(folds != fold, ranks, has_lesion)):
            fit_on = chosen[groups]
            scores = features[scored] @ _fit(features[fit_on], labels[fit_on])
            auc, influence = _measure(labels[scored], scores, groups[scored], len(has_lesion))
            aucs[place] += num_pairs * auc
            influences[:, place] += num_pairs * influence
            total[place] += num_pairs
            num_groups[place] += chosen.sum() / NUM_FOLDS
            num_images[place] += fit_on.sum() / NUM_FOLDS
    return _Curve(num_groups, num_images, aucs / total, influences / total)


def _deal_groups(
    has_lesion: NDArray[np.bool_], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Deal groups to folds, those with a lesion and those without apart; also returns a random rank of each group."""
    folds, ranks = np.empty(len(has_lesion), np.int64), generator.permutation(len(has_lesion))
    for members in (np.flatnonzero(has_lesion), np.flatnonzero(~has_lesion)):
        folds[generator.permutation(members)] = np.arange(len(members)) % NUM_FOLDS
    return folds, ranks


def _choose_groups(
    available: NDArray[np.bool_], ranks: NDArray[np.int64], has_lesion: NDArray[np.bool_]
) -> Iterator[NDArray[np.bool_]]:
    """Choose the groups of each fraction: the ones of lowest rank, at least one with and one without a lesion."""
    for fraction in FRACTIONS:
        chosen = np.zeros_like(available)
        for members in (np.flatnonzero(available & has_lesion), np.flatnonzero(available & ~has_lesion)):
            count = max(1, round(fraction * len(members)))
            chosen[members[np.argsort(ranks[members])[:count]]] = True
        yield chosen


def _fit(features: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Fit a linear discriminant with a ridge penalty; returns the direction, shape (num_components,)."""
    means = np.stack([features[labels == label].mean(axis=0) for label in (0, 1)])
    deviations = features - means[labels]
    covariance = deviations.T @ deviations / len(labels)
    covariance[np.diag_indices_from(covariance)] += PENALTY * max(float(covariance.trace()) / len(covariance), 1e-12)
    return np.linalg.solve(covariance, means[1] - means[0])


def _measure(
    labels: NDArray[np.int64], scores: NDArray[np.float32], groups: NDArray[np.int64], num_groups: int
) -> tuple[float, NDArray[np.float64]]:
    """Compute the AUC and the influence of each group on it, which is the change by one more copy of the group."""
    auc, placements = place_scores(labels, scores.astype(np.float64))
    sizes = np.bincount(labels)
    return auc, np.bincount(groups, (placements - auc) / sizes[labels], num_groups).astype(np.float64)
