"""A saved network that was split gives the same scores, and is loaded only if its hash matches."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from hip_mri.config import FineTuneSettings, HeadDesign, TrainingSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.shards import plan_shards
from hip_mri.errors import WeightsError
from hip_mri.hashes import digest_file, record_hashes
from hip_mri.models.backbones import engine_choice, export
from hip_mri.models.backbones.backbone import open_backbone
from hip_mri.models.backbones.engines import open_engine
from hip_mri.models.backbones.export import export_openvino
from hip_mri.models.features import extract_features
from hip_mri.models.network import train_model
from hip_mri.models.network_inputs import Views
from hip_mri.models.predict import predict
from hip_mri.models.scoring import SplitNetwork
from hip_mri.serving import served_network as serving
from hip_mri.serving.served_network import SavedNetwork, choose_serving_engine, prepare_network
from hip_mri.storage import write_json
from hip_mri.workspace import Workspace


@pytest.fixture
def network(trained_workspace) -> SavedNetwork:
    workspace, features = trained_workspace
    trained = train_model(workspace, features, HeadDesign("dense", 8), TrainingSettings(epochs=2), seed=1)
    file = trained.model_file
    return SavedNetwork(file, digest_file(file), features.backbone.name, features.preprocessing, "float32")


def prepare(network: SavedNetwork, workspace: Workspace, engine="keras", precision="float32") -> SplitNetwork:
    return prepare_network(network, engine, precision, 5, workspace)


@pytest.fixture
def home(network, trained_workspace, tmp_path) -> Workspace:
    """A copy of the workspace where the network was trained."""
    return Workspace(shutil.copytree(trained_workspace[0].root, tmp_path / "home"))


@pytest.fixture(params=["home", "workspace"])
def place(request) -> Workspace:
    """With the files of the training, and without them."""
    return request.getfixturevalue(request.param)


def test_the_parts_compute_what_the_whole_computes(network, place):
    check_scores(prepare(network, place), network.file)


def check_scores(parts: SplitNetwork, file: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32), np.uint8)
    features = open_engine(parts.features.backbone, "keras", "float32").compute(list(images))
    scores = np.concatenate([scored for _, scored in parts.score(Views(features))])
    whole = keras.models.load_model(file, compile=False)
    np.testing.assert_allclose(scores, predict(whole, images[..., None].astype(np.float32)), atol=1e-4)


@pytest.mark.parametrize("kind", ["dense", "logistic", "knn"])
def test_every_head_scores_as_in_training_also_averaged_over_mirror_images(kind, home, workspace, trained_workspace):
    features = replace(trained_workspace[1], averages_mirrored=True)
    for shard in plan_shards(home, shard_size=2048):
        extract_features(shard, home, features, num_threads=1)
    trained = train_model(home, features, HeadDesign(kind, 8), TrainingSettings(epochs=2), seed=1)
    recorded = pd.read_csv(trained.predictions_file, dtype={"image_id": "str"}).set_index("image_id")["score"]
    file = trained.model_file
    saved = SavedNetwork(file, digest_file(file), "ResNet50", features.preprocessing, "float32", averages_mirrored=True)
    parts = prepare(saved, workspace)
    assert parts.features.averages_mirrored
    images = select_ready(read_manifest(home.manifest_file))
    views = features.open_views(home, images["sha256"])
    scores = np.concatenate([scored for _, scored in parts.score(views)])
    np.testing.assert_allclose(scores, recorded[images["image_id"]], atol=5e-6)
    plain = np.concatenate([scored for _, scored in parts.score(Views(views.plain))])
    assert np.abs(plain - scores).max() > 1e-4


def test_it_is_split_once_and_a_changed_part_is_made_anew(network, place):
    parts = prepare(network, place)
    written = parts.head_file.stat().st_mtime_ns
    assert prepare(network, place) == parts
    assert parts.head_file.stat().st_mtime_ns == written
    recorded = digest_file(parts.features.backbone.weights_file)
    parts.features.backbone.weights_file.unlink()  # may be a link
    parts.features.backbone.weights_file.write_bytes(b"other weights")
    prepare(network, place)
    assert digest_file(parts.features.backbone.weights_file) == recorded


def test_parts_of_another_model_are_made_anew(network, workspace):
    """Such as a folder that was restored under the wrong name."""
    parts = prepare(network, workspace)
    folder = parts.head_file.parent
    record = json.loads((folder / "network.json").read_text())
    write_json(folder / "network.json", record | {"model_sha256": "0" * 64})
    (folder / "files.json").unlink()
    record_hashes(folder)
    assert prepare(network, workspace) == parts
    assert json.loads((folder / "network.json").read_text()) == record


def test_files_of_the_training_are_used(network, home, trained_workspace, monkeypatch):
    features = trained_workspace[1]
    export_openvino(open_backbone(home.backbones_folder / features.backbone.folder.name))
    monkeypatch.setattr(serving, "load_network", lambda *_, **__: pytest.fail("it was split"))
    monkeypatch.setattr(export, "load_backbone", lambda *_, **__: pytest.fail("it was exported"))
    monkeypatch.setattr(engine_choice, "has_gpu", lambda: False)
    parts = prepare(network, home, engine="auto")
    assert parts.features.backbone.digest == features.backbone.digest
    assert parts.features.choice.engine == "openvino"
    open_engine(parts.features.backbone, "openvino", "float32")


def test_the_backbone_of_fine_tuning_is_used(home, trained_workspace, monkeypatch):
    features = trained_workspace[1]
    settings = TrainingSettings(epochs=1, fine_tune=FineTuneSettings(epochs=1))
    tuned = train_model(home, features, HeadDesign("dense", 8), settings, seed=2)
    assert tuned.features.backbone.digest != features.backbone.digest
    monkeypatch.setattr(serving, "load_network", lambda *_, **__: pytest.fail("it was split"))
    file = tuned.model_file
    parts = prepare(SavedNetwork(file, digest_file(file), "ResNet50", features.preprocessing, "float32"), home)
    assert parts.features.backbone.digest == tuned.features.backbone.digest
    check_scores(parts, file)


def test_files_of_another_training_are_not_used(network, home, trained_workspace):
    other = train_model(home, trained_workspace[1], HeadDesign("dense", 8), TrainingSettings(epochs=2), seed=9)
    parts = prepare(network, home)
    assert digest_file(parts.head_file) != digest_file(other.head_file)


def test_few_images_are_computed_by_keras_where_nothing_is_exported(network, workspace, monkeypatch):
    monkeypatch.setattr(engine_choice, "has_gpu", lambda: False)
    assert prepare(network, workspace, engine="auto").features.choice.engine == "keras"


def test_fault_66_other_bytes_are_never_loaded(network, workspace, tmp_path, monkeypatch):
    other = tmp_path / "model.keras"
    other.write_bytes(network.file.read_bytes() + b"!")
    monkeypatch.setattr("keras.Model.load_weights", lambda *_, **__: pytest.fail("it was loaded"))
    for file, found in ((other, digest_file(other)[:12]), (tmp_path / "none.keras", "none")):
        with pytest.raises(WeightsError, match=f" {found}, "):
            prepare(replace(network, file=file), workspace)


def test_a_file_that_is_not_a_network_is_refused(workspace, tmp_path, network):
    file = tmp_path / "model.keras"
    file.write_bytes(b"no network")
    with pytest.raises(WeightsError, match=r"model\.keras"):
        prepare(replace(network, file=file, sha256=digest_file(file)), workspace)


def test_the_number_of_images_does_not_change_the_precision(network, workspace, monkeypatch):
    monkeypatch.setattr(engine_choice, "has_gpu", lambda: False)
    monkeypatch.setattr(serving, "computes_bfloat16", lambda engine: engine == "openvino")
    evaluated = replace(network, precision="bfloat16")
    choices = [
        prepare_network(evaluated, "auto", "auto", num_images, workspace).features.choice for num_images in (1, 500)
    ]
    assert {(choice.engine, choice.precision) for choice in choices} == {("openvino", "bfloat16")}


@pytest.mark.parametrize(
    ("asked", "evaluated", "can", "precision"),
    [
        (("openvino", "auto"), "float32", True, "float32"),
        (("openvino", "auto"), "bfloat16", True, "bfloat16"),
        (("openvino", "auto"), "bfloat16", False, "float32"),
        (("keras", "bfloat16"), "float32", False, "bfloat16"),
    ],
)
def test_the_precision_is_that_of_the_evaluation(monkeypatch, asked, evaluated, can, precision):
    monkeypatch.setattr(serving, "computes_bfloat16", lambda _: can)
    choice = choose_serving_engine(*asked, evaluated)
    assert (choice.engine, choice.precision) == (asked[0], precision)
    assert choice.reason
