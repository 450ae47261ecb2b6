"""A stored model is reused unchanged, or trained again."""

import json
import logging
from pathlib import Path

import pytest

from hip_mri.config import HeadDesign, TrainingSettings
from hip_mri.dataset.manifest import read_manifest
from hip_mri.hashes import is_as_recorded, record_hashes
from hip_mri.models import network
from hip_mri.models.features import FeatureSet
from hip_mri.models.network import TrainedModel, train_model
from hip_mri.workspace import Workspace

SETTINGS = TrainingSettings(epochs=2, batch_size=16)


@pytest.fixture
def trained(trained_workspace: tuple[Workspace, FeatureSet]) -> TrainedModel:
    """Trained once; a test that changes its files trains it again."""
    return train_model(*trained_workspace, HeadDesign("dense", 8), SETTINGS, seed=6)


def forge_scores(model: TrainedModel) -> None:
    scores = model.predictions_file.read_text()
    model.predictions_file.write_text(scores.replace(",0.", ",1.", 1))


def forget_hashes(model: TrainedModel) -> None:
    """As an earlier version wrote it."""
    (model.folder / "files.json").unlink()


def record_nothing(model: TrainedModel) -> None:
    (model.folder / "files.json").write_text("{}")


@pytest.mark.parametrize(
    "damage",
    [
        forge_scores,
        forget_hashes,
        record_nothing,
        lambda model: model.model_file.write_bytes(b"no network"),
        lambda model: model.head_file.write_bytes(b"no head"),
        lambda model: model.history_file.unlink(),
    ],
    ids=["forged-scores", "no-hashes", "empty-hashes", "other-network", "other-head", "lost-history"],
)
def test_fault_66_a_changed_model_is_trained_again(trained_workspace, trained, damage, caplog):
    scores, history = trained.predictions_file.read_bytes(), trained.history_file.read_bytes()
    damage(trained)
    with caplog.at_level(logging.WARNING):
        again = train_model(*trained_workspace, HeadDesign("dense", 8), SETTINGS, seed=6)
    assert str(trained.folder) in caplog.text
    assert again == trained
    assert (again.predictions_file.read_bytes(), again.history_file.read_bytes()) == (scores, history)
    assert json.loads((again.folder / "files.json").read_text()).keys() >= {"model.keras", "predictions.csv"}
    assert is_as_recorded(again.folder, ["model.keras"])


def test_an_undamaged_model_is_reused_and_its_checkpoint_discarded(trained_workspace, trained, monkeypatch):
    """A run that is killed between the two leaves the checkpoint."""
    (trained.checkpoint_folder / "epoch-00001").mkdir(parents=True)
    monkeypatch.setattr(network, "_train", lambda *_: pytest.fail("it was trained"))
    assert train_model(*trained_workspace, HeadDesign("dense", 8), SETTINGS, seed=6) == trained
    assert not trained.checkpoint_folder.exists()


def test_later_files_in_a_folder_do_not_change_what_is_recorded(tmp_path: Path):
    (tmp_path / "weights").write_bytes(b"1")
    record_hashes(tmp_path)
    (tmp_path / "export").write_bytes(b"2")
    assert is_as_recorded(tmp_path, ["weights"])
    assert not is_as_recorded(tmp_path, ["weights", "export"])
    (tmp_path / "weights").write_bytes(b"3")
    assert not is_as_recorded(tmp_path, [])


@pytest.mark.parametrize("content", ["[]", "{", '{"weights": 1}', '{"gone": "0"}'])
def test_a_damaged_list_records_nothing(tmp_path: Path, content: str):
    (tmp_path / "weights").write_bytes(b"1")
    (tmp_path / "files.json").write_text(content)
    assert not is_as_recorded(tmp_path, [])


def test_a_model_is_not_reused_for_other_groups(trained_workspace, trained, monkeypatch):
    """The penalty of a logistic head is chosen in folds by group."""
    manifest = read_manifest(trained_workspace[0].manifest_file)
    monkeypatch.setattr(network, "read_manifest", lambda _: manifest.assign(group=manifest["image_id"]))
    monkeypatch.setattr(network, "_train", lambda *_: (_ for _ in ()).throw(RuntimeError("it was trained")))
    with pytest.raises(RuntimeError, match="it was trained"):
        train_model(*trained_workspace, HeadDesign("dense", 8), SETTINGS, seed=6)
