"""Folds that keep groups whole, the bias that they prevent, and reuse of stored scores."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest

from hip_mri.config import EvaluationSettings, HeadDesign, TrainingSettings
from hip_mri.dataset.manifest import read_manifest
from hip_mri.evaluation.metrics.results import summarize_folds
from hip_mri.models import cross_validation
from hip_mri.models.cross_validation import (
    Fold,
    FoldPlan,
    Scheme,
    cross_validate_fold,
    join_folds,
    plan_folds,
    score_fold,
)
from hip_mri.models.features import FeatureSet
from hip_mri.models.fitting import TrainingImages
from hip_mri.models.heads import dense
from hip_mri.models.network_inputs import Views

NUM_FEATURES = 2048
SETTINGS = TrainingSettings(epochs=12, batch_size=32, learning_rate=1e-3)


@pytest.fixture(scope="module")
def images() -> TrainingImages:
    """Features of 40 patients with six images each, which identify the patient only; random labels of patients."""
    generator = np.random.default_rng(5)
    groups = np.repeat(np.arange(40), 6)
    features = generator.normal(size=(40, NUM_FEATURES))[groups] + 0.3 * generator.normal(size=(240, NUM_FEATURES))
    labels = generator.permutation(np.arange(40) % 2)[groups]
    return TrainingImages(features.astype(np.float32), None, labels, groups)


def plan_five(hidden_units: int, settings: TrainingSettings = SETTINGS) -> FoldPlan:
    return FoldPlan(Path(), 5, (), cast("FeatureSet", None), HeadDesign("dense", hidden_units), settings)


def score_repetition(images, scheme: Scheme, plan: FoldPlan) -> pd.DataFrame:
    """Scores of all five folds of a scheme."""
    scores = [score_fold(Fold(scheme, 0, number), plan, images, Views(images.plain)) for number in range(5)]
    return pd.concat(scores, ignore_index=True)


def test_no_group_is_scored_by_a_head_that_was_trained_on_it(images) -> None:
    scores = score_repetition(images, "grouped", plan_five(4, SETTINGS.model_copy(update={"epochs": 1})))
    assert sorted(scores["position"]) == list(range(240))
    assert (scores.groupby(images.groups[scores["position"]])["fold"].nunique() == 1).all()


def test_random_labels_are_at_chance_with_grouped_folds_and_inflated_without(images) -> None:
    parts = [score_repetition(images, scheme, plan_five(32)) for scheme in ("grouped", "by_image")]
    found = summarize_folds(pd.concat(parts))
    spread = found["grouped"]["standard_deviation"]
    assert abs(found["grouped"]["mean"] - 0.5) < 2.8 * spread / np.sqrt(5)  # Student's 97.5 % quantile, 4 degrees
    assert found["by_image"]["mean"] > 0.95
    assert found["inflation"] > 0.25


def test_scores_do_not_depend_on_what_the_thread_trained_before(images, monkeypatch) -> None:
    fold = Fold("grouped", 1, 2)
    first = score_fold(fold, plan_five(8), images, Views(images.plain))
    score_fold(Fold("by_image", 0, 0), plan_five(8), images, Views(images.plain))
    again = score_fold(fold, plan_five(8), images, Views(images.plain))
    monkeypatch.setattr(dense, "_compiled", SimpleNamespace())
    untrained = score_fold(fold, plan_five(8), images, Views(images.plain))
    np.testing.assert_array_equal(again["score"], first["score"])
    np.testing.assert_array_equal(untrained["score"], first["score"])


def run_all(workspace, features, settings: TrainingSettings, evaluation: EvaluationSettings) -> Path | None:
    plan = plan_folds(workspace, features, HeadDesign("dense", 4), settings, evaluation)
    if plan is None:
        return None
    for fold in plan.folds:
        cross_validate_fold(fold, plan, workspace)
    return join_folds(plan)


def test_it_is_done_once_for_the_same_images_and_settings(trained_workspace, monkeypatch) -> None:
    workspace, features = trained_workspace
    settings = EvaluationSettings(cross_validation_folds=2, cross_validation_seeds=1)
    quick = SETTINGS.model_copy(update={"epochs": 1})
    file = run_all(workspace, features, quick, settings)
    assert file is not None
    scores = pd.read_csv(file, dtype={"image_id": "str"})
    manifest = read_manifest(workspace.manifest_file)
    training = set(manifest.loc[manifest["split"] == "train", "image_id"])
    assert set(scores["scheme"]) == {"grouped", "by_image"}
    assert set(scores["image_id"]) == training
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]
    monkeypatch.setattr(cross_validation, "score_fold", lambda *_: pytest.fail("it ran again"))
    assert run_all(workspace, features, quick, settings) == file
    none = EvaluationSettings(cross_validation_seeds=0)
    assert run_all(workspace, features, quick, none) is None


def test_a_fold_that_a_killed_run_had_scored_is_not_scored_again(trained_workspace, monkeypatch) -> None:
    workspace, features = trained_workspace
    settings = EvaluationSettings(cross_validation_folds=2, cross_validation_seeds=1)
    quick = SETTINGS.model_copy(update={"epochs": 2})
    plan = plan_folds(workspace, features, HeadDesign("dense", 4), quick, settings)
    assert plan is not None
    file_of_fold = cross_validate_fold(plan.folds[0], plan, workspace)
    content = file_of_fold.read_bytes()
    scored = []
    monkeypatch.setattr(
        cross_validation, "score_fold", lambda fold, *rest: scored.append(fold) or score_fold(fold, *rest)
    )
    file = run_all(workspace, features, quick, settings)
    assert file is not None
    assert scored == list(plan.folds[1:])
    assert content.splitlines()[1] in file.read_bytes().splitlines()


def test_folds_that_two_candidates_share_are_joined_twice(trained_workspace) -> None:
    workspace, features = trained_workspace
    settings = EvaluationSettings(cross_validation_folds=2, cross_validation_seeds=1)
    plan = plan_folds(workspace, features, HeadDesign("logistic"), SETTINGS, settings)
    assert plan is not None
    for fold in plan.folds:
        cross_validate_fold(fold, plan, workspace)
    content = join_folds(plan).read_bytes()
    assert join_folds(plan).read_bytes() == content
