"""Grad-CAM, compared with automatic differentiation and with the places of planted lesions."""

from types import SimpleNamespace
from typing import cast

import cv2
import numpy as np
import pytest

from hip_mri.config import HeadDesign, PreprocessingSettings
from hip_mri.errors import EvaluationError
from hip_mri.evaluation import explain
from hip_mri.evaluation.explain import differentiate_head, differentiate_normalizations, explain_images, pick_cases
from hip_mri.models.backbones.backbone import build_backbone, open_backbone, write_backbone
from hip_mri.models.backbones.engine_choice import EngineChoice
from hip_mri.models.features import FeatureSet
from hip_mri.models.heads.head import build_head, cut_network, join_network
from hip_mri.models.scoring import SplitNetwork

keras = pytest.importorskip("keras")


SIZE = 32
SPOT = 5
"""Radius of a planted lesion, in pixels."""


def build_network(*, standardized: bool, has_layer_norm=False, activation="sigmoid", seed: int = 0):
    """A small network of the same structure: maps, average, optional normalizations, two dense layers."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((SIZE, SIZE, 1), name="image")
    maps = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    for channels in (8, 16):
        maps = keras.layers.Conv2D(channels, 5, strides=2, padding="same", activation="relu")(maps)
    features = keras.layers.GlobalAveragePooling2D(name="avg_pool")(maps)
    if has_layer_norm:
        features = keras.layers.LayerNormalization(name="layer_norm")(features)
    if standardized:
        features = keras.layers.BatchNormalization(center=False, scale=False, name="standardize")(features)
    hidden = keras.layers.Dense(24, "relu", name="hidden")(features)
    network = keras.Model(image, keras.layers.Dense(1, activation, name="score")(hidden))
    generator = np.random.default_rng(seed)
    if has_layer_norm:
        layer = network.get_layer("layer_norm")
        layer.set_weights([generator.uniform(0.5, 2, 16), generator.normal(0, 1, 16)])
    if standardized:
        layer = network.get_layer("standardize")
        layer.moving_mean.assign(generator.normal(0.3, 0.1, 16))
        layer.moving_variance.assign(generator.uniform(0.01, 0.2, 16))
    return network


def cut(network, *, is_head: bool):
    """The layers behind the pooled features, or those before."""
    hidden = network.layers.index(network.get_layer("hidden"))
    features = network.layers[hidden - 1].output
    return keras.Model(features, network.output) if is_head else keras.Model(network.input, features)


@pytest.fixture
def explain_small(tmp_path, monkeypatch):
    """Explain a small network in place of those of the pipeline."""

    def explain_with(network, images: np.ndarray) -> np.ndarray:
        maps = keras.Model(network.input, network.get_layer("avg_pool").input)
        backbone = cut(network, is_head=False)
        engine = SimpleNamespace(
            compute=lambda batch: np.asarray(backbone(as_inputs(batch))),
            compute_maps=lambda batch: np.asarray(maps(as_inputs(batch))),
        )
        monkeypatch.setattr(explain, "open_engine", lambda *_: engine)
        monkeypatch.setattr(explain, "load_backbone", lambda _: backbone)
        monkeypatch.setattr(explain, "load_head", lambda _: cut(network, is_head=True))
        head_file = tmp_path / "head.keras"
        head_file.write_bytes(np.concatenate([values.ravel() for values in network.get_weights()]).tobytes())
        standardized = any(layer.name == "standardize" for layer in network.layers)
        backbone_record = SimpleNamespace(name="ResNet50", image_size=SIZE, standardized=standardized)
        choice = SimpleNamespace(engine="keras", precision="float32")
        features = SimpleNamespace(backbone=backbone_record, choice=choice, digest="small")
        parts = cast("SplitNetwork", SimpleNamespace(features=features, head_file=head_file))
        return explain_images(parts, images, tmp_path / "explanations")

    return explain_with


def as_inputs(images) -> np.ndarray:
    return np.stack(list(images))[..., None].astype(np.float32)


def differentiate_automatically(network, position, images):
    """Oracle: gradient of the logit by TensorFlow."""
    import tensorflow as tf

    head = keras.Model(network.layers[position].output, network.output)
    maps = keras.Model(network.input, network.layers[position].output)(images)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        score = head(maps, training=False)
        logit = tf.math.log(score / (1 - score))
    return np.asarray(maps), np.asarray(tape.gradient(logit, maps))


def draw_images(num_images: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_images, SIZE, SIZE), np.uint8)


@pytest.mark.parametrize(
    ("standardized", "has_layer_norm"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_gradient_is_that_of_automatic_differentiation(standardized, has_layer_norm):
    network = build_network(standardized=standardized, has_layer_norm=has_layer_norm)
    inputs = as_inputs(draw_images(7))
    position = [layer.name for layer in network.layers].index("avg_pool") - 1
    maps, expected = differentiate_automatically(network, position, inputs)
    features = np.asarray(cut(network, is_head=False)(inputs))
    gradients = differentiate_head(cut(network, is_head=True), features) / np.prod(maps.shape[1:3])
    hidden = network.layers.index(network.get_layer("hidden"))
    gradients = differentiate_normalizations(network.layers[position + 2 : hidden], maps.mean(axis=(1, 2)), gradients)
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(
        np.broadcast_to(gradients[:, None, None], expected.shape), expected, rtol=2e-3, atol=1e-6
    )


@pytest.fixture(scope="module")
def split_network(tmp_path_factory):
    """A network of the real architecture, and the folder with its parts as files."""
    keras.utils.set_random_seed(3)
    network = join_network(
        build_backbone("ResNet50", 64, standardized=True), build_head(2048, HeadDesign("dense", 32), seed=3)
    )
    normalization = network.get_layer("standardize")
    spread = np.random.default_rng(4).uniform(0.5, 2, normalization.moving_variance.shape)
    normalization.moving_variance.assign(spread.astype(np.float32))
    backbone, head = cut_network(network)
    folder = tmp_path_factory.mktemp("split")
    (folder / "backbone").mkdir()
    write_backbone(backbone, folder / "backbone", {"name": "ResNet50", "image_size": 64, "is_standardized": True})
    head.save(folder / "head.keras")
    return network, folder


@pytest.fixture(scope="module")
def oracle(split_network) -> tuple[np.ndarray, np.ndarray]:
    """Two images and their Grad-CAM by automatic differentiation."""
    network, _ = split_network
    images = np.random.default_rng(2).integers(0, 256, (2, 64, 64), np.uint8)
    position = [layer.name for layer in network.layers].index("conv5_block3_out")
    maps, gradients = differentiate_automatically(network, position, as_inputs(images))
    weights = gradients.mean(axis=(1, 2))
    return images, np.maximum((maps * weights[:, None, None]).sum(axis=-1), 0)


@pytest.mark.full_network
@pytest.mark.parametrize("engine", ["keras", "openvino"])
def test_heat_is_grad_cam_of_the_real_architecture(split_network, oracle, tmp_path, engine):
    _, folder = split_network
    images, raw = oracle
    features = FeatureSet(
        open_backbone(folder / "backbone"),
        PreprocessingSettings(image_size=64),
        EngineChoice(engine, "float32", "test"),
        with_mirrored=False,
    )
    heat = explain_images(SplitNetwork(features, folder / "head.keras"), images, tmp_path)
    assert raw.max(axis=(1, 2)).all()
    for found, expected in zip(heat, raw, strict=True):
        enlarged = cv2.resize(expected, (64, 64), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(found, enlarged / max(enlarged.max(), 1e-30), atol=2e-3)


def plant(generator: np.random.Generator, num_images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise, with a bright spot in every second image; images, labels and places of the spots."""
    images = generator.normal(90, 20, (num_images, SIZE, SIZE))
    places = generator.integers(SPOT, SIZE - SPOT, (num_images, 2))
    for number in range(0, num_images, 2):
        cv2.circle(images[number], tuple(places[number].tolist()), SPOT, 200.0, -1)
    return np.clip(images, 0, 255).astype(np.uint8), (np.arange(num_images) % 2 == 0).astype(int), places


