"""Cross-validates the head on the stored features of the training split.

Validation and test images are not used. It runs with folds that keep groups whole and with folds of single images. The
difference of the two is the optimistic bias that grouping prevents.
"""

import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS, EvaluationSettings, FineTuneSettings, HeadDesign, TrainingSettings
from hip_mri.dataset.manifest import digest_table, read_manifest, select_ready
from hip_mri.hashes import digest
from hip_mri.models.features import FeatureSet
from hip_mri.models.fitting import TrainingImages
from hip_mri.models.heads.head import fit_head, list_head_libraries
from hip_mri.models.keras_settings import count_network_threads, describe_keras
from hip_mri.models.network import select_features
from hip_mri.models.network_inputs import Views
from hip_mri.models.predict import predict_views
from hip_mri.storage import replace_file
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

FOLD_RECIPE: Final = 2
"""Version of the cross-validation; raised by changes that alter scores. Before 2 the user's Keras settings could alter
them."""

MIN_NUM_FOLDS: Final = 2

ROWS_PER_BATCH: Final = 256
"""Rows that a head scores at once."""

FOLD_COLUMNS: Final = ("scheme", "seed", "fold", "image_id", "label", "score")
"""Columns of the table of scores: `scheme` is `grouped` or `by_image`, `score` the probability of a lesion, 0-1."""

Scheme = Literal["grouped", "by_image"]


@dataclass(frozen=True)
class Fold:
    """One fold of a cross-validation.

    Attributes:
        scheme: Whether folds keep groups whole.
        seed: Number of the repetition; seed of folds, initial weights, order and flips.
        number: Number of the fold that is scored; the head is trained on the other folds.
    """

    scheme: Scheme
    seed: int
    number: int

    @property
    def name(self) -> str:
        """Name of the fold, such as `grouped-0-3`."""
        return f"{self.scheme}-{self.seed}-{self.number}"


@dataclass(frozen=True)
class FoldPlan:
    """Plan of a cross-validation.

    Attributes:
        file: CSV of all scores.
        num_folds: Number of folds of one repetition.
        folds: Folds that are to be scored; empty if the file exists.
        features: The set to train on.
        head: Kind and size of the head.
        settings: Settings of the training; without early stopping, which would need the fold that is scored, and
            without fine-tuning.
    """

    file: Path
    num_folds: int
    folds: tuple[Fold, ...]
    features: FeatureSet
    head: HeadDesign
    settings: TrainingSettings

    def part_file(self, fold: Fold) -> Path:
        """CSV of the scores of one fold."""
        return self.file.with_suffix("") / f"{fold.name}.csv"


def plan_folds(
    workspace: Workspace,
    features: FeatureSet,
    head: HeadDesign,
    settings: TrainingSettings,
    evaluation: EvaluationSettings,
    schemes: tuple[Scheme, ...] = ("grouped", "by_image"),
) -> FoldPlan | None:
    """Plan the cross-validation of the head on the training split.

    The number of folds is reduced if a class has fewer groups. Grouped folds are repeated with other seeds; folds by
    image run once.

    Returns:
        The plan; `None` if cross-validation is switched off or a class has a single group.
    """
    num_seeds = evaluation.cross_validation_seeds
    settings = settings.model_copy(update={"early_stopping_patience": 0, "fine_tune": FineTuneSettings()})
    if not num_seeds:
        return None
    images = read_training_images(workspace)
    num_folds = count_folds(images, evaluation.cross_validation_folds)
    if num_folds < MIN_NUM_FOLDS:
        logger.warning("No cross-validation: a class has a single group in the training split")
        return None
    identity = {
        "recipe": FOLD_RECIPE,
        "keras": describe_keras(),
        "num_threads": count_network_threads(),
        "features": features.digest,
        "with_mirrored": features.with_mirrored,
        "head": asdict(head),
        "averages_mirrored": features.averages_mirrored,
        "settings": settings.model_dump(exclude={"fine_tune"}),
        "folds": [num_folds, num_seeds, *(() if "by_image" in schemes else schemes)],
        "images": digest_table(images[["image_id", "sha256", "label", "group"]]),
        "libraries": list_head_libraries(head),
    }
    file = workspace.folds_folder / f"{digest(identity)[:16]}.csv"
    folds = () if file.exists() else list_folds(num_folds, num_seeds, schemes)
    return FoldPlan(file, num_folds, folds, features, head, settings)


def list_folds(num_folds: int, num_seeds: int, schemes: tuple[Scheme, ...]) -> tuple[Fold, ...]:
    """List the folds of all repetitions; those by image are not repeated."""
    repetitions: list[tuple[Scheme, int]] = [
        (scheme, seed) for scheme in schemes for seed in range(num_seeds if scheme == "grouped" else 1)
    ]
    return tuple(Fold(scheme, seed, number) for scheme, seed in repetitions for number in range(num_folds))


