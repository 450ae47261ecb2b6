"""How the figures vary with the images: cross-validation of the head on the stored features of the training split.

Validation and test images stay out of it, so it can be looked at as often as one likes. It runs twice: with folds
that keep groups whole, and with folds of single images, as most published scripts do. The gap between the two is the
inflation that grouping prevents.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from hip_mri.config import LABELS, EvaluationSettings, TrainingSettings
from hip_mri.data.manifest import digest_table, read_manifest, select_ready
from hip_mri.model.features import FeatureSet
from hip_mri.model.fitting import Rows, TrainingImages
from hip_mri.model.head import train_head
from hip_mri.model.network import predict, select_images
from hip_mri.storage import digest, replace_file
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

RECIPE: Final = 1
"""Number of this way to cross-validate; a change that alters scores raises it."""

MIN_NUM_FOLDS: Final = 2

ROWS_PER_BLOCK: Final = 4096
"""Features that are read at a time, 8 KB each."""

Scheme = Literal["grouped", "by_image"]


@dataclass(frozen=True)
class _Chosen:
    """Some of the rows, in an order of their own."""

    rows: Rows
    positions: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, positions: NDArray[np.integer]) -> NDArray[np.float32]:
        return self.rows[self.positions[positions]]


def cross_validate_head(
    workspace: Workspace,
    features: FeatureSet,
    hidden_units: int,
    settings: TrainingSettings,
    evaluation: EvaluationSettings,
) -> Path | None:
    """Cross-validate the head on the training split; done before with the same images and settings, it is not repeated.

    Args:
        workspace: Its manifest and features are read; its `folds` folder is written.
        features: The set to train on.
        hidden_units: Width of the head's dense layer.
        settings: How each head is trained, for all epochs, since early stopping would look at the fold that is scored;
            the second stage is left out.
        evaluation: Number of folds, each scored by a head that was trained on the others; fewer are taken where a
            class has fewer groups. Number of repetitions of the grouped folds, with other folds and initial weights;
            folds by image run once.

    Returns:
        CSV with the columns scheme (`grouped` or `by_image`), seed, fold, image_id, label and score; `None` where
        none is asked for, or a class has a single group.
    """
    num_seeds = evaluation.cross_validation_seeds
    if not num_seeds:
        return None
    settings = settings.model_copy(update={"early_stopping_patience": 0})
    images = select_ready(read_manifest(workspace.manifest_file))
    images = images[images["split"] == "train"].sort_values("image_id")
    num_folds = min(evaluation.cross_validation_folds, int(images.groupby("label")["group"].nunique().min()))
    if num_folds < MIN_NUM_FOLDS:
        logger.warning("No cross-validation: a class has a single group in the training split")
        return None
    identity = {
        "recipe": RECIPE,
        "features": features.digest,
        "with_mirrored": features.with_mirrored,
        "hidden_units": hidden_units,
        "settings": settings.model_dump(exclude={"fine_tune"}),
        "folds": [num_folds, num_seeds],
        "images": digest_table(images[["image_id", "sha256", "label", "group"]]),
    }
    file = workspace.folds_folder / f"{digest(identity)[:16]}.csv"
    if not file.exists():
        training = select_images(images, "train", workspace, features, with_mirrored=features.with_mirrored)
        plan: list[tuple[Scheme, int]] = [*(("grouped", seed) for seed in range(num_seeds)), ("by_image", 0)]
        parts = [
            score_folds(training, images["group"].to_numpy(), scheme, num_folds, seed, hidden_units, settings)
            for scheme, seed in plan
        ]
        scores = pd.concat(parts, ignore_index=True)
        scores.insert(3, "image_id", images["image_id"].to_numpy()[scores.pop("position")])
        with replace_file(file) as temporary:
            scores.to_csv(temporary, index=False)
    return file


def score_folds(
    training: TrainingImages,
    groups: NDArray,
    scheme: Scheme,
    num_folds: int,
    seed: int,
    hidden_units: int,
    settings: TrainingSettings,
) -> pd.DataFrame:
    """Score each image with a head that has seen neither it nor its fold.

    Args:
        training: Features and labels of all images.
        groups: Group of each image; with the scheme `by_image` it is not looked at.
        scheme: Whether folds keep groups whole.
        num_folds: Number of folds.
        seed: Start of folds, initial weights, order and flips.
        hidden_units: Width of the head's dense layer.
        settings: How each head is trained.

    Returns:
        Columns scheme, seed, fold, position (of the image), label and score. A fold whose other folds hold one class
        only, as can be with very few groups, is left out.
    """
    parts = []
    for fold, (fit_on, scored) in enumerate(_cut_folds(training.labels, groups, scheme, num_folds, seed)):
        if len(np.unique(training.labels[fit_on])) < len(LABELS):
            continue
        head, _ = train_head(_choose(training, fit_on), _choose(training, scored), hidden_units, settings, seed)
        blocks = np.array_split(scored, -(-len(scored) // ROWS_PER_BLOCK))
        scores = np.concatenate([predict(head, training.plain[block], batch_size=256) for block in blocks])
        columns = {"scheme": scheme, "seed": seed, "fold": fold, "position": scored}
        parts.append(pd.DataFrame({**columns, "label": _name(training.labels[scored]), "score": scores}))
    columns = ["scheme", "seed", "fold", "position", "label", "score"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _cut_folds(
    labels: NDArray[np.int64], groups: NDArray, scheme: Scheme, num_folds: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    if scheme == "grouped":
        yield from StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels, groups)
    else:
        yield from StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels)


def _choose(images: TrainingImages, positions: NDArray[np.int64]) -> TrainingImages:
    return replace(
        images,
        plain=_Chosen(images.plain, positions),
        mirrored=None if images.mirrored is None else _Chosen(images.mirrored, positions),
        labels=images.labels[positions],
    )


def _name(labels: NDArray[np.int64]) -> NDArray[np.str_]:
    return np.array(LABELS)[labels]
