"""How the figures vary with the images: cross-validation of the head on the stored features of the training split.

Validation and test images stay out of it, so it can be looked at as often as one likes. It runs twice: with folds
that keep groups whole, and with folds of single images, as most published scripts do. The gap between the two is the
inflation that grouping prevents.
"""

import logging
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS, EvaluationSettings, TrainingSettings
from hip_mri.dataset.manifest import digest_table, read_manifest, select_ready
from hip_mri.models.features import FeatureSet
from hip_mri.models.fitting import Rows, TrainingImages
from hip_mri.models.head import compile_head, train_head
from hip_mri.models.keras_settings import count_network_threads, describe_keras
from hip_mri.models.network import ROWS_PER_BLOCK, predict, select_images
from hip_mri.storage import digest, replace_file
from hip_mri.workspace import Workspace

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

RECIPE: Final = 2
"""Number of this way to cross-validate; a change that alters scores raises it. Below 2 the user's settings of Keras
could alter them."""

MIN_NUM_FOLDS: Final = 2

COLUMNS: Final = ("scheme", "seed", "fold", "image_id", "label", "score")
"""Columns of the scores: `scheme` is `grouped` or `by_image`, `score` the probability of a lesion, 0-1."""

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


@dataclass(frozen=True)
class Fold:
    """One head of cross-validation.

    Attributes:
        scheme: Whether folds keep groups whole.
        seed: Number of the repetition; start of folds, initial weights, order and flips.
        number: Which of the repetition's folds is scored; the head is trained on the others.
    """

    scheme: Scheme
    seed: int
    number: int

    @property
    def name(self) -> str:
        """Such as `grouped-0-3`."""
        return f"{self.scheme}-{self.seed}-{self.number}"


@dataclass(frozen=True)
class FoldPlan:
    """What there is to do for a cross-validation.

    Attributes:
        file: CSV of all scores.
        num_folds: Parts of the training images.
        folds: Folds whose scores are wanted; none where the file is there already.
    """

    file: Path
    num_folds: int
    folds: tuple[Fold, ...]

    def part_file(self, fold: Fold) -> Path:
        """CSV of the scores of one fold."""
        return self.file.with_suffix("") / f"{fold.name}.csv"


def plan_folds(
    workspace: Workspace,
    features: FeatureSet,
    hidden_units: int,
    settings: TrainingSettings,
    evaluation: EvaluationSettings,
) -> FoldPlan | None:
    """Plan the cross-validation of the head on the training split.

    Args:
        workspace: Its manifest is read.
        features: The set to train on.
        hidden_units: Width of the head's dense layer.
        settings: How each head is trained.
        evaluation: Number of folds, each scored by a head that was trained on the others; fewer are taken where a
            class has fewer groups. Number of repetitions of the grouped folds, with other folds and initial weights;
            folds by image run once.

    Returns:
        The plan; `None` where none is asked for, or a class has a single group.
    """
    num_seeds = evaluation.cross_validation_seeds
    if not num_seeds:
        return None
    images = _read_training_images(workspace)
    num_folds = min(evaluation.cross_validation_folds, int(images.groupby("label")["group"].nunique().min()))
    if num_folds < MIN_NUM_FOLDS:
        logger.warning("No cross-validation: a class has a single group in the training split")
        return None
    identity = {
        "recipe": RECIPE,
        "keras": describe_keras(),
        "num_threads": count_network_threads(),
        "features": features.digest,
        "with_mirrored": features.with_mirrored,
        "hidden_units": hidden_units,
        "settings": _train_all_epochs(settings).model_dump(exclude={"fine_tune"}),
        "folds": [num_folds, num_seeds],
        "images": digest_table(images[["image_id", "sha256", "label", "group"]]),
    }
    file = workspace.folds_folder / f"{digest(identity)[:16]}.csv"
    repetitions: list[tuple[Scheme, int]] = [*(("grouped", seed) for seed in range(num_seeds)), ("by_image", 0)]
    folds = [Fold(scheme, seed, number) for scheme, seed in repetitions for number in range(num_folds)]
    return FoldPlan(file, num_folds, () if file.exists() else tuple(folds))