def cross_validate_fold(fold: Fold, plan: FoldPlan, workspace: Workspace) -> Path:
    """Train a head on all folds but one and score that fold, unless its scores are stored.

    Returns:
        CSV in the `folds` folder, with the columns of `FOLD_COLUMNS`.
    """
    file = plan.part_file(fold)
    if file.exists():
        return file
    images = read_training_images(workspace)
    training = select_features(images, "train", workspace, plan.features, with_mirrored=plan.features.with_mirrored)
    scores = score_fold(fold, plan, training, plan.features.open_views(workspace, images["sha256"]))
    return write_fold(file, scores, images)


def write_fold(file: Path, scores: pd.DataFrame, images: pd.DataFrame) -> Path:
    """Write the scores of a fold (see `score_fold`) with the ids of its images."""
    scores = scores.assign(image_id=images["image_id"].to_numpy()[scores["position"]])
    with replace_file(file) as temporary:
        scores[list(FOLD_COLUMNS)].to_csv(temporary, index=False)
    return file


def join_folds(plan: FoldPlan) -> Path:
    """Join the scores of all folds, which must be stored, in one CSV with the columns of `FOLD_COLUMNS`."""
    if plan.folds and not plan.file.exists():
        scores = pd.concat([pd.read_csv(plan.part_file(fold), dtype="str") for fold in plan.folds])
        with replace_file(plan.file) as temporary:
            scores.to_csv(temporary, index=False)
    shutil.rmtree(plan.file.with_suffix(""), ignore_errors=True)
    return plan.file


def score_fold(fold: Fold, plan: FoldPlan, training: TrainingImages, views: Views) -> pd.DataFrame:
    """Fit a head on the other folds and score the images of a fold.

    Args:
        fold: The fold to score.
        plan: Number of folds and settings.
        training: Features, labels and groups of all images.
        views: Features of the same images, to be scored.

    Returns:
        Columns scheme, seed, fold, position (of the image), label and score; no rows if the other folds hold a single
        class, as can happen with very few groups.
    """
    fit_on, scored = split_fold(fold, training, plan.num_folds)
    scores = np.empty(0, np.float32)
    if len(scored):
        fitted, _ = fit_head(plan.head, training.select(fit_on), None, plan.settings, fold.seed, reuse_compiled=True)
        blocks = predict_views(fitted, views.select(scored), batch_size=ROWS_PER_BATCH)
        scores = np.concatenate([block_scores for _, block_scores in blocks])
    return tabulate_fold(fold, training, scored, scores)


def split_fold(fold: Fold, training: TrainingImages, num_folds: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of the images to train on and to score; none to score if the others hold a single class."""
    fit_on, scored = _split_folds(training.labels, training.groups, fold, num_folds)[fold.number]
    return fit_on, scored if len(np.unique(training.labels[fit_on])) == len(LABELS) else scored[:0]


def tabulate_fold(
    fold: Fold, training: TrainingImages, scored: NDArray[np.int64], scores: NDArray[np.float32]
) -> pd.DataFrame:
    """Join the scores of a fold with its images; see `score_fold`."""
    columns = {"scheme": fold.scheme, "seed": fold.seed, "fold": fold.number, "position": scored}
    return pd.DataFrame({**columns, "label": np.array(LABELS)[training.labels[scored]], "score": scores})


def read_training_images(workspace: Workspace) -> pd.DataFrame:
    """Read the rows of the manifest that cross-validation uses, in the order that folds depend on."""
    images = select_ready(read_manifest(workspace.manifest_file))
    return images[images["split"] == "train"].sort_values("image_id")


def count_folds(images: pd.DataFrame, max_folds: int) -> int:
    """Count the folds that images (columns label and group) can be divided into: at most the groups of each class."""
    return min(max_folds, *images.groupby("label")["group"].nunique(), len(images))


def assign_folds(images: pd.DataFrame, seed: int, num_folds: int) -> NDArray[np.int64]:
    """Assign images (columns label and group) to the folds of one repetition.

    Returns:
        Number of each image's fold, from 0.
    """
    labels, groups = images["label"].map(LABELS.index).to_numpy(), images["group"].to_numpy()
    folds = np.empty(len(images), np.int64)
    for number, (_, scored) in enumerate(_split_folds(labels, groups, Fold("grouped", seed, 0), num_folds)):
        folds[scored] = number
    return folds


def _split_folds(
    labels: NDArray[np.int64], groups: NDArray | None, fold: Fold, num_folds: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Compute the positions of training and scored images for each fold; the scheme `by_image` needs no groups."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # noqa: PLC0415 - a second to import

    if fold.scheme == "grouped":
        return list(StratifiedGroupKFold(num_folds, shuffle=True, random_state=fold.seed).split(labels, labels, groups))
    return list(StratifiedKFold(num_folds, shuffle=True, random_state=fold.seed).split(labels, labels))
