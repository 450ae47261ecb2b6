"""Stages that flows share, each a few steps in their order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hip_mri.config import TrainingConfig
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import IngestReport
from hip_mri.dataset.shards import Shard
from hip_mri.grouping.groups import GroupReport
from hip_mri.grouping.split import SplitReport
from hip_mri.models.backbones.weights import Weights
from hip_mri.models.features import FeatureSet
from hip_mri.workspace import Workspace
from tasks.data import (
    check_patient_tables,
    export_folders,
    find_images_with_text,
    fingerprint_images,
    group_images,
    ingest_images,
    plan_shards,
    preprocess_images,
    split_manifest,
)
from tasks.evaluation import publish_run
from tasks.model import (
    choose_features,
    cross_validate_fold,
    extract_features,
    find_neighbours,
    fit_novelty,
    join_folds,
    plan_folds,
    prepare_backbone,
    train_model,
)
from tasks.steps import Steps


@dataclass(frozen=True)
class Images:
    """Images that are grouped, split and preprocessed.

    Attributes:
        intake: What came of the entries.
        groups: What ties images together.
        division: How groups were split.
        shards: The images, in parts.
    """

    intake: IngestReport
    groups: GroupReport
    division: SplitReport
    shards: Sequence[Shard]


def take_in(
    steps: Steps,
    config: TrainingConfig,
    workspace: Workspace,
    delivered: Sequence[Delivery],
    *,
    keep_earlier: bool = False,
) -> IngestReport:
    """Check the tables that come with the images, and take the images in."""
    data, threads = config.data, config.runner.count_threads()
    steps.run(check_patient_tables)(
        delivered, data.patients_file, data.class_names, keep_given_split=data.given_split == "keep"
    )
    return steps.run(ingest_images)(
        delivered,
        workspace,
        threads,
        data,
        keep_earlier=keep_earlier,
        class_names=data.class_names,
        patients_file=data.patients_file,
    )


def arrange_images(
    steps: Steps, config: TrainingConfig, workspace: Workspace, delivered: Sequence[Delivery], intake: IngestReport
) -> Images:
    """Find what belongs together, split it, and preprocess every image."""
    data, preprocessing = config.data, config.preprocessing
    if data.find_text:
        steps.run(find_images_with_text)(workspace, config.runner.count_threads())
    if data.group_similar:
        arrived = steps.run(plan_shards)(workspace, config.runner.shard_size)
        steps.map_shards(fingerprint_images, arrived, workspace)
    groups = steps.run(group_images)(workspace, delivered, data, config.runner.count_threads())
    division = steps.run(split_manifest)(workspace, data.val_fraction, data.test_fraction, config.seed)
    shards = steps.run(plan_shards)(workspace, config.runner.shard_size)
    steps.map_shards(preprocess_images, shards, workspace, settings=preprocessing)
    steps.run(export_folders)(workspace, preprocessing)
    return Images(intake, groups, division, shards)


def compute_features(
    steps: Steps, config: TrainingConfig, workspace: Workspace, weights: Weights, images: Images
) -> FeatureSet:
    """Compute the features of every image, once."""
    threads, preprocessing = config.runner.count_threads(), config.preprocessing
    backbone = steps.run(prepare_backbone)(weights, workspace, preprocessing, config.seed, threads)
    features = steps.run(choose_features)(
        backbone, config.features, preprocessing, config.training.horizontal_flip, workspace, threads
    )
    steps.map_shards(extract_features, images.shards, workspace, features=features)
    return features


def train_and_report(
    steps: Steps, config: TrainingConfig, workspace: Workspace, weights: Weights, images: Images, features: FeatureSet
) -> str:
    """Train a model, examine it, and publish the run; returns the run's folder."""
    hidden_units, training = config.model.hidden_units, config.training
    trained = steps.run(train_model)(workspace, features, hidden_units, training, config.seed)
    folds = cross_validate(steps, config, workspace, features)
    neighbours = steps.run(find_neighbours)(workspace, features)
    novelty = steps.run(fit_novelty)(workspace, features, trained, config.evaluation.outside_fraction)
    findings = (images.intake, images.groups, images.division, folds, neighbours, novelty)
    return steps.run(publish_run)(workspace, config, weights, features, trained, *findings, steps.seconds)


def cross_validate(steps: Steps, config: TrainingConfig, workspace: Workspace, features: FeatureSet) -> Path | None:
    """Score the training images by heads that have not seen their fold, one task run for each fold."""
    hidden_units, training = config.model.hidden_units, config.training
    plan = steps.run(plan_folds)(workspace, features, hidden_units, training, config.evaluation)
    if plan is None:
        return None
    steps.map(cross_validate_fold, "fold", plan.folds, workspace, plan=plan)
    return steps.run(join_folds)(plan)
