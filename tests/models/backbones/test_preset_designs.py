"""Designs of presets are data of bounded size; presets are named in settings. Needs no keras-hub."""

import importlib.util
from pathlib import Path

import pytest
from pydantic import ValidationError

from hip_mri.config import PRESET, PipelineConfig
from hip_mri.errors import WeightsError
from hip_mri.models.backbones import weights
from hip_mri.models.backbones.preset_design import make_design, parse_design

OPTIONS = {"num_layers": 12, "hidden_dim": 384, "num_heads": 6, "patch_size": 14, "image_shape": [518, 518, 3]}
HALF = [0.5, 0.5, 0.5]


def test_design_survives_its_name() -> None:
    design = make_design("DINOV2Backbone", {**OPTIONS, "intermediate_dim": 1536}, HALF, HALF)
    assert parse_design(design.name) == design


@pytest.mark.parametrize(
    ("kind", "options", "mean"),
    [
        ("SAMBackbone", OPTIONS, HALF),
        ("DINOV2Backbone", {**OPTIONS, "cls": "os.system"}, HALF),
        ("DINOV2Backbone", {**OPTIONS, "num_heads": {"class_name": "Lambda"}}, HALF),
        ("DINOV3Backbone", {**OPTIONS, "hidden_activation": "os.system"}, HALF),
        ("DINOV2Backbone", {**OPTIONS, "hidden_dim": 10**9}, HALF),
        ("DINOV2Backbone", {**OPTIONS, "hidden_dim": 10**5}, HALF),
        ("DINOV2Backbone", {"num_layers": 2}, HALF),
        ("DINOV2Backbone", {**OPTIONS, "patch_size": 0}, HALF),
        ("DINOV2Backbone", {**OPTIONS, "patch_size": "gelu"}, HALF),
        ("DINOV2Backbone", {**OPTIONS, "patch_size": 1, "image_shape": [4096, 4096, 3]}, HALF),
        ("DINOV2Backbone", OPTIONS, ["a", 1, 1]),
        ("DINOV2Backbone", OPTIONS, [-1, 1, 1]),
    ],
)
def test_foreign_and_huge_designs_are_refused(kind: str, options: dict, mean: list) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the messages are those of any damaged file
        make_design(kind, options, mean, HALF)


@pytest.mark.parametrize(("size", "nearest"), [(224, None), (226, 224), (10, 14)])
def test_images_are_a_multiple_of_the_patches(size: int, nearest: int | None) -> None:
    design = make_design("DINOV2Backbone", OPTIONS, HALF, HALF)
    if nearest is None:
        design.check_image_size(size)
        return
    with pytest.raises(WeightsError, match=f"image-size {nearest}"):
        design.check_image_size(size)


@pytest.mark.parametrize(
    "model",
    [
        {"backbone": PRESET},
        {"backbone": PRESET, "weights": "random"},
        {"backbone": PRESET, "weights": "dinov2_small", "input_scaling": "caffe"},
        {"backbone": "ResNet50", "weights": "dinov2_small"},
        {"backbone": PRESET, "weights": "hf://user:password@host/name"},
        {"backbone": PRESET, "weights": "https://host/name"},
    ],
)
def test_settings_that_do_not_fit_a_preset(model: dict) -> None:
    with pytest.raises(ValidationError):
        PipelineConfig.model_validate({"model": model})


@pytest.mark.parametrize("name", ["dinov2_small", "hf://microsoft/rad-dino", "folder/of/preset"])
def test_settings_of_presets(name: str) -> None:
    assert PipelineConfig.model_validate({"model": {"backbone": PRESET, "weights": name}}).model.weights == name


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "keras_hub" else find_spec(name))
    with pytest.raises(WeightsError, match=r"hip-mri\[foundation\]"):
        weights.find_weights_file(str(tmp_path), PRESET)
