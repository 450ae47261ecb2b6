"""Training on features is equivalent to training the whole network: same losses, epoch by epoch."""

import numpy as np
import pytest

from hip_mri.config import HeadDesign, TrainingSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.preprocessing import read_images
from hip_mri.dataset.shards import plan_shards
from hip_mri.models.backbones.backbone import Backbone, load_backbone
from hip_mri.models.backbones.engine_choice import EngineChoice
from hip_mri.models.features import FeatureSet, extract_features
from hip_mri.models.fitting import draw_epoch, fit
from hip_mri.models.heads.head import build_head, join_network
from hip_mri.models.network import select_features
from hip_mri.workspace import Workspace
from tests.small_models import SMALL

SETTINGS = TrainingSettings(epochs=4, batch_size=8, learning_rate=1e-4)
SEED = 11


@pytest.fixture(scope="module")
def expected(prepared: Workspace, backbone: Backbone) -> tuple[list[float], list[float]]:
    """Losses of training and validation in each epoch of the whole network."""
    return _fit_whole_network(prepared, backbone)


@pytest.mark.parametrize("engine", ["keras", "openvino"])
def test_losses_equal_those_of_fit_on_the_whole_network(prepared, backbone, expected, engine: str) -> None:
    features = FeatureSet(backbone, SMALL, EngineChoice(engine, "float32", "test"), with_mirrored=True)
    for shard in plan_shards(prepared, shard_size=2048):
        extract_features(shard, prepared, features, num_threads=2)

    history = _fit_on_features(prepared, features)
    losses, val_losses = expected

    np.testing.assert_allclose([epoch.loss for epoch in history], losses, rtol=1e-4)
    np.testing.assert_allclose([epoch.val_loss for epoch in history], val_losses, rtol=1e-4)
    assert losses[-1] < losses[0]


def _build_head():
    import keras

    head = build_head(2048, HeadDesign("dense", 32), seed=1)
    head.compile(keras.optimizers.Adam(SETTINGS.learning_rate), "binary_crossentropy", metrics=["accuracy"])
    return head


def _fit_on_features(workspace, features):
    head = _build_head()
    training = select_features(_ready(workspace), "train", workspace, features, with_mirrored=True)
    validation = select_features(_ready(workspace), "val", workspace, features, with_mirrored=False)
    epochs = []
    fit(head, training, validation, range(SETTINGS.epochs), SETTINGS.batch_size, SEED, on_epoch=epochs.append)
    return epochs


def _fit_whole_network(workspace, backbone):
    """Keras' own `fit` on images, one epoch at a time, with the same order and the same flips."""
    import keras

    network = join_network(load_backbone(backbone), build_head(2048, HeadDesign("dense", 32), seed=1))
    network.compile(keras.optimizers.Adam(SETTINGS.learning_rate), "binary_crossentropy")
    (images, labels), validation = _read(workspace, "train"), _read(workspace, "val")
    losses, val_losses = [], []
    for epoch in range(SETTINGS.epochs):
        order, flips = draw_epoch(len(labels), SEED, epoch)
        drawn = images[order]
        drawn[flips] = drawn[flips][:, :, ::-1]
        figures = network.fit(
            drawn, labels[order], SETTINGS.batch_size, shuffle=False, validation_data=validation, verbose=0
        ).history
        losses += figures["loss"]
        val_losses += figures["val_loss"]
    return losses, val_losses


def _read(workspace, split):
    rows = _ready(workspace)
    rows = rows[rows["split"] == split]
    images = np.stack(read_images(list(rows["sha256"]), workspace, SMALL, 1))[..., None].astype(np.float32)
    return images, (rows["label"] == "osseous_lesion").to_numpy(np.float32)[:, None]


def _ready(workspace):
    return select_ready(read_manifest(workspace.manifest_file))
