"""Tasks from preprocessed images to a trained, scored model."""

import logging
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from hip_mri.config import TrainingSettings
from hip_mri.models import cross_validation, features, network
from hip_mri.models.backbones import backbone, weights
from hip_mri.models.features import FeatureSet
from hip_mri.models.fitting import Epoch
from hip_mri.models.network import TrainedModel
from hip_mri.monitoring import neighbours, novelty
from hip_mri.workspace import Workspace
from tasks.progress import show_progress
from tasks.shards import shard_options
from tasks.task_runners.runner import GPU_TAG

logger = logging.getLogger("hip_mri.tasks")


def _has_features(parameters: dict[str, Any]) -> bool:
    return features.find_missing_rows(parameters["shard"], parameters["workspace"], parameters["features"]).empty


resolve_weights = task(task_run_name="settle the weights", cache_policy=NO_CACHE)(weights.resolve_weights)

prepare_backbone = task(task_run_name="prepare the backbone", tags=[GPU_TAG], cache_policy=NO_CACHE)(
    backbone.prepare_backbone
)

choose_features = task(task_run_name="choose engine and precision", tags=[GPU_TAG], cache_policy=NO_CACHE)(
    features.choose_features
)

extract_features = task(
    task_run_name="features of shard {shard.name}",
    tags=[GPU_TAG],
    **shard_options(_has_features),
)(features.extract_features)


@task(task_run_name="train", tags=[GPU_TAG], cache_policy=NO_CACHE)
def train_model(
    workspace: Workspace, features: FeatureSet, hidden_units: int, settings: TrainingSettings, seed: int
) -> TrainedModel:
    """See `hip_mri.models.network.train_model`; shows each epoch as progress, in the log and as a table."""
    num_epochs = settings.epochs + settings.fine_tune.epochs
    with show_progress("train-model", "train_model: epochs") as update:

        def on_epoch(epoch: Epoch) -> None:
            update(epoch.epoch, num_epochs)
            logger.info(
                "Epoch %d of %d: loss %.4f, accuracy %.3f; validation loss %.4f, accuracy %.3f",
                *(epoch.epoch, num_epochs, epoch.loss, epoch.accuracy, epoch.val_loss, epoch.val_accuracy),
            )

        model = network.train_model(workspace, features, hidden_units, settings, seed, on_epoch)
        update(num_epochs, num_epochs)
    create_table_artifact(model.read_history(), key="epochs", description="Loss and accuracy, epoch by epoch")
    return model


plan_folds = task(task_run_name="plan the folds", cache_policy=NO_CACHE)(cross_validation.plan_folds)

cross_validate_fold = task(task_run_name="cross-validate {fold.name}", tags=[GPU_TAG], cache_policy=NO_CACHE)(
    cross_validation.cross_validate_fold
)

join_folds = task(task_run_name="join the folds", cache_policy=NO_CACHE)(cross_validation.join_folds)

find_neighbours = task(task_run_name="look for leakage", cache_policy=NO_CACHE)(neighbours.find_neighbours)

fit_novelty = task(task_run_name="learn what is ordinary", cache_policy=NO_CACHE)(novelty.fit_novelty)
