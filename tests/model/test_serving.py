"""A saved network in parts: the same scores, only from the recorded bytes."""

import keras
import numpy as np
import pytest

from hip_mri.config import TrainingSettings
from hip_mri.errors import WeightsError
from hip_mri.model import serving
from hip_mri.model.engines import EngineChoice
from hip_mri.model.network import predict, train_model
from hip_mri.model.serving import SavedNetwork, choose_serving_engine, split_network
from hip_mri.storage import digest_file

CHOICE = EngineChoice("keras", "float32", "test")


@pytest.fixture
def network(trained_workspace) -> SavedNetwork:
    workspace, features = trained_workspace
    trained = train_model(workspace, features, 8, TrainingSettings(epochs=2), seed=1)
    file = trained.model_file
    return SavedNetwork(file, digest_file(file), features.backbone.name, features.preprocessing)


def test_the_parts_compute_what_the_whole_computes(network, workspace):
    parts = split_network(network, CHOICE, workspace)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1)).astype(np.float32)
    rows = serving.build_backbone(network.backbone, 32, standardized=parts.features.backbone.standardized)
    rows.load_weights(parts.features.backbone.weights_file)
    features = np.asarray(rows.predict_on_batch(images))
    scores = np.concatenate([scored for _, scored in parts.score(features)])
    whole = keras.models.load_model(network.file, compile=False)
    np.testing.assert_allclose(scores, predict(whole, images), atol=1e-4)


def test_it_is_split_once_and_a_changed_part_is_made_anew(network, workspace):
    parts = split_network(network, CHOICE, workspace)
    written = parts.head_file.stat().st_mtime_ns
    assert split_network(network, CHOICE, workspace) == parts
    assert parts.head_file.stat().st_mtime_ns == written
    recorded = digest_file(parts.features.backbone.weights_file)
    parts.features.backbone.weights_file.write_bytes(b"other weights")
    split_network(network, CHOICE, workspace)
    assert digest_file(parts.features.backbone.weights_file) == recorded


def test_fault_66_other_bytes_are_never_loaded(network, workspace, tmp_path, monkeypatch):
    other = tmp_path / "model.keras"
    other.write_bytes(network.file.read_bytes() + b"!")
    monkeypatch.setattr(serving, "load_network", lambda *_, **__: pytest.fail("it was loaded"))
    for file in (other, tmp_path / "none.keras"):
        with pytest.raises(WeightsError, match=r"was recorded\. It is not loaded\. Restore it from a backup"):
            split_network(
                SavedNetwork(file, network.sha256, network.backbone, network.preprocessing), CHOICE, workspace
            )


def test_what_is_no_network_is_told(workspace, tmp_path, network):
    file = tmp_path / "model.keras"
    file.write_bytes(b"no network")
    with pytest.raises(WeightsError, match=r"cannot be loaded .* Give the model of a finished run"):
        split_network(SavedNetwork(file, digest_file(file), "ResNet50", network.preprocessing), CHOICE, workspace)


@pytest.mark.parametrize(
    ("asked", "evaluated", "can", "engine", "precision"),
    [
        (("auto", "auto"), "float32", True, "openvino", "float32"),
        (("auto", "auto"), "bfloat16", True, "openvino", "bfloat16"),
        (("auto", "auto"), "bfloat16", False, "openvino", "float32"),
        (("keras", "bfloat16"), "float32", False, "keras", "bfloat16"),
    ],
)
def test_the_precision_is_that_of_the_evaluation(monkeypatch, asked, evaluated, can, engine, precision):
    monkeypatch.setattr(serving, "sees_gpu", lambda: False)
    monkeypatch.setattr(serving, "computes_bfloat16", lambda _: can)
    choice = choose_serving_engine(*asked, evaluated)
    assert (choice.engine, choice.precision) == (engine, precision)
    assert choice.reason


def test_a_gpu_is_used_where_there_is_one(monkeypatch):
    monkeypatch.setattr(serving, "sees_gpu", lambda: True)
    assert choose_serving_engine("auto", "auto", "float32").engine == "keras"