def test_heat_is_highest_at_a_planted_lesion(explain_small):
    generator = np.random.default_rng(5)
    images, labels, _ = plant(generator, 256)
    network = build_network(standardized=False)
    network.compile(keras.optimizers.Adam(3e-3), "binary_crossentropy", metrics=["accuracy"])
    network.fit(images[..., None].astype(np.float32), labels, batch_size=32, epochs=12, verbose=0)
    images, labels, places = plant(generator, 80)
    scores = np.asarray(network.predict_on_batch(images[..., None].astype(np.float32)))[:, 0]
    assert ((scores >= 0.5) == labels).mean() >= 0.95
    heat = explain_small(network, images)
    lesions = [number for number in range(80) if labels[number]]
    hottest = np.array([np.unravel_index(heat[number].argmax(), (SIZE, SIZE))[::-1] for number in lesions])
    distances = np.linalg.norm(hottest - places[lesions], axis=1)
    assert (distances <= SPOT + 2).mean() >= 0.9


def test_heat_is_scaled_by_image_and_does_not_depend_on_the_batch(explain_small):
    network = build_network(standardized=True)
    images = draw_images(19)
    heat = explain_small(network, images)
    assert heat.shape == images.shape
    assert heat.dtype == np.float32
    assert heat.min() >= 0
    assert set(np.round(heat.max(axis=(1, 2)), 6)) <= {0.0, 1.0}
    np.testing.assert_allclose(explain_small(network, images[17:]), heat[17:], atol=1e-4)
    assert explain_small(network, images[:0]).shape == (0, SIZE, SIZE)


