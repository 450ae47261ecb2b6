"""Stages that flows share. Plain functions rather than subflows, so that a run is one flow run in the UI."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect import unmapped

from hip_mri import run_files
from hip_mri.config import TrainingConfig
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import IngestReport
from hip_mri.grouping.groups import GroupReport
from hip_mri.grouping.split import SplitReport
from hip_mri.models.backbones.weights import Weights
from hip_mri.models.features import FeatureSet
from hip_mri.workspace import Workspace
from tasks.dataset import (
    check_patient_tables,
    export_folders,
    find_images_with_text,
    identify_images,
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
    measure_distances,
    measure_leakage,
    measure_shortcuts,
    measure_training_sizes,
    plan_folds,
    prepare_backbone,
    review_labels,
    train_model,
)
from tasks.tracking import track_run


@dataclass(frozen=True)
class PreparedImages:
    """Images that are grouped, split and preprocessed, with their features.

    Attributes:
        ingested: Counts of the source's entries.
        grouped: Counts of groups, and what relates their images.
        split: Counts of images and groups in each split.
        features: The features of all images.
    """

    ingested: IngestReport
    grouped: GroupReport
    split: SplitReport
    features: FeatureSet


def ingest(
    config: TrainingConfig, workspace: Workspace, delivered: Sequence[Delivery], *, keep_earlier: bool = False
) -> IngestReport:
    """Check the tables that come with the images, copy the images into the workspace, and identify their patients."""
    data = config.data
    keep_given_split = data.given_split == "keep"
    check_patient_tables(
        delivered, data.patients_file, data.class_names, data.split_files, keep_given_split=keep_given_split
    )
    ingested = ingest_images(
        delivered,
        workspace,
        config.runner.count_threads(),
        data,
        keep_earlier=keep_earlier,
        class_names=data.class_names,
        patients_file=data.patients_file,
        corrections_file=data.corrections_file,
    )
    identify_images(delivered, workspace, data)
    return ingested


def prepare_images(
    config: TrainingConfig, workspace: Workspace, weights: Weights, ingested: IngestReport
) -> PreparedImages:
    """Preprocess every image, compute its features, group related images, and split the groups."""
    data, num_threads, shard_size = config.data, config.runner.count_threads(), config.runner.shard_size
    if data.find_text:
        find_images_with_text(workspace, num_threads)
    shards = plan_shards(workspace, shard_size)
    if data.group_similar or data.infer_examinations:
        map_shards(fingerprint_images, shards, workspace)
    preprocessed = map_shards(preprocess_images, shards, workspace, config.preprocessing)
    features = choose_feature_set(config, workspace, weights)
    described = map_shards(extract_features, shards, workspace, features)

    described_by = features.open_store(workspace) if weights.file else None  # random features tell little
    grouped = group_images(workspace, data, num_threads, described_by, config.seed, wait_for=described)
    split = split_manifest(workspace, data.val_fraction, data.test_fraction, config.seed)
    map_shards(extract_features, plan_shards(workspace, shard_size), workspace, features)  # mirrored training images
    export_folders(workspace, config.preprocessing, wait_for=preprocessed)
    return PreparedImages(ingested, grouped, split, features)


def choose_feature_set(config: TrainingConfig, workspace: Workspace, weights: Weights) -> FeatureSet:
    """Prepare the backbone, and choose how features are computed."""
    num_threads, preprocessing = config.runner.count_threads(), config.preprocessing
    backbone = prepare_backbone.submit(
        weights, workspace, preprocessing, config.seed, num_threads, config.model.input_scaling
    ).result()
    return choose_features.submit(
        backbone,
        config.features,
        preprocessing,
        workspace,
        num_threads,
        with_mirrored=config.training.horizontal_flip,
        averages_mirrored=config.averages_mirrored,
    ).result()


def train_and_report(config: TrainingConfig, workspace: Workspace, weights: Weights, images: PreparedImages) -> str:
    """Train a model, evaluate it, and publish the run; returns the run's folder."""
    head, training, features = config.model.head_design, config.training, images.features
    trained = train_model.submit(workspace, features, head, training, config.seed).result()
    folds = cross_validate(config, workspace, features)
    novelty = fit_novelty(workspace, features, trained, config.evaluation.outside_fraction)
    tables = {
        run_files.FOLDS_FILE: folds,
        run_files.LABEL_REVIEW_FILE: review_labels(workspace, features, trained, folds),
        run_files.LEAKAGE_FILE: measure_leakage(workspace, features, config.evaluation),
        run_files.NEIGHBORS_FILE: find_neighbors(workspace, features),
        run_files.NOVELTY_FILE: novelty,
        run_files.DISTANCES_FILE: measure_distances(workspace, features, trained, novelty),
        run_files.SHORTCUTS_FILE: measure_shortcuts(workspace, config.runner.count_threads()),
        run_files.TRAINING_SIZES_FILE: measure_training_sizes(workspace, features, config.seed),
    }
    run_folder = publish_run(
        workspace, config, weights, features, trained, images.ingested, images.grouped, images.split, tables
    )
    if config.tracking.mlflow_uri:
        track_run(run_folder, config.tracking)
    return run_folder


def cross_validate(config: TrainingConfig, workspace: Workspace, features: FeatureSet) -> Path | None:
    """Score each training image by a head that was trained without its fold, one task run for each fold."""
    plan = plan_folds(workspace, features, config.model.head_design, config.training, config.evaluation)
    if plan is None:
        return None
    validated = wait_for_all(
        cross_validate_fold,
        cross_validate_fold.map(plan.folds, unmapped(plan), unmapped(workspace)),
        "folds",
        [1] * len(plan.folds),
    )
    return join_folds(plan, wait_for=validated)
