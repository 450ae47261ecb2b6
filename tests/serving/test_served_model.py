"""A model is found by name, and only by a valid record of a run or a version."""

import json
import re

import pytest

from hip_mri.errors import HipMriError, ReleaseError, SettingsError
from hip_mri.hashes import digest_file
from hip_mri.serving.served_model import find_model, load_served_model

METRICS = {"threshold": 0.25, "features": {"precision": "float32"}, "notices": ["A notice."]}
CONFIG = {"model": {"backbone": "ResNet50"}, "training": {"fine_tune": {"epochs": 0}}, "preprocessing": {}}
NO_RECORDS = ["{}", "[]", "null", "3", '"text"', '{"files": []}', "{", ""]


@pytest.fixture
def version(workspace, versions):
    """A version whose files say what scoring needs; settings in JSON are YAML too."""
    folder = versions[1].folder
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "config.yaml").write_text(json.dumps(CONFIG))
    record = json.loads((folder / "version.json").read_text())
    record["files"] |= {name: digest_file(folder / name) for name in ("metrics.json", "config.yaml")}
    record["config_sha256"] = record["files"]["config.yaml"]
    (folder / "version.json").write_text(json.dumps(record))
    return folder


def test_a_version_serves_under_any_folder_name(workspace, version, tmp_path):
    copied = version.rename(tmp_path / "copied")
    model = find_model(workspace, str(copied))
    assert (model.name, model.threshold, model.notices) == ("version 0002", 0.25, ("A notice.",))
    assert model.network.file == copied.resolve() / "model.keras"
    assert "earlier version" in model.conformal.reason
    assert model.patients is None


def test_a_copy_without_its_manifest_serves_and_a_changed_manifest_is_refused(version):
    manifest_file = version / "manifest.csv"
    assert load_served_model(version).manifest_file == manifest_file
    recorded = manifest_file.read_bytes()
    manifest_file.write_bytes(recorded + b"\n")
    with pytest.raises(ReleaseError, match=r"manifest\.csv .*SHA-256"):
        load_served_model(version)
    manifest_file.unlink()
    assert load_served_model(version).manifest_file is None


def test_a_run_serves_by_its_list_of_hashes(workspace, version):
    record = json.loads((version / "version.json").read_text())
    (version / "version.json").unlink()
    (version / "files.json").write_text(json.dumps(record["files"]))
    assert load_served_model(version).name == "run 0002"


@pytest.mark.parametrize("content", NO_RECORDS)
@pytest.mark.parametrize("name", ["version.json", "files.json"])
def test_what_is_no_record_is_refused(workspace, version, name, content):
    (version / "version.json").unlink()
    (version / name).write_text(content)
    with pytest.raises(HipMriError, match=re.escape(str(version))):
        load_served_model(version)


@pytest.mark.parametrize("change", [{"number": 3}, {"number": None}, {"model_sha256": "0" * 64}, {"extra": 1}])
def test_a_record_that_contradicts_itself_is_refused(workspace, version, change):
    record = json.loads((version / "version.json").read_text()) | change
    (version / "version.json").write_text(json.dumps(record))
    with pytest.raises(ReleaseError, match=r"version\.json"):
        load_served_model(version)


def test_a_home_folder_that_does_not_exist_is_refused(workspace):
    with pytest.raises(SettingsError, match=r"^model: '~no-such-user/x'"):
        find_model(workspace, "~no-such-user/x")
