"""Networks of the table: random weights, features, export, saving, loading, fine-tuning and Grad-CAM."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from hip_mri.config import ARCHITECTURES, HeadDesign, PreprocessingSettings
from hip_mri.evaluation.explain import explain_images
from hip_mri.models.backbones.backbone import (
    Backbone,
    add_maps,
    build_backbone,
    describe_architecture,
    load_backbone,
    load_own_backbone,
    open_backbone,
    write_backbone,
)
from hip_mri.models.backbones.engine_choice import EngineChoice, measure_deviation
from hip_mri.models.backbones.engines import open_engine
from hip_mri.models.backbones.input_scaling import find_best, measure_misfits
from hip_mri.models.backbones.random_weights import calibrate, draw_weights, list_layers
from hip_mri.models.backbones.stages import STAGES
from hip_mri.models.backbones.weights import resolve_weights
from hip_mri.models.features import FeatureSet
from hip_mri.models.fine_tune import unfreeze
from hip_mri.models.heads.head import build_head, join_network
from hip_mri.models.loading import load_network
from hip_mri.models.predict import predict
from hip_mri.models.scoring import SplitNetwork
from tests.conftest import draw_image

keras = pytest.importorskip("keras")

SYSTEM = [pytest.param(name, marks=pytest.mark.system) for name in ("DenseNet121", "EfficientNetV2B0", "InceptionV3")]


@dataclass(frozen=True)
class Built:
    """A network with random weights, calibrated on half of the images."""

    backbone: Backbone
    images: list[np.ndarray]
    labels: np.ndarray


@pytest.fixture(scope="module", params=["ConvNeXtTiny", *SYSTEM])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    name = request.param
    architecture = ARCHITECTURES[name]
    size = max(64, architecture.min_image_size)
    generator, labels = np.random.default_rng(0), np.arange(64) % 2
    images = [draw_image(generator, has_lesion=bool(label), size=size) for label in labels]
    network = build_backbone(name, size, standardized=True)
    draw_weights(network, 3, architecture.branch_end)
    calibrate(network, images[:32])
    folder = tmp_path_factory.mktemp(name)
    write_backbone(network, folder, describe_architecture(name, size, architecture.input_scaling, standardized=True))
    return Built(open_backbone(folder), images, labels)


def as_inputs(images: list[np.ndarray]) -> np.ndarray:
    return np.stack(images)[..., None].astype(np.float32)


def join(built: Built):
    backbone = load_own_backbone(built.backbone)
    return join_network(backbone, build_head(built.backbone.num_features, HeadDesign("dense", 8), seed=1))


@pytest.mark.system
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_numbers_of_parameters_and_features_are_those_of_keras(name, tmp_path: Path) -> None:
    network = build_backbone(name, ARCHITECTURES[name].min_image_size)
    assert network.count_params() == ARCHITECTURES[name].num_parameters
    assert network.output_shape[1] == ARCHITECTURES[name].num_features
    network.save_weights(tmp_path / "given.weights.h5")
    assert resolve_weights(str(tmp_path / "given.weights.h5"), name, fall_back_to_random=False).backbone == name


def test_random_features_are_finite_and_tell_classes_apart(built: Built) -> None:
    features = open_engine(built.backbone, "keras", "float32").compute(built.images)
    assert features.shape == (64, built.backbone.num_features)
    assert np.isfinite(features).all()
    model = LogisticRegression(C=0.01, max_iter=500).fit(features[:32], built.labels[:32])
    assert roc_auc_score(built.labels[32:], model.decision_function(features[32:])) > 0.8


def test_engines_agree(built: Built) -> None:
    computed = [open_engine(built.backbone, engine, "float32") for engine in ("keras", "openvino")]
    for expected, found in (
        [engine.compute(built.images[:4]) for engine in computed],
        [engine.compute_maps(built.images[:4]) for engine in computed],
    ):
        assert measure_deviation(expected, found) < 1e-3


def test_saved_network_is_loaded_with_its_scaling(built: Built, tmp_path: Path) -> None:
    network = join(built)
    network.save(tmp_path / "model.keras")
    loaded = load_network(tmp_path / "model.keras")
    inputs = as_inputs(built.images[:4])
    np.testing.assert_allclose(predict(loaded, inputs), predict(network, inputs), atol=1e-6)


def test_fine_tuning_changes_the_chosen_stages_alone(built: Built) -> None:
    network = join(built)
    counts = [len(network.trainable_variables)]
    for stage in reversed(STAGES):
        unfreeze(network, stage)
        counts.append(len(network.trainable_variables))
    assert counts == sorted(set(counts))
    for layer in network.layers[:-2]:
        layer.trainable = False
    unfreeze(network, "conv5")
    for layer in list_layers(network):
        assert not (layer.trainable and isinstance(layer, keras.layers.BatchNormalization))
    network.compile("sgd", "binary_crossentropy", run_eagerly=True)
    trainable = {id(variable) for variable in network.trainable_variables}
    before = [np.asarray(variable) for variable in network.variables]
    network.train_on_batch(as_inputs(built.images[:4]), built.labels[:4, None])
    for variable, value in zip(network.variables, before, strict=True):
        assert np.isfinite(np.asarray(variable)).all()
        assert id(variable) in trainable or np.array_equal(variable, value), variable.path
    assert any(not np.array_equal(*pair) for pair in zip(network.variables, before, strict=True))


def test_heat_is_grad_cam(built: Built, tmp_path: Path) -> None:
    """Oracle: gradient of the logit by TensorFlow."""
    import tensorflow as tf

    head = build_head(built.backbone.num_features, HeadDesign("dense", 8), seed=1)
    head.save(tmp_path / "head.keras")
    size = built.backbone.image_size
    choice = EngineChoice("keras", "float32", "test")
    features = FeatureSet(built.backbone, PreprocessingSettings(image_size=size), choice, with_mirrored=False)
    images = np.stack(built.images[:2])
    heat = explain_images(SplitNetwork(features, tmp_path / "head.keras"), images, tmp_path)

    network = join_network(load_backbone(built.backbone), head)
    maps_of = add_maps(load_backbone(built.backbone)).output[1]
    maps = keras.Model(network.input, maps_of)(as_inputs(built.images[:2]))
    with tf.GradientTape() as tape:
        tape.watch(maps)
        score = keras.Model(maps_of, network.output)(maps, training=False)
        logit = tf.math.log(score / (1 - score))
    weights = np.asarray(tape.gradient(logit, maps)).mean(axis=(1, 2))
    raw = np.maximum((np.asarray(maps) * weights[:, None, None]).sum(axis=-1), 0)
    assert raw.max() > 0
    for found, expected in zip(heat, raw, strict=True):
        enlarged = cv2.resize(expected, (size, size), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(found, enlarged / max(enlarged.max(), 1e-30), atol=5e-3)


def test_its_own_scaling_fits_best(built: Built) -> None:
    """ConvNeXt has no BatchNormalization layers, and is not checked."""
    network = build_backbone(built.backbone.name, built.backbone.image_size, scaling="none", standardized=True)
    network.set_weights(load_backbone(built.backbone).get_weights())
    misfits = measure_misfits(network, built.images[32:])
    assert bool(misfits) is not built.backbone.name.startswith("ConvNeXt")
    if misfits:
        assert find_best(misfits, "caffe") == built.backbone.scaling
