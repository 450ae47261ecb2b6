"""Stages that flows share. Plain functions rather than subflows, so that a run is one flow run in the UI."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect import unmapped

from hip_mri.config import TrainingConfig
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import IngestReport
from hip_mri.dataset.shards import Shard
from hip_mri.grouping.groups import GroupReport
from hip_mri.grouping.split import SplitReport
from hip_mri.models.backbones.weights import Weights
from hip_mri.models.features import FeatureSet
from hip_mri.workspace import Workspace
from tasks.dataset import (
    check_patient_tables,
    export_folders,
    find_images_with_text,
    ingest_images,
    plan_shards,
    preprocess_images,
)
from tasks.evaluation import publish_run
from tasks.grouping import fingerprint_images, group_images, split_manifest
from tasks.mapping import map_shards, wait_for_all
from tasks.models import (
    choose_features,
    cross_validate_fold,
    extract_features,
    find_neighbors,
    fit_novelty,
    join_folds,
    measure_leakage,
    measure_shortcuts,
    measure_training_sizes,
    plan_folds,
    prepare_backbone,
    train_model,
)
from tasks.tracking import track_run


@dataclass(frozen=True)
class PreparedImages:
    """Images that are grouped, split and preprocessed.

    Attributes:
        ingested: Counts of the source's entries.
        grouped: Counts of groups, and what relates their images.
        split: Counts of images and groups in each split.
        shards: The images, in parts.
    """

    ingested: IngestReport
    grouped: GroupReport
    split: SplitReport
    shards: Sequence[Shard]


def ingest(
    config: TrainingConfig, workspace: Workspace, delivered: Sequence[Delivery], *, keep_earlier: bool = False
) -> IngestReport:
    """Check the tables that come with the images, and copy the images into the workspace."""
    data = config.data
    check_patient_tables(delivered, data.patients_file, data.class_names, keep_given_split=data.given_split == "keep")
    return ingest_images(
        delivered,
        workspace,
        config.runner.count_threads(),
        data,
        keep_earlier=keep_earlier,
        class_names=data.class_names,
        patients_file=data.patients_file,
    )


def prepare_images(
    config: TrainingConfig, workspace: Workspace, delivered: Sequence[Delivery], ingested: IngestReport
) -> PreparedImages:
    """Group related images, split the groups, and preprocess every image."""
    data, fingerprinted = config.data, None
    if data.find_text:
        find_images_with_text(workspace, config.runner.count_threads())
    if data.group_similar:
        shards = plan_shards(workspace, config.runner.shard_size)
        fingerprinted = map_shards(fingerprint_images, shards, workspace)
    grouped = group_images(workspace, delivered, data, config.runner.count_threads(), wait_for=fingerprinted)
    split = split_manifest(workspace, data.val_fraction, data.test_fraction, config.seed)
    shards = plan_shards(workspace, config.runner.shard_size)
    preprocessed = map_shards(preprocess_images, shards, workspace, config.preprocessing)
    export_folders(workspace, config.preprocessing, wait_for=preprocessed)
    return PreparedImages(ingested, grouped, split, shards)


def compute_features(
    config: TrainingConfig, workspace: Workspace, weights: Weights, shards: Sequence[Shard]
) -> FeatureSet:
    """Compute the features of every image, once."""
    num_threads, preprocessing = config.runner.count_threads(), config.preprocessing
    backbone = prepare_backbone.submit(
        weights, workspace, preprocessing, config.seed, num_threads, config.model.input_scaling
    ).result()
    features = choose_features.submit(
        backbone, config.features, preprocessing, config.training.horizontal_flip, workspace, num_threads
    ).result()
    map_shards(extract_features, shards, workspace, features)
    return features


def train_and_report(
    config: TrainingConfig, workspace: Workspace, weights: Weights, images: PreparedImages, features: FeatureSet
) -> str:
    """Train a model, evaluate it, and publish the run; returns the run's folder."""
    hidden_units, training = config.model.hidden_units, config.training
    trained = train_model.submit(workspace, features, hidden_units, training, config.seed).result()
    folds_file = cross_validate(config, workspace, features)
    leakage_file = measure_leakage(workspace, features, config.evaluation)
    neighbors_file = find_neighbors(workspace, features)
    novelty_file = fit_novelty(workspace, features, trained, config.evaluation.outside_fraction)
    shortcuts_file = measure_shortcuts(workspace, config.runner.count_threads())
    training_sizes_file = measure_training_sizes(workspace, features, config.seed)
    run_folder = publish_run(
        workspace,
        config,
        weights,
        features,
        trained,
        images.ingested,
        images.grouped,
        images.split,
        folds_file,
        neighbors_file,
        leakage_file,
        novelty_file,
        shortcuts_file,
        training_sizes_file,
    )
    if config.tracking.mlflow_uri:
        track_run(run_folder, config.tracking)
    return run_folder


def cross_validate(config: TrainingConfig, workspace: Workspace, features: FeatureSet) -> Path | None:
    """Score each training image by a head that was trained without its fold, one task run for each fold."""
    plan = plan_folds(workspace, features, config.model.hidden_units, config.training, config.evaluation)
    if plan is None:
        return None
    validated = wait_for_all(
        cross_validate_fold,
        cross_validate_fold.map(plan.folds, unmapped(plan), unmapped(workspace)),
        "folds",
        [1] * len(plan.folds),
    )
    return join_folds(plan, wait_for=validated)
