"""Folds that keep groups whole, the inflation they prevent, and what is done once."""

import numpy as np
import pandas as pd
import pytest

from hip_mri.config import EvaluationSettings, TrainingSettings
from hip_mri.data.manifest import read_manifest
from hip_mri.evaluation.results import summarize_folds
from hip_mri.model.backbone import NUM_FEATURES
from hip_mri.model.cross_validation import cross_validate_head, score_folds
from hip_mri.model.fitting import TrainingImages

SETTINGS = TrainingSettings(epochs=12, batch_size=32, learning_rate=1e-3)


@pytest.fixture(scope="module")
def patients() -> tuple[TrainingImages, np.ndarray]:
    """Features of 40 patients, six images each, that tell the patient but nothing else; labels drawn by patient."""
    generator = np.random.default_rng(5)
    groups = np.repeat(np.arange(40), 6)
    features = generator.normal(size=(40, NUM_FEATURES))[groups] + 0.3 * generator.normal(size=(240, NUM_FEATURES))
    labels = generator.permutation(np.arange(40) % 2)[groups]
    return TrainingImages(features.astype(np.float32), None, labels), groups


def test_no_group_is_scored_by_a_head_that_saw_it(patients) -> None:
    images, groups = patients
    scores = score_folds(images, groups, "grouped", 5, 0, 4, SETTINGS.model_copy(update={"epochs": 1}))
    assert sorted(scores["position"]) == list(range(240))
    assert (scores.groupby(groups[scores["position"]])["fold"].nunique() == 1).all()


def test_random_labels_are_at_chance_with_grouped_folds_and_inflated_without(patients) -> None:
    images, groups = patients
    parts = [score_folds(images, groups, scheme, 5, 0, 32, SETTINGS) for scheme in ("grouped", "by_image")]
    found = summarize_folds(pd.concat(parts))
    spread = found["grouped"]["standard_deviation"]
    assert abs(found["grouped"]["mean"] - 0.5) < 2.8 * spread / np.sqrt(5)  # Student's 97.5 % quantile, 4 degrees
    assert found["by_image"]["mean"] > 0.95
    assert found["inflation"] > 0.25


def test_it_is_done_once_for_the_same_images_and_settings(trained_workspace, monkeypatch) -> None:
    workspace, features = trained_workspace
    settings = EvaluationSettings(cross_validation_folds=2, cross_validation_seeds=1)
    quick = SETTINGS.model_copy(update={"epochs": 1})
    file = cross_validate_head(workspace, features, 4, quick, settings)
    assert file is not None
    scores = pd.read_csv(file, dtype={"image_id": "str"})
    manifest = read_manifest(workspace.manifest_file)
    training = set(manifest.loc[manifest["split"] == "train", "image_id"])
    assert set(scores["scheme"]) == {"grouped", "by_image"}
    assert set(scores["image_id"]) == training
    monkeypatch.setattr("hip_mri.model.cross_validation.score_folds", lambda *_: pytest.fail("it ran again"))
    assert cross_validate_head(workspace, features, 4, quick, settings) == file
    none = EvaluationSettings(cross_validation_seeds=0)
    assert cross_validate_head(workspace, features, 4, quick, none) is None
