"""Cross-validates candidates on the training split, on the same folds and with the same seeds.

A head is fitted on stored features. A fine-tuned candidate also trains the backbone, on the images of the other folds.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from hip_mri.errors import EvaluationError
from hip_mri.hashes import digest
from hip_mri.model_comparison.candidates import DescribedCandidate
from hip_mri.models.cross_validation import (
    Fold,
    FoldPlan,
    Scheme,
    cross_validate_fold,
    list_folds,
    plan_folds,
    read_training_images,
    split_fold,
    tabulate_fold,
    write_fold,
)
from hip_mri.models.heads.head import fit_head
from hip_mri.models.network import IMAGES_PER_BLOCK, open_image_views, open_images, select_features, tune_network
from hip_mri.models.predict import predict_views
from hip_mri.workspace import Workspace

TUNED_FOLD_RECIPE: Final = 1
"""Version of the fine-tuning of folds; raised by changes that alter scores."""

SCHEMES: Final[tuple[Scheme, ...]] = ("grouped",)


@dataclass(frozen=True)
class CandidateFold:
    """One fold of a candidate, the work of one task run."""

    name: str
    fold: Fold
    plan: FoldPlan


@dataclass(frozen=True)
class CandidatePlans:
    """Cross-validation of all candidates.

    Attributes:
        plans: Of each candidate; equal ones share their scores.
        parts: Folds that are to be scored, repetition by repetition.
    """

    plans: tuple[FoldPlan, ...]
    parts: tuple[CandidateFold, ...]


def plan_candidate_folds(described: Sequence[DescribedCandidate], workspace: Workspace) -> CandidatePlans:
    """Plan the cross-validation of all candidates; folds whose scores are joined already are not listed.

    Raises:
        EvaluationError: A class has a single group in the training split.
    """
    plans = [_plan_candidate(it, workspace) for it in described]
    first = {plan.file: (it.candidate.name, plan) for it, plan in reversed(list(zip(described, plans, strict=True)))}
    parts = [CandidateFold(name, fold, plan) for name, plan in reversed(first.values()) for fold in plan.folds]
    return CandidatePlans(tuple(plans), tuple(sorted(parts, key=lambda part: part.fold.seed)))


def _plan_candidate(described: DescribedCandidate, workspace: Workspace) -> FoldPlan:
    config, features = described.candidate.config, described.features
    training, evaluation = config.training, config.evaluation
    plan = plan_folds(workspace, features, config.model.head_design, training, evaluation, SCHEMES)
    if plan is None:
        raise EvaluationError(
            "cross-validation: a class has fewer than 2 groups in the training split. Add images of more patients."
        )
    if not training.fine_tune.epochs:
        return plan
    tuned = training.fine_tune.model_copy(update={"early_stopping_patience": 0})
    file = plan.file.with_name(f"{digest([TUNED_FOLD_RECIPE, plan.file.stem, tuned.model_dump()])[:16]}.csv")
    folds = () if file.exists() else list_folds(plan.num_folds, evaluation.cross_validation_seeds, SCHEMES)
    return replace(plan, file=file, folds=folds, settings=plan.settings.model_copy(update={"fine_tune": tuned}))


def cross_validate_candidate(part: CandidateFold, workspace: Workspace) -> Path:
    """Score one fold of a candidate, unless its scores are stored; see `cross_validate_fold`."""
    if not part.plan.settings.fine_tune.epochs:
        return cross_validate_fold(part.fold, part.plan, workspace)
    file = part.plan.part_file(part.fold)
    if file.exists():
        return file
    images = read_training_images(workspace)
    return write_fold(file, _score_tuned(part, images, workspace), images)


def _score_tuned(part: CandidateFold, images: pd.DataFrame, workspace: Workspace) -> pd.DataFrame:
    """Fit a head and fine-tune the network on the other folds, then score the fold; as `score_fold`."""
    fold, plan = part.fold, part.plan
    with_mirrored = plan.features.with_mirrored
    training = select_features(images, "train", workspace, plan.features, with_mirrored=with_mirrored)
    pixels = open_images(images, "train", workspace, plan.features, with_mirrored=with_mirrored)
    fit_on, scored = split_fold(fold, training, plan.num_folds)
    if not len(scored):
        return tabulate_fold(fold, training, scored, np.empty(0, np.float32))
    checkpoint = plan.part_file(fold).with_suffix(".checkpoint")
    fitted, _ = fit_head(plan.head, training.select(fit_on), None, plan.settings, fold.seed)
    network, _ = tune_network(
        fitted, plan.head, plan.features, pixels.select(fit_on), None, plan.settings, fold.seed, checkpoint
    )
    views = open_image_views(images["sha256"], workspace, plan.features).select(scored)
    blocks = predict_views(network, views, IMAGES_PER_BLOCK)
    scores = np.concatenate([block_scores for _, block_scores in blocks])
    shutil.rmtree(checkpoint, ignore_errors=True)
    return tabulate_fold(fold, training, scored, scores)
