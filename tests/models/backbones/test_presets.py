"""Presets of keras-hub: small networks with random weights in place of published ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hip_mri.config import PRESET, HeadDesign, PreprocessingSettings
from hip_mri.errors import WeightsError
from hip_mri.evaluation.explain import explain_images
from hip_mri.models.backbones.backbone import Backbone, load_own_backbone
from hip_mri.models.backbones.engine_choice import EngineChoice
from hip_mri.models.backbones.engines import open_engine
from hip_mri.models.backbones.preparation import prepare_backbone
from hip_mri.models.backbones.weights import Weights, resolve_weights
from hip_mri.models.features import FeatureSet
from hip_mri.models.fine_tune import unfreeze
from hip_mri.models.heads.head import build_head, join_network
from hip_mri.models.loading import load_network
from hip_mri.models.predict import predict
from hip_mri.models.scoring import SplitNetwork
from hip_mri.workspace import Workspace

SIZE = 64
SIZES = {"num_layers": 4, "hidden_dim": 16, "num_heads": 2, "patch_size": 16, "image_shape": (SIZE, SIZE, 3)}
OPTIONS = {
    "DINOV2Backbone": {"intermediate_dim": 32, "position_embedding_shape": (96, 96), "num_register_tokens": 2},
    "DINOV3Backbone": {"intermediate_dim": 32},
    "SigLIPVisionEncoder": {"intermediate_dim": 32},
    "ViTBackbone": {"mlp_dim": 32},
}
FLOAT32 = EngineChoice("keras", "float32", "test")


def save_preset(kind: str, folder: Path, **options) -> Path:
    """Save a small preset with random weights; a SigLIP with its text encoder, as published ones."""
    keras_hub = pytest.importorskip("keras_hub", reason="the extra foundation is not installed")
    import keras

    keras.utils.set_random_seed(3)
    network = getattr(keras_hub.models, kind)(**SIZES, **OPTIONS[kind], **options)
    for variable in network.variables:
        noise = np.random.default_rng(variable.shape[-1]).normal(scale=0.1, size=variable.shape)
        variable.assign(np.asarray(variable) + noise.astype(np.float32))
    if kind == "SigLIPVisionEncoder":
        sizes = {"vocabulary_size": 20, "embedding_dim": 16, "hidden_dim": 16, "num_layers": 1, "num_heads": 2}
        text = keras_hub.models.SigLIPTextEncoder(**sizes, intermediate_dim=16, max_sequence_length=4)
        network = keras_hub.models.SigLIPBackbone(network, text)
    network.save_to_preset(str(folder))
    return folder


def compute_reference(kind: str, folder: Path, images: np.ndarray) -> np.ndarray:
    """Load a preset by keras-hub itself, and average the tokens of the patches."""
    import keras
    import keras_hub

    network = keras_hub.models.Backbone.from_preset(str(folder))
    encoder = network.vision_encoder if kind == "SigLIPVisionEncoder" else network
    output = encoder.post_layer_norm.output if kind == "SigLIPVisionEncoder" else encoder.output
    network = keras.Model(encoder.inputs[0], output)
    design = {"DINO": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}.get(kind[:4], ((0.5,) * 3, (0.5,) * 3))
    colors = (np.repeat(images[..., None], 3, axis=-1) / 255 - design[0]) / design[1]
    tokens = np.asarray(network(colors.astype(np.float32)))
    return tokens[:, -((SIZE // 16) ** 2) :].mean(axis=1)


@pytest.fixture(scope="module", params=OPTIONS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_preset(kind, tmp_path_factory.mktemp("preset") / "folder")


@pytest.fixture(scope="module")
def weights(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hip_mri.models.backbones.presets.list_keras_folders", lambda: [tmp_path_factory.mktemp("keras")])
        return resolve_weights(str(folder), PRESET, fall_back_to_random=False, image_size=SIZE)


@pytest.fixture(scope="module")
def backbone(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    return prepare_backbone(weights, workspace, PreprocessingSettings(image_size=SIZE), seed=0)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE)).astype(np.uint8)


def test_features_are_those_of_keras_hub(kind: str, folder: Path, backbone: Backbone, images: np.ndarray) -> None:
    expected = compute_reference(kind, folder, images)
    assert backbone.num_features == expected.shape[1]
    assert backbone.title == kind
    for engine in ("keras", "openvino"):
        features = open_engine(backbone, engine, "float32").compute(list(images))
        np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)


def test_whole_network_is_saved_loaded_and_explained(backbone: Backbone, images: np.ndarray, tmp_path: Path) -> None:
    head = build_head(backbone.num_features, HeadDesign("dense", 8), seed=1)
    network = join_network(load_own_backbone(backbone), head)
    network.save(tmp_path / "model.keras")
    head.save(tmp_path / "head.keras")
    loaded = load_network(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(loaded, images[..., None]), predict(network, images[..., None]), atol=1e-6)
    features = FeatureSet(backbone, PreprocessingSettings(image_size=SIZE), FLOAT32, with_mirrored=False)
    heat = explain_images(SplitNetwork(features, tmp_path / "head.keras"), images, tmp_path / "cache")
    assert heat.shape == images.shape
    assert np.isfinite(heat).all()


@pytest.mark.parametrize(("stage", "fraction"), [("conv5", 0.25), ("conv2", 1.0)])
def test_fine_tuning_trains_the_last_blocks(backbone: Backbone, stage: str, fraction: float) -> None:
    network = join_network(load_own_backbone(backbone), build_head(backbone.num_features, HeadDesign("logistic"), 0))
    num_of_head = len(network.trainable_variables)
    unfreeze(network, stage)
    blocks = [
        it for it in network.get_layer("preset")._flatten_layers() if type(it).__name__[-5:] in ("Layer", "Block")
    ]
    num_per_block = len(next(it for it in blocks if it.weights).weights)
    assert len(network.trainable_variables) - num_of_head == num_per_block * round(4 * fraction)


def test_same_files_give_the_same_backbone(folder: Path, weights: Weights, backbone: Backbone, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hip_mri.models.backbones.presets.list_keras_folders", lambda: [tmp_path / "keras"])
        again = resolve_weights(
            str(shutil.copytree(folder, tmp_path / "copy")), PRESET, fall_back_to_random=False, image_size=SIZE
        )
    assert again.name == weights.name
    prepared = prepare_backbone(again, Workspace(tmp_path / "w"), PreprocessingSettings(image_size=SIZE), seed=0)
    assert prepared.digest == backbone.digest


def test_image_size_must_fit(kind: str, folder: Path) -> None:
    with pytest.raises(WeightsError, match="image_size is 72"):
        resolve_weights(str(folder), PRESET, fall_back_to_random=False, image_size=72)


def test_foreign_class_is_not_built(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "module": "os", "registered_name": "os>system"}))
    with pytest.raises(WeightsError, match="os>system"):
        resolve_weights(str(copy), PRESET, fall_back_to_random=False, image_size=SIZE)
