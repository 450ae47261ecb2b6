"""Fine-tuning: which layers it trains, and that it can be interrupted between epochs."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hip_mri.config import FineTuneSettings, HeadDesign, TrainingSettings
from hip_mri.dataset.shards import plan_shards
from hip_mri.errors import TrainingError
from hip_mri.models import fitting
from hip_mri.models.backbones.backbone import Backbone, build_backbone, load_backbone
from hip_mri.models.backbones.engine_choice import EngineChoice
from hip_mri.models.features import FeatureSet, extract_features
from hip_mri.models.fine_tune import unfreeze
from hip_mri.models.network import TrainedModel, train_model
from hip_mri.workspace import Workspace
from tests.small_models import SMALL

SETTINGS = TrainingSettings(
    epochs=2, batch_size=16, fine_tune=FineTuneSettings(epochs=2, learning_rate=1e-4, batch_size=16)
)


@pytest.fixture(scope="module")
def features(prepared: Workspace, backbone: Backbone) -> FeatureSet:
    chosen = FeatureSet(backbone, SMALL, EngineChoice("openvino", "float32", "test"), with_mirrored=True)
    for shard in plan_shards(prepared, shard_size=2048):
        extract_features(shard, prepared, chosen, num_threads=1)
    return chosen


@pytest.fixture(scope="module")
def tuned(prepared: Workspace, features: FeatureSet) -> TrainedModel:
    return train_model(prepared, features, HeadDesign("dense", 8), SETTINGS, seed=1)


@pytest.mark.full_network
def test_unfreeze_leaves_lower_blocks_and_normalization_alone() -> None:
    import keras

    network = build_backbone("ResNet50", 32)
    unfreeze(network, "conv5")
    trainable = [layer for layer in network.layers if layer.trainable_weights]
    assert {layer.name[:5] for layer in trainable} == {"conv5"}
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in trainable)


def test_fault_54_interrupted_training_ends_in_the_same_weights(prepared, features, tuned: TrainedModel) -> None:
    uninterrupted, history = tuned.predictions_file.read_bytes(), tuned.history_file.read_bytes()
    shutil.rmtree(tuned.folder)

    def interrupt(epoch) -> None:
        if epoch.epoch == 3:  # the first of fine-tuning, after its checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_model(prepared, features, HeadDesign("dense", 8), SETTINGS, seed=1, on_epoch=interrupt)
    assert not tuned.folder.exists()
    reported = []
    resumed = train_model(prepared, features, HeadDesign("dense", 8), SETTINGS, seed=1, on_epoch=reported.append)

    assert [epoch.epoch for epoch in reported] == [1, 2, 4]
    assert resumed.predictions_file.read_bytes() == uninterrupted
    assert resumed.history_file.read_bytes() == history
    assert not resumed.checkpoint_folder.exists()


def test_the_best_epoch_is_kept_also_after_an_interruption(
    prepared: Workspace, features: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings(**fine_tune) -> TrainingSettings:
        tuning = FineTuneSettings(learning_rate=1e-4, batch_size=16, **fine_tune)
        return SETTINGS.model_copy(update={"fine_tune": tuning})

    process_batches = fitting._process

    def measure_losses(*losses: float) -> None:
        measured = iter(losses)

        def process(batches, step):
            is_validation = getattr(step, "__name__", "") == "test_on_batch"
            return (next(measured), 0.5) if is_validation else process_batches(batches, step)

        monkeypatch.setattr(fitting, "_process", process)

    def interrupt(epoch) -> None:
        if epoch.epoch == 5:
            raise KeyboardInterrupt

    two_epochs = train_model(prepared, features, HeadDesign("dense", 8), settings(epochs=2), seed=4)
    patient = settings(epochs=6, early_stopping_patience=2)
    measure_losses(0.9, 0.8, 0.7, 0.6, 0.65)  # two epochs of the head, then those of fine-tuning
    with pytest.raises(KeyboardInterrupt):
        train_model(prepared, features, HeadDesign("dense", 8), patient, seed=4, on_epoch=interrupt)
    measure_losses(0.9, 0.8, 0.66)
    resumed = train_model(prepared, features, HeadDesign("dense", 8), patient, seed=4)

    assert list(pd.read_csv(resumed.history_file)["val_loss"]) == [0.9, 0.8, 0.7, 0.6, 0.65, 0.66]
    assert resumed.predictions_file.read_bytes() == two_epochs.predictions_file.read_bytes()


def test_fine_tuning_changes_the_top_and_the_scores(prepared, features, tuned: TrainedModel) -> None:
    import keras

    settings = SETTINGS.model_copy(update={"fine_tune": FineTuneSettings()})
    head_only = train_model(prepared, features, HeadDesign("dense", 8), settings, seed=1)
    network, plain = keras.models.load_model(tuned.model_file), load_backbone(features.backbone)

    def moved(name: str) -> float:
        return float(np.abs(network.get_layer(name).get_weights()[0] - plain.get_layer(name).get_weights()[0]).max())

    assert moved("conv5_block1_3_conv") > 0
    assert moved("conv5_block1_3_bn") == moved("conv4_block1_3_conv") == moved("conv1_conv") == 0
    scores = [pd.read_csv(model.predictions_file)["score"] for model in (tuned, head_only)]
    assert np.abs(scores[0] - scores[1]).max() > 1e-4
    assert list(pd.read_csv(tuned.history_file)["stage"]) == ["head"] * 2 + ["fine_tune"] * 2
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}


def test_fault_67_infinite_loss_ends_training(prepared: Workspace, features: FeatureSet) -> None:
    settings = SETTINGS.model_copy(update={"learning_rate": 1.0, "epochs": 200})
    broken = replace(features, with_mirrored=False)
    models = set(prepared.models_folder.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "_process", lambda *_: (float("nan"), 0.5))
        with pytest.raises(TrainingError, match=r"loss of epoch 1 is nan"):
            train_model(prepared, broken, HeadDesign("dense", 8), settings, seed=3)
    assert models == set(prepared.models_folder.iterdir())
