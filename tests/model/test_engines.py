"""Engines agree with each other, and precision is chosen on evidence."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from hip_mri.data.reading import read_training_sample
from hip_mri.model import engines
from hip_mri.model.backbone import Backbone
from hip_mri.workspace import Workspace
from tests.model.conftest import SMALL


@pytest.fixture(scope="module")
def images(prepared: Workspace) -> list[np.ndarray]:
    return read_training_sample(prepared, SMALL, 20, num_threads=1)[1]


@pytest.fixture
def choices(prepared: Workspace, backbone: Backbone, monkeypatch: pytest.MonkeyPatch):
    """Choose anew each time, with a given answer of the hardware and a given deviation."""

    def choose(*, has_bfloat16: bool, deviation: float, engine="openvino", precision="auto") -> engines.EngineChoice:
        monkeypatch.setattr(engines, "computes_bfloat16", lambda _: has_bfloat16)
        monkeypatch.setattr(engines, "measure_deviation", lambda *_: deviation)
        for record in backbone.folder.parent.glob("*-engine/*.json"):
            record.unlink()
        return engines.choose_engine(backbone, engine, precision, prepared, SMALL, num_threads=1)

    return choose


@pytest.mark.parametrize("engine", ["keras", "openvino"])
def test_features_do_not_depend_on_neighbours(backbone: Backbone, images: list[np.ndarray], engine: str) -> None:
    computer = engines.open_engine(backbone, engine, "float32")
    together = computer.compute(images)
    np.testing.assert_array_equal(computer.compute(images[::-1])[::-1], together)
    np.testing.assert_array_equal(computer.compute(images[7:8]), together[7:8])


def test_engines_agree(backbone: Backbone, images: list[np.ndarray]) -> None:
    reference = engines.open_engine(backbone, "keras", "float32").compute(images)
    other = engines.open_engine(backbone, "openvino", "float32").compute(images)
    assert engines.measure_deviation(reference, other) < 1e-3  # 1e-6 with pretrained weights on 224 pixels


def test_bfloat16_is_taken_when_near(choices) -> None:
    chosen = choices(has_bfloat16=True, deviation=0.0033)
    assert (chosen.engine, chosen.precision, chosen.deviation) == ("openvino", "bfloat16", 0.0033)


def test_float32_is_taken_when_bfloat16_strays(choices) -> None:
    chosen = choices(has_bfloat16=True, deviation=0.02)
    assert chosen.precision == "float32"
    assert "deviate by 2.00% from float32, more than the accepted 1%" in chosen.reason


def test_float32_is_taken_without_hardware(choices) -> None:
    chosen = choices(has_bfloat16=False, deviation=0.0)
    assert (chosen.precision, chosen.reason) == ("float32", "this processor does not compute bfloat16 in hardware")


def test_what_was_asked_for_is_done(choices) -> None:
    assert choices(has_bfloat16=True, deviation=0.5, precision="bfloat16").precision == "bfloat16"


def test_choice_is_remembered(choices, backbone: Backbone, prepared: Workspace) -> None:
    first = choices(has_bfloat16=True, deviation=0.0033)
    assert engines.choose_engine(backbone, "openvino", "auto", prepared, SMALL, num_threads=1) == first


def test_deviation_is_relative_to_the_reference() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 5.0]], np.float32)
    assert engines.measure_deviation(reference, reference * 1.01) == pytest.approx(0.01, rel=1e-4)


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
def test_a_gpu_that_does_not_say_what_it_can_has_no_bfloat16(script, capability, tmp_path, monkeypatch) -> None:
    program = Path(tmp_path, "nvidia-smi")
    program.write_text(script + "\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(engines, "sees_gpu", lambda: True)
    assert engines._gpu_compute_capability() == capability
    assert engines.computes_bfloat16("keras") == (capability >= 8)


def test_a_gpu_that_does_not_answer_has_no_bfloat16(monkeypatch) -> None:
    def wait(command, *, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr("shutil.which", lambda _: "nvidia-smi")
    monkeypatch.setattr("subprocess.run", wait)
    assert engines._gpu_compute_capability() == 0.0


def test_without_a_driver_there_is_no_gpu(monkeypatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert engines._gpu_compute_capability() == 0.0