def test_without_evidence_for_a_lesion_there_is_no_heat(explain_small):
    network = build_network(standardized=False)
    layer = network.get_layer("score")
    layer.kernel.assign(-np.abs(layer.kernel.numpy()))
    network.get_layer("hidden").kernel.assign(np.abs(network.get_layer("hidden").kernel.numpy()))
    assert not explain_small(network, draw_images(3)).any()


def test_cached_heat_is_not_computed_again(explain_small, monkeypatch):
    network, images = build_network(standardized=False), draw_images(3)
    heat = explain_small(network, images)
    monkeypatch.setattr(explain, "compute_heat_maps", lambda *_: pytest.fail("it was computed"))
    np.testing.assert_array_equal(explain_small(network, images), heat)


def test_a_damaged_file_is_computed_again(explain_small, tmp_path):
    network, images = build_network(standardized=False), draw_images(3)
    heat = explain_small(network, images)
    (file,) = (tmp_path / "explanations").glob("*.npy")
    for content in (b"", b"no array", file.read_bytes()[:200]):
        file.write_bytes(content)
        np.testing.assert_array_equal(explain_small(network, images), heat)
    np.save(file, heat[:1])
    np.testing.assert_array_equal(explain_small(network, images), heat)


@pytest.mark.parametrize("change", ["images", "head"])
def test_other_images_and_another_head_are_not_read_from_the_cache(explain_small, change):
    network, images = build_network(standardized=False), draw_images(3)
    heat = explain_small(network, images)
    if change == "head":
        network = build_network(standardized=False, seed=7)
    else:
        images = images[::-1]
    assert not np.array_equal(explain_small(network, images), heat)


def test_cases_are_the_most_confident_of_each_kind():
    labels = [1, 1, 1, 1, 0, 0, 0, 1, 0]
    scores = [0.9, 0.7, 0.9, 0.8, 0.1, 0.3, 0.6, 0.2, 0.5]
    assert pick_cases(labels, scores, 0.5, max_cases=3) == [
        (0, "true positive"),
        (2, "true positive"),
        (3, "true positive"),
        (4, "true negative"),
        (5, "true negative"),
        (6, "false positive"),
        (8, "false positive"),
        (7, "false negative"),
    ]
    groups = ["a", "b", "a", "b", "c", "c", "c", "d", "e"]
    assert pick_cases(labels, scores, 0.5, groups, max_cases=2) == [
        (0, "true positive"),
        (3, "true positive"),
        (4, "true negative"),
        (6, "false positive"),
        (8, "false positive"),
        (7, "false negative"),
    ]
    assert pick_cases([0, 1], [0.1, 0.9], 0.5) == [(1, "true positive"), (0, "true negative")]


def test_unsupported_images_and_layers_are_rejected(explain_small):
    with pytest.raises(EvaluationError, match=r"\(n, 32, 32\) .*uint8 .*\(1, 9,"):
        explain_small(build_network(standardized=False), np.zeros((1, 9, 32), np.uint8))
    with pytest.raises(EvaluationError, match=r"layer score \(Dense\)"):
        explain_small(build_network(standardized=False, activation="softplus"), draw_images(1))
    flat = keras.Input((4, 4))
    head = keras.Model(flat, keras.layers.Dense(1)(keras.layers.Flatten()(flat)))
    with pytest.raises(EvaluationError, match=r"layer flatten.* \(Flatten\)"):
        differentiate_head(head, np.zeros((1, 4, 4), np.float32))
