"""Which weights are taken, and what is said when they cannot be."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from hip_mri.errors import SettingsError, WeightsError
from hip_mri.models.backbones import weights
from hip_mri.models.backbones.backbone import build_backbone, load_backbone, prepare_backbone
from hip_mri.storage import digest_file
from hip_mri.workspace import Workspace
from tests.conftest import RESNET50_WEIGHTS
from tests.small_models import SMALL

pytestmark = pytest.mark.full_network

needs_pretrained = pytest.mark.skipif(not RESNET50_WEIGHTS.exists(), reason="the pretrained ResNet50 file is not there")


def refuse_download(*_: object, **__: object) -> str:
    raise Exception("URL fetch failure: no route to host")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"model.weights: no file at .*none.h5. Give the path of a Keras ResNet101"):
        weights.resolve_weights(str(tmp_path / "none.h5"), "ResNet101", fall_back_to_random=True)


def test_a_home_that_nobody_has_is_told() -> None:
    with pytest.raises(SettingsError, match=r"^model.weights: '~no-such-user/w.h5' is not a path .* path in full"):
        weights.resolve_weights("~no-such-user/w.h5", "ResNet101", fall_back_to_random=False)


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.h5"
    file.write_text("not HDF5")
    with pytest.raises(WeightsError, match="is not a readable HDF5 file"):
        weights.resolve_weights(str(file), "ResNet50", fall_back_to_random=False)
    with pytest.raises(WeightsError, match=r"does not end in .weights.h5 or .h5"):
        weights.resolve_weights(str(shutil.copy(file, tmp_path / "model.pkl")), "ResNet50", fall_back_to_random=False)


def test_weights_of_another_backbone_are_recognised(tmp_path: Path) -> None:
    file = tmp_path / "other.weights.h5"
    with h5py.File(file, "w") as content:
        content["layers/all"] = np.zeros(weights.NUM_PARAMETERS["ResNet152"], np.uint8)
    with pytest.raises(WeightsError, match=r"58,370,944 parameters, ResNet101 .* fits --model.backbone ResNet152"):
        weights.resolve_weights(str(file), "ResNet101", fall_back_to_random=False)


def test_demo_alone_falls_back_to_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keras.utils.get_file", refuse_download)
    fallen_back = weights.resolve_weights("imagenet", "ResNet101", fall_back_to_random=True)
    assert fallen_back.name == "random"
    assert fallen_back.notice.startswith("RANDOM WEIGHTS: ")
    with pytest.raises(WeightsError, match=r"could not be downloaded .* on another machine and give its path"):
        weights.resolve_weights("imagenet", "ResNet101", fall_back_to_random=False)


@pytest.mark.parametrize("name", ["ResNet50", "ResNet101", "ResNet152"])
def test_number_of_parameters_is_that_of_keras(name) -> None:
    assert build_backbone(name, 32).count_params() == weights.NUM_PARAMETERS[name]


@needs_pretrained
def test_pretrained_features_are_those_of_plain_keras(workspace: Workspace) -> None:
    """Gray repeated to three channels, Keras' preprocessing, its own ResNet50 and pooling: nothing of ours."""
    import keras

    settled = weights.resolve_weights(str(RESNET50_WEIGHTS), "ResNet50", fall_back_to_random=False)
    assert settled.name == digest_file(RESNET50_WEIGHTS)
    backbone = prepare_backbone(settled, workspace, SMALL, seed=0)
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
    weights.resolve_weights(str(older), "ResNet50", fall_back_to_random=False)
    network = build_backbone("ResNet50", 32)
    network.load_weights(str(older))
    for ours, theirs in zip(network.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def write_random_weights(file: Path) -> Path:
    build_backbone("ResNet50", 32).save_weights(file)
    return file


def test_fault_66_weights_that_change_after_they_were_settled_are_refused(workspace: Workspace, tmp_path: Path) -> None:
    settled = weights.resolve_weights(
        str(write_random_weights(tmp_path / "x.weights.h5")), "ResNet50", fall_back_to_random=False
    )
    write_random_weights(tmp_path / "x.weights.h5")  # other random weights
    with pytest.raises(WeightsError, match=r"the SHA-256 of .* was settled at the start of the run\. It is not loaded"):
        prepare_backbone(settled, workspace, SMALL, seed=0)
    assert not list(workspace.backbones_folder.glob("*"))


def test_fault_66_a_prepared_backbone_that_changed_is_refused_and_made_anew(
    workspace: Workspace, tmp_path: Path
) -> None:
    settled = weights.resolve_weights(
        str(write_random_weights(tmp_path / "x.weights.h5")), "ResNet50", fall_back_to_random=False
    )
    backbone = prepare_backbone(settled, workspace, SMALL, seed=0)
    recorded = digest_file(backbone.weights_file)
    write_random_weights(backbone.weights_file)
    with pytest.raises(WeightsError, match=r"is not as it was written\. It is not loaded\. Start again"):
        load_backbone(backbone)
    assert prepare_backbone(settled, workspace, SMALL, seed=0) == backbone
    assert digest_file(backbone.weights_file) == recorded
