"""Resolving of weights: files, downloads and errors."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import h5py
import httpx
import numpy as np
import pytest

from hip_mri.config import ARCHITECTURES, BackboneName
from hip_mri.errors import SettingsError, WeightsError
from hip_mri.hashes import digest_file
from hip_mri.models.backbones import weights
from hip_mri.models.backbones.backbone import build_backbone, load_backbone
from hip_mri.models.backbones.preparation import prepare_backbone
from hip_mri.workspace import Workspace
from tests.conftest import RESNET50_WEIGHTS
from tests.small_models import SMALL
from tests.sources.remote.web_server import serve

pytestmark = pytest.mark.full_network

needs_pretrained = pytest.mark.skipif(not RESNET50_WEIGHTS.exists(), reason="the pretrained ResNet50 file is not there")


def resolve(file: Path, backbone: BackboneName = "ResNet50") -> weights.Weights:
    return weights.resolve_weights(str(file), backbone, fall_back_to_random=False)


def fail_to_connect(*_: object, **__: object) -> None:
    raise httpx.ConnectError("no route to host")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"model.weights: .*none.h5.*ResNet101"):
        weights.resolve_weights(str(tmp_path / "none.h5"), "ResNet101", fall_back_to_random=True)


def test_an_unknown_home_folder_is_rejected() -> None:
    with pytest.raises(SettingsError, match=r"^model.weights: '~no-such-user/w.h5'"):
        weights.resolve_weights("~no-such-user/w.h5", "ResNet101", fall_back_to_random=False)


def test_file_of_another_kind_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "weights.h5"
    file.write_text("not HDF5")
    with pytest.raises(WeightsError, match=r"weights.h5 .*HDF5"):
        resolve(file)
    with pytest.raises(WeightsError, match=r"model.pkl .* .weights.h5 or .h5"):
        resolve(shutil.copy(file, tmp_path / "model.pkl"))


def test_weights_of_another_backbone_are_recognized(tmp_path: Path) -> None:
    file = tmp_path / "other.weights.h5"
    with h5py.File(file, "w") as content:
        content["layers/all"] = np.zeros(ARCHITECTURES["ResNet152"].num_parameters, np.uint8)
    with pytest.raises(WeightsError, match=r"58,370,944 .* ResNet101 .*--model.backbone ResNet152"):
        resolve(file, "ResNet101")


def test_only_the_demo_falls_back_to_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "list_keras_folders", lambda: [tmp_path])
    monkeypatch.setattr("httpx.stream", fail_to_connect)
    fallen_back = weights.resolve_weights("imagenet", "ResNet101", fall_back_to_random=True)
    assert fallen_back.name == "random"
    assert fallen_back.notice.startswith("RANDOM WEIGHTS: ")
    with pytest.raises(
        WeightsError, match=r"ImageNet weights of ResNet101 .*no route to host.*resnet101_weights.*--model.weights"
    ):
        weights.resolve_weights("imagenet", "ResNet101", fall_back_to_random=False)


def send_weights(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"the weights")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server in place of that of the ImageNet weights, for an empty folder of Keras."""
    with serve(send_weights) as port:
        monkeypatch.setattr(weights, "KERAS_ADDRESS", f"http://127.0.0.1:{port}/")
        monkeypatch.setattr(weights, "list_keras_folders", lambda: [tmp_path])
        yield


def test_imagenet_weights_are_downloaded_once_and_checked(server, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(WeightsError, match=r"hash .*4d473c1dd8becc155b73f8504c6f6626"):
        weights.resolve_weights("imagenet", "ResNet50", fall_back_to_random=False)
    assert not list(tmp_path.rglob("*.h5"))
    md5 = hashlib.md5(b"the weights", usedforsecurity=False).hexdigest()
    monkeypatch.setitem(ARCHITECTURES, "ResNet50", replace(ARCHITECTURES["ResNet50"], imagenet_hash=md5))
    found = weights.resolve_weights("imagenet", "ResNet50", fall_back_to_random=False)
    assert found.file is not None
    assert found.is_published
    assert (found.file.parent, found.file.read_bytes()) == (tmp_path / "models", b"the weights")
    monkeypatch.setattr("httpx.stream", lambda *_, **__: pytest.fail("it was downloaded again"))
    assert weights.resolve_weights("imagenet", "ResNet50", fall_back_to_random=False) == found


@needs_pretrained
def test_pretrained_features_are_those_of_plain_keras(prepared: Workspace) -> None:
    """Oracle: gray repeated to three channels, with preprocessing, ResNet50 and pooling of Keras."""
    import keras

    resolved = resolve(RESNET50_WEIGHTS)
    assert resolved.name == digest_file(RESNET50_WEIGHTS)
    backbone = prepare_backbone(resolved, prepared, SMALL, seed=0)
    assert (backbone.scaling, backbone.notice) == ("caffe", "")
    gray = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1)).astype(np.float32)

    plain = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg")
    plain.load_weights(RESNET50_WEIGHTS)
    expected = plain.predict(keras.applications.resnet.preprocess_input(np.repeat(gray, 3, axis=-1)), verbose=0)

    np.testing.assert_allclose(load_backbone(backbone).predict(gray, verbose=0), expected, rtol=1e-4, atol=1e-5)


@needs_pretrained
def test_older_file_format_gives_the_same_weights(tmp_path: Path) -> None:
    import keras

    plain = keras.applications.ResNet50(include_top=False, weights=None, pooling="avg")
    plain.load_weights(RESNET50_WEIGHTS)
    older = tmp_path / "resnet50_notop.h5"
    with h5py.File(older, "w") as content:
        from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

        save_weights_to_hdf5_group(content, plain)
    resolve(older)
    network = build_backbone("ResNet50", 32)
    network.load_weights(str(older))
    for found, expected in zip(network.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def write_random_weights(file: Path) -> Path:
    build_backbone("ResNet50", 32).save_weights(file)
    return file


def test_fault_66_weights_that_change_during_a_run_are_rejected(workspace: Workspace, tmp_path: Path) -> None:
    resolved = resolve(write_random_weights(tmp_path / "x.weights.h5"))
    write_random_weights(tmp_path / "x.weights.h5")  # other random weights
    with pytest.raises(WeightsError, match=r"SHA-256 of .*x.weights.h5"):
        prepare_backbone(resolved, workspace, SMALL, seed=0)
    assert not list(workspace.backbones_folder.glob("*"))


def test_fault_66_a_changed_backbone_is_rejected_and_written_again(workspace: Workspace, tmp_path: Path) -> None:
    resolved = resolve(write_random_weights(tmp_path / "x.weights.h5"))
    resolved = replace(resolved, is_published=True)  # whose scaling needs no images
    backbone = prepare_backbone(resolved, workspace, SMALL, seed=0)
    recorded = digest_file(backbone.weights_file)
    write_random_weights(backbone.weights_file)
    with pytest.raises(WeightsError, match=r"model.weights: .*backbone.weights.h5"):
        load_backbone(backbone)
    assert prepare_backbone(resolved, workspace, SMALL, seed=0) == backbone
    assert digest_file(backbone.weights_file) == recorded
