"""Tasks from preprocessed images to a trained, scored model; see `hip_mri.models` and `hip_mri.monitoring`."""

import logging

from prefect import task
from prefect.artifacts import create_table_artifact

from hip_mri.config import HeadDesign, TrainingSettings
from hip_mri.models import cross_validation, features, network
from hip_mri.models.backbones import preparation, weights
from hip_mri.models.features import FeatureSet
from hip_mri.models.fitting import Epoch
from hip_mri.models.network import TrainedModel
from hip_mri.monitoring import label_review, leakage, neighbors, novelty, shortcuts, training_sizes
from hip_mri.workspace import Workspace
from tasks.options import CALLED, GPU_TAG, NETWORK, cache_shards
from tasks.progress import show_progress

logger = logging.getLogger("hip_mri.tasks")

resolve_weights = task(**CALLED)(weights.resolve_weights)

prepare_backbone = task(**NETWORK)(preparation.prepare_backbone)

choose_features = task(**NETWORK)(features.choose_features)

extract_features = task(
    task_run_name="extract_features {shard.name}",
    tags=[GPU_TAG],
    **cache_shards(
        lambda given: features.find_missing_rows(given["shard"], given["workspace"], given["features"]).empty
    ),
)(features.extract_features)


@task(**NETWORK)
def train_model(
    workspace: Workspace, features: FeatureSet, head: HeadDesign, settings: TrainingSettings, seed: int
) -> TrainedModel:
    """See `network.train_model`; shows each epoch as progress, in the log and in a table."""
    num_epochs = settings.epochs + settings.fine_tune.epochs
    with show_progress("train_model", "epochs") as update:

        def on_epoch(epoch: Epoch) -> None:
            update(epoch.epoch, num_epochs)
            logger.info(
                "Epoch %d of %d: loss %.4f, accuracy %.3f; validation loss %.4f, accuracy %.3f",
                *(epoch.epoch, num_epochs, epoch.loss, epoch.accuracy, epoch.val_loss, epoch.val_accuracy),
            )

        model = network.train_model(workspace, features, head, settings, seed, on_epoch)
        update(num_epochs, num_epochs)
    create_table_artifact(model.read_history(), key="epochs", description="Loss and accuracy by epoch")
    return model


plan_folds = task(**CALLED)(cross_validation.plan_folds)

cross_validate_fold = task(task_run_name="cross_validate_fold {fold.name}", **NETWORK)(
    cross_validation.cross_validate_fold
)

join_folds = task(**CALLED)(cross_validation.join_folds)

find_neighbors = task(**CALLED)(neighbors.find_neighbors)

measure_leakage = task(**CALLED)(leakage.measure_leakage)

measure_shortcuts = task(**CALLED)(shortcuts.measure_shortcuts)

measure_training_sizes = task(**CALLED)(training_sizes.measure_training_sizes)

review_labels = task(**CALLED)(label_review.review_labels)

fit_novelty = task(**CALLED)(novelty.fit_novelty)

measure_distances = task(**CALLED)(novelty.measure_distances)
