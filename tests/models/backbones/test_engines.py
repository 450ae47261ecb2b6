"""Agreement of engines, and the choice of engine and precision."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hip_mri.dataset.preprocessing import read_sample
from hip_mri.errors import SettingsError
from hip_mri.hashes import record_hashes
from hip_mri.models.backbones import engine_choice, engines, export
from hip_mri.models.backbones.backbone import Backbone, load_backbone, load_own_backbone, open_backbone
from hip_mri.models.backbones.engine_choice import choose_engine, measure_deviation, resolve_engine
from hip_mri.models.backbones.random_weights import STANDARDIZE
from hip_mri.models.features import FeatureSet
from hip_mri.workspace import Workspace
from tests.small_models import SMALL


@pytest.fixture(scope="module")
def images(prepared: Workspace) -> list[np.ndarray]:
    return read_sample(prepared, SMALL, 20, num_threads=1)[1]


@pytest.fixture
def choices(prepared: Workspace, backbone: Backbone, monkeypatch: pytest.MonkeyPatch):
    """Choose without a record, for given hardware and given deviations by JPEG and by bfloat16."""

    def choose(
        *, has_bfloat16: bool, deviation: float, by_jpeg: float = 0.04, engine="openvino", precision="auto"
    ) -> engine_choice.EngineChoice:
        deviations = iter([by_jpeg, deviation])
        monkeypatch.setattr(engine_choice, "computes_bfloat16", lambda _: has_bfloat16)
        monkeypatch.setattr(engine_choice, "measure_deviation", lambda *_: next(deviations))
        for record in backbone.folder.parent.glob("*-engine/*.json"):
            record.unlink()
        return choose_engine(backbone, engine, precision, 1000, prepared, SMALL, num_threads=1)

    return choose


@pytest.mark.parametrize("engine", ["keras", "openvino"])
def test_features_do_not_depend_on_other_images(backbone: Backbone, images: list[np.ndarray], engine: str) -> None:
    computer = engines.open_engine(backbone, engine, "float32")
    together = computer.compute(images)
    np.testing.assert_array_equal(computer.compute(images[::-1])[::-1], together)
    np.testing.assert_array_equal(computer.compute(images[7:8]), together[7:8])


def test_engines_agree(backbone: Backbone, images: list[np.ndarray]) -> None:
    reference = engines.open_engine(backbone, "keras", "float32").compute(images)
    other = engines.open_engine(backbone, "openvino", "float32").compute(images)
    assert measure_deviation(reference, other) < 1e-3  # 1e-6 with pretrained weights on 224 pixels


def test_bfloat16_is_used_when_it_moves_features_half_as_far_as_jpeg(choices) -> None:
    chosen = choices(has_bfloat16=True, deviation=0.02)
    assert (chosen.engine, chosen.precision) == ("openvino", "bfloat16")
    assert (chosen.deviation, chosen.jpeg_deviation) == (0.02, 0.04)
    assert "2.00%" in chosen.reason
    assert "4.00%" in chosen.reason


def test_float32_is_used_when_bfloat16_moves_them_further(choices) -> None:
    chosen = choices(has_bfloat16=True, deviation=0.021)
    assert (chosen.precision, chosen.deviation) == ("float32", 0.021)
    assert "2.10%" in chosen.reason
    assert "4.00%" in chosen.reason


def test_float32_is_used_without_hardware(choices) -> None:
    chosen = choices(has_bfloat16=False, deviation=0.0)
    assert (chosen.precision, chosen.deviation, chosen.jpeg_deviation) == ("float32", None, None)


def test_a_given_precision_is_used(choices) -> None:
    assert choices(has_bfloat16=True, deviation=0.5, precision="bfloat16").precision == "bfloat16"


def test_choice_is_stored(choices, backbone: Backbone, prepared: Workspace) -> None:
    first = choices(has_bfloat16=True, deviation=0.0033)
    assert choose_engine(backbone, "openvino", "auto", 1000, prepared, SMALL, num_threads=1) == first


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_record_is_replaced(
    choices, backbone: Backbone, prepared: Workspace, content: str, monkeypatch
) -> None:
    first = choices(has_bfloat16=False, deviation=0.0)
    (record,) = backbone.folder.parent.glob("*-engine/*.json")
    record.write_text(content)
    assert choose_engine(backbone, "openvino", "auto", 1000, prepared, SMALL, num_threads=1) == first


@pytest.mark.parametrize(
    ("setting", "num_rows", "is_exported", "has_gpu", "expected"),
    [
        ("auto", 128, False, False, "keras"),
        ("auto", 129, False, False, "openvino"),
        ("auto", 1, True, False, "openvino"),
        ("auto", 10_000, False, True, "keras"),
        ("openvino", 1, False, True, "openvino"),
        ("keras", 10_000, True, False, "keras"),
    ],
)
def test_keras_computes_few_images_and_all_on_a_gpu(setting, num_rows, is_exported, has_gpu, expected, monkeypatch):
    monkeypatch.setattr(engine_choice, "has_gpu", lambda: has_gpu)
    assert resolve_engine(setting, num_rows, is_exported=is_exported) == expected


def test_openvino_is_not_used_if_it_cannot_read_the_network(monkeypatch) -> None:
    monkeypatch.setattr(engine_choice, "choose_backend", lambda: "jax")
    assert resolve_engine("auto", 10_000, is_exported=True) == "keras"
    assert resolve_engine("keras", 10_000) == "keras"
    with pytest.raises(SettingsError, match=r"openvino .*jax.*HIP_MRI_KERAS_BACKEND.* tensorflow or torch"):
        resolve_engine("openvino", 10_000)


@pytest.mark.parametrize("engine", ["keras", "openvino"])
def test_pooled_maps_are_the_features_before_their_normalization(backbone: Backbone, images, engine: str) -> None:
    computer = engines.open_engine(backbone, engine, "float32")
    layer = load_backbone(backbone).get_layer(STANDARDIZE)
    pooled = computer.compute_maps(images).mean(axis=(1, 2))
    mean, variance = np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)
    expected = (pooled - mean) / np.sqrt(variance + layer.epsilon)
    np.testing.assert_allclose(computer.compute(images), expected, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def original(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone and its export."""
    folder = tmp_path_factory.mktemp("exported")
    export.export_openvino(open_backbone(shutil.copytree(backbone.folder, folder / "backbone")))
    return folder


