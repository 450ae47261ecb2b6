"""Export of a version; the round trip is skipped where MLflow is not installed."""

import importlib
import json
import sys
import traceback
from types import SimpleNamespace

import pytest
import yaml

from hip_mri.errors import ReleaseError
from hip_mri.hashes import hash_files
from hip_mri.registry.mlflow_export import export_version, read_measures, read_parameters
from hip_mri.registry.registration import register_version
from hip_mri.storage import write_json

SETTINGS = {"source": "/home/smith/Smith.zip", "seed": 7, "model": {"backbone": "ResNet50", "weights": "imagenet"}}
METRICS = {
    "threshold": 0.25,
    "test": {"auc": 0.875, "brier": None, "num_images": 46, "at_threshold": {"sensitivity": 0.9}},
    "test_set": {"sha256": "ab" * 32},
}


@pytest.fixture
def version(workspace, write_run):
    run = write_run()
    (run / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    write_json(run / "metrics.json", METRICS)
    write_json(run / "files.json", hash_files(run))
    return register_version(workspace, run)


def test_parameters_name_no_person_and_no_place(version):
    parameters = read_parameters(version)
    assert parameters["model.backbone"] == "ResNet50"
    assert parameters["seed"] == "7"
    assert "mith" not in json.dumps(parameters)


def test_measures_are_those_that_could_be_measured(version):
    assert read_measures(version) == {
        "threshold": 0.25,
        "test_auc": 0.875,
        "test_num_images": 46,
        "test_sensitivity": 0.9,
    }


def test_without_mlflow_the_message_says_how_to_get_it(version, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(ReleaseError, match=r"pip install 'hip-mri\[mlflow\]'"):
        export_version(version, "sqlite:///never.db")


@pytest.mark.parametrize("is_reached", [True, False])
def test_a_login_in_the_address_is_not_repeated(version, monkeypatch, is_reached):
    class Failure(Exception):  # noqa: N818 - a stand-in
        pass

    def connect(tracking_uri: str) -> SimpleNamespace:
        def refuse(question: str) -> None:
            raise Failure(f"no answer from {tracking_uri}")

        if not is_reached:
            refuse("")
        return SimpleNamespace(search_model_versions=refuse)

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mlflow.tracking", SimpleNamespace(MlflowClient=connect))
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", SimpleNamespace(MlflowException=Failure))
    with pytest.raises(ReleaseError, match=r"https://mlflow\.org/ .*no answer") as caught:
        export_version(version, "https://anna:an@secret@mlflow.org/")
    assert "secret" not in "".join(traceback.format_exception(caught.value)).replace('anna:an@secret@mlflow.org/")', "")


def test_a_changed_version_is_not_exported(version):
    version.model_file.unlink()
    with pytest.raises(ReleaseError, match=r"version 0001 .*: model\.keras"):
        export_version(version, "sqlite:///never.db")


@pytest.mark.filterwarnings("default")  # MLflow's own
def test_a_version_is_logged_and_registered_once(version, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", exc_type=ImportError)
    pytest.importorskip("sqlalchemy", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)  # MLflow keeps artifacts in the folder that it is called in
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(2):
        assert export_version(version, address) == "1"
    client = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=address)
    (registered,) = client.search_model_versions("name='hip-mri'")
    run = client.get_run(registered.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test_auc"] == 0.875
    assert run.data.params["model.backbone"] == "ResNet50"
    assert registered.tags["hip_mri.model_sha256"] == version.model_sha256
    assert {file.path for file in client.list_artifacts(registered.run_id)} == {
        "model.keras", "metrics.json", "version.json"
    }  # fmt: skip