def cross_validate_fold(
    fold: Fold,
    plan: FoldPlan,
    workspace: Workspace,
    features: FeatureSet,
    hidden_units: int,
    settings: TrainingSettings,
) -> Path:
    """Train a head on all folds but one, and score that one; done before, it is not repeated.

    Args:
        fold: Which one.
        plan: From `plan_folds`, for the same settings.
        workspace: Its manifest and features are read; its `folds` folder is written.
        features: The set to train on.
        hidden_units: Width of the head's dense layer.
        settings: How the head is trained, for all epochs, since early stopping would look at the fold that is scored;
            the second stage is left out.

    Returns:
        CSV with the columns of `COLUMNS`.
    """
    file = plan.part_file(fold)
    if file.exists():
        return file
    images = _read_training_images(workspace)
    training = select_images(images, "train", workspace, features, with_mirrored=features.with_mirrored)
    settings = _train_all_epochs(settings)
    scores = score_fold(fold, training, images["group"].to_numpy(), plan.num_folds, hidden_units, settings)
    scores.insert(3, "image_id", images["image_id"].to_numpy()[scores.pop("position")])
    with replace_file(file) as temporary:
        scores.to_csv(temporary, index=False)
    return file


def join_folds(plan: FoldPlan) -> Path:
    """Put the scores of all folds into one file.

    Args:
        plan: Each of its folds is scored.

    Returns:
        CSV with the columns of `COLUMNS`.
    """
    if plan.folds:
        parts = [plan.part_file(fold) for fold in plan.folds]
        tables = [table for file in parts if len(table := pd.read_csv(file, dtype="str"))]
        scores = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))
        with replace_file(plan.file) as temporary:
            scores.to_csv(temporary, index=False)
    shutil.rmtree(plan.file.with_suffix(""), ignore_errors=True)
    return plan.file


def score_fold(
    fold: Fold,
    training: TrainingImages,
    groups: NDArray,
    num_folds: int,
    hidden_units: int,
    settings: TrainingSettings,
) -> pd.DataFrame:
    """Score the images of a fold with a head that has seen neither them nor, with grouped folds, their groups.

    Args:
        fold: Which one.
        training: Features and labels of all images.
        groups: Group of each image; with the scheme `by_image` it is not looked at.
        num_folds: Number of folds.
        hidden_units: Width of the head's dense layer.
        settings: How the head is trained.

    Returns:
        Columns scheme, seed, fold, position (of the image), label and score; no row where the other folds hold one
        class only, as can be with very few groups.
    """
    fit_on, scored = _cut_folds(training.labels, groups, fold.scheme, num_folds, fold.seed)[fold.number]
    if len(np.unique(training.labels[fit_on])) < len(LABELS):
        scored = scored[:0]
        scores = np.empty(0, np.float32)
    else:
        head = _get_compiled_head(hidden_units, settings)
        train_head(head, _choose(training, fit_on), None, settings, fold.seed)
        blocks = np.array_split(scored, -(-len(scored) // ROWS_PER_BLOCK))
        scores = np.concatenate([predict(head, training.plain[block], batch_size=256) for block in blocks])
    columns = {"scheme": fold.scheme, "seed": fold.seed, "fold": fold.number, "position": scored}
    return pd.DataFrame({**columns, "label": np.array(LABELS)[training.labels[scored]], "score": scores})


_of_this_thread = threading.local()


def _get_compiled_head(hidden_units: int, settings: TrainingSettings) -> "keras.Model":
    """A head that one thread trains again and again; tracing its functions costs more than training on few images."""
    needed = (hidden_units, settings.learning_rate)
    if getattr(_of_this_thread, "made_for", None) != needed:
        _of_this_thread.made_for, _of_this_thread.head = needed, compile_head(hidden_units, settings)
    return _of_this_thread.head


def _read_training_images(workspace: Workspace) -> pd.DataFrame:
    images = select_ready(read_manifest(workspace.manifest_file))
    return images[images["split"] == "train"].sort_values("image_id")


def _train_all_epochs(settings: TrainingSettings) -> TrainingSettings:
    return settings.model_copy(update={"early_stopping_patience": 0})


def _cut_folds(
    labels: NDArray[np.int64], groups: NDArray, scheme: Scheme, num_folds: int, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions to train on and to score, fold by fold."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # noqa: PLC0415 - a second to import

    if scheme == "grouped":
        return list(StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels, groups))
    return list(StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels))


def _choose(images: TrainingImages, positions: NDArray[np.int64]) -> TrainingImages:
    return replace(
        images,
        plain=_Chosen(images.plain, positions),
        mirrored=None if images.mirrored is None else _Chosen(images.mirrored, positions),
        labels=images.labels[positions],
    )