@pytest.fixture
def exported(original: Path, tmp_path: Path) -> Backbone:
    """A copy that a test may change."""
    return open_backbone(shutil.copytree(original, tmp_path / "copy") / "backbone")


def change_graph(backbone: Backbone) -> None:
    (backbone.folder.with_name("backbone-openvino") / "backbone.xml").write_text("<net/>")


def remove_record(backbone: Backbone) -> None:
    (backbone.folder.with_name("backbone-openvino") / "files.json").unlink()


def change_weights(backbone: Backbone) -> None:
    """As after damage, when a random backbone is written again with other weights."""
    load_own_backbone(backbone).save_weights(backbone.weights_file)
    with h5py.File(backbone.weights_file, "r+") as content:
        kernels = content["layers/conv2d/vars/0"]
        kernels[...] = kernels[...] * 1.01
    record_hashes(backbone.folder)


@pytest.mark.parametrize("damage", [change_graph, remove_record, change_weights])
def test_an_export_of_other_weights_is_repeated(exported: Backbone, images, damage) -> None:
    damage(exported)
    found = open_backbone(exported.folder)
    assert not export.has_export(found)
    computed = engines.open_engine(found, "openvino", "float32").compute(images[:2])
    assert export.has_export(found)
    expected = load_own_backbone(found).predict(np.stack(images[:2])[..., None].astype(np.float32), verbose=0)
    assert measure_deviation(expected, computed) < 1e-3


def test_an_undamaged_export_is_not_repeated(exported: Backbone, monkeypatch) -> None:
    monkeypatch.setattr(export, "load_backbone", lambda *_: pytest.fail("it was exported again"))
    export.export_openvino(exported)


def test_another_version_of_openvino_exports_again(exported: Backbone, monkeypatch) -> None:
    monkeypatch.setattr(export, "version", lambda _: "2099.1")
    assert not export.has_export(exported)


def test_rows_of_two_versions_of_an_engine_are_not_one_set(backbone: Backbone, monkeypatch) -> None:
    features = FeatureSet(
        backbone, SMALL, engine_choice.EngineChoice("openvino", "float32", "test"), with_mirrored=True
    )
    now = features.digest
    monkeypatch.setattr(engine_choice, "version", lambda _: "2099.1")
    assert features.digest != now


def test_openvino_sends_no_telemetry(tmp_path: Path) -> None:
    program = (
        "from hip_mri.models.backbones.engine_choice import computes_bfloat16; computes_bfloat16('openvino'); "
        "import openvino.tools.ovc.telemetry_utils as used; assert used.tm.__name__.endswith('telemetry_stub')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | {"HOME": str(tmp_path)})
    assert not list(tmp_path.iterdir())


def test_deviation_is_relative_to_the_reference() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 5.0]], np.float32)
    assert measure_deviation(reference, reference * 1.01) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize(
    ("script", "capability"),
    [
        ("#!/bin/sh\necho 9.0", 9.0),
        ("#!/bin/sh\necho 9.0; echo 7.5", 7.5),
        ("#!/bin/sh\ntrue", 0.0),
        ("#!/bin/sh\necho 'Field \"compute_cap\" is not a valid field to query.'; exit 2", 0.0),
        ("#!/bin/sh\necho 'Field \"compute_cap\" is not a valid field to query.'", 0.0),
        ("#!/bin/sh\necho '[N/A]'", 0.0),
        ("#!/bin/sh\necho 9.0; echo '[N/A]'", 0.0),
        ("#!/bin/sh\necho 9.0; exit 9", 0.0),
        ("no program", 0.0),
    ],
)
def test_a_gpu_of_unknown_capability_has_no_bfloat16(script, capability, tmp_path, monkeypatch) -> None:
    program = Path(tmp_path, "nvidia-smi")
    program.write_text(script + "\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(engine_choice, "has_gpu", lambda: True)
    assert engine_choice._gpu_compute_capability() == capability
    assert engine_choice.computes_bfloat16("keras") == (capability >= 8)


def test_a_driver_that_does_not_respond_means_no_bfloat16(monkeypatch) -> None:
    def wait(command, *, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr("shutil.which", lambda _: "nvidia-smi")
    monkeypatch.setattr("subprocess.run", wait)
    assert engine_choice._gpu_compute_capability() == 0.0


def test_without_a_driver_there_is_no_gpu(monkeypatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert engine_choice._gpu_compute_capability() == 0.0
