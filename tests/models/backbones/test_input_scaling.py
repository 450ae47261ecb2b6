"""Scaling of the input: which one weights need, and what is said of a wrong one."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from hip_mri.config import ModelSettings, PipelineConfig, PreprocessingSettings
from hip_mri.hashes import digest, digest_file
from hip_mri.models.backbones import preparation
from hip_mri.models.backbones.backbone import (
    BACKBONE_RECIPE,
    build_backbone,
    load_backbone,
    load_weights_file,
    open_backbone,
)
from hip_mri.models.backbones.input_scaling import FACTORS, find_best, find_scaling, measure_misfits
from hip_mri.models.backbones.preparation import choose_scaling, prepare_backbone
from hip_mri.models.backbones.random_weights import calibrate, draw_weights
from hip_mri.models.backbones.weights import Weights
from hip_mri.workspace import Workspace
from tests.conftest import RESNET50_WEIGHTS, draw_image
from tests.small_models import SMALL

TRUE_SCALINGS = [scaling for scaling in FACTORS if scaling != "tf_128"]
"""All but the one that differs from `tf` by half a percent."""


def draw_levels(seed: int, mean: float, deviation: float, num_images: int = 16, size: int = 32) -> np.ndarray:
    """Smooth random gray images of a given brightness and contrast."""
    noise = np.random.default_rng(seed).normal(size=(num_images, size // 4, size // 4))
    smooth = noise.repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(mean + deviation * smooth, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("true", TRUE_SCALINGS)
def test_the_scaling_of_training_fits_best_on_images_of_any_brightness(true) -> None:
    trained = build_backbone("ResNet50", 32, scaling=true, standardized=True)
    draw_weights(trained, 1, "_3_bn")
    calibrate(trained, list(draw_levels(2, 117, 58)))
    network = build_backbone("ResNet50", 32, scaling="none", standardized=True)
    network.set_weights(trained.get_weights())
    for mean, deviation in ((117, 58), (60, 20), (200, 15)):
        misfits = measure_misfits(network, list(draw_levels(3, mean, deviation)))
        assert set(misfits) == set(FACTORS)
        assert find_best(misfits, "caffe" if true != "caffe" else "torch") == true


@pytest.mark.full_network
@pytest.mark.skipif(not RESNET50_WEIGHTS.exists(), reason="the pretrained ResNet50 file is not there")
def test_pretrained_weights_and_rescaled_ones_are_recognized() -> None:
    """A first kernel that is 255 times as large expects an input divided by 255, as the weights of RadImageNet do."""
    network = build_backbone("ResNet50", 32, scaling="none")
    load_weights_file(network, RESNET50_WEIGHTS)
    generator = np.random.default_rng(0)
    images = [draw_image(generator, has_lesion=bool(number % 2), size=32) for number in range(32)]
    assert find_best(measure_misfits(network, images), "torch") == "caffe"
    first = network.get_layer("conv1_conv")
    first.kernel.assign(255 * first.kernel)
    assert find_best(measure_misfits(network, images), "caffe") == "caffe_255"


def make_weights(file: Path | None = Path("given.h5"), *, is_published: bool = False) -> Weights:
    return Weights("given", "DenseNet121", file, "", is_published=is_published)


def compare_nothing() -> preparation.Misfits:
    pytest.fail("nothing is to be compared")


def test_published_and_random_weights_need_no_comparison() -> None:
    published = make_weights(is_published=True)
    for weights in (published, make_weights(None)):
        choice = choose_scaling(weights, "auto", compare_nothing)
        assert (choice.scaling, choice.notice) == ("torch", "")
    assert choose_scaling(make_weights(None), "none", compare_nothing).scaling == "none"
    wrong = choose_scaling(published, "caffe", compare_nothing)
    assert wrong.scaling == "caffe"
    assert wrong.notice.startswith("WRONG INPUT SCALING: ")
    assert "need torch" in wrong.notice


MISFITS: preparation.Misfits = {"caffe": 40, "caffe_255": 0.1, "tf": 0.5, "tf_128": 0.5, "torch": 2, "none": 50}


def test_a_given_scaling_that_fits_far_worse_is_kept_with_a_notice() -> None:
    assert choose_scaling(make_weights(), "auto", lambda: MISFITS).scaling == "caffe_255"
    assert not choose_scaling(make_weights(), "caffe_255", lambda: MISFITS).notice
    choice = choose_scaling(make_weights(), "tf", lambda: MISFITS)
    assert choice.scaling == "tf"
    assert "caffe_255" in choice.notice
    unfit = choose_scaling(make_weights(), "auto", lambda: dict.fromkeys(MISFITS, 9.0))
    assert unfit.scaling == "torch"
    assert "no scaling" in unfit.notice
    assert choose_scaling(make_weights(), "auto", dict) == choose_scaling(make_weights(None), "auto", dict)


@pytest.fixture
def given(prepared: Workspace, tmp_path: Path) -> Weights:
    """A weights file whose statistics fit `tf`."""
    network = build_backbone("ResNet50", 32, scaling="tf", standardized=True)
    draw_weights(network, 1, "_3_bn")
    calibrate(network, list(draw_levels(2, 117, 58)))
    plain = build_backbone("ResNet50", 32)
    plain.set_weights(network.get_weights()[:-2])
    plain.save_weights(tmp_path / "given.weights.h5")
    sha256 = digest_file(tmp_path / "given.weights.h5")
    return Weights(sha256, "ResNet50", tmp_path / "given.weights.h5", sha256)


def test_scalings_are_compared_once_and_are_part_of_the_digest(given, prepared: Workspace, monkeypatch) -> None:
    chosen = prepare_backbone(given, prepared, SMALL, seed=0)
    monkeypatch.setattr(preparation, "measure_misfits", lambda *_: pytest.fail("compared again"))
    assert chosen.scaling == "tf"
    assert prepare_backbone(given, prepared, SMALL, seed=0) == chosen
    wrong = prepare_backbone(given, prepared, SMALL, seed=0, scaling="caffe")
    assert (chosen.notice, wrong.notice[:19]) == ("", "WRONG INPUT SCALING")
    assert chosen.digest != wrong.digest
    assert find_scaling(layer.name for layer in load_backbone(chosen).layers) == "tf"


def test_backbones_of_earlier_versions_keep_their_folder_and_digest(given, prepared: Workspace) -> None:
    backbone = prepare_backbone(given, prepared, SMALL, seed=0, scaling="caffe")
    origin = {"recipe": BACKBONE_RECIPE, "name": "ResNet50", "image_size": 32, "weights": given.sha256}
    assert backbone.folder.name == digest(origin)[:16]
    assert json.loads((backbone.folder / "identity.json").read_text()) == origin | {"is_standardized": False}
    sha256 = digest_file(backbone.weights_file)
    assert open_backbone(backbone.folder).digest == digest([BACKBONE_RECIPE, "ResNet50", 32, False, sha256])


def test_networks_without_batch_normalization_are_not_compared() -> None:
    import keras

    network = keras.Sequential([keras.Input((32, 32, 1)), keras.layers.Flatten(), keras.layers.LayerNormalization()])
    assert measure_misfits(network, list(draw_levels(0, 117, 58))) == {}


def test_image_size_must_suit_the_network() -> None:
    model = ModelSettings(backbone="InceptionV3")
    with pytest.raises(ValidationError, match=r"image_size is 64.*InceptionV3.*75"):
        PipelineConfig(model=model, preprocessing=PreprocessingSettings(image_size=64))
    PipelineConfig(model=model, preprocessing=PreprocessingSettings(image_size=75))
