"""A run is registered completely, once, with the hashes of its files."""

import json
import shutil

import pytest

from hip_mri.errors import ReleaseError, WorkspaceError
from hip_mri.hashes import digest_file
from hip_mri.registry.champion import promote
from hip_mri.registry.registration import register_version
from hip_mri.registry.versions import check_version, list_versions, read_version
from tests.processes import run_python
from tests.small_runs import TEST_SET


def test_a_version_has_the_files_of_its_run_and_their_hashes(workspace, write_run):
    run = write_run(further={"novelty.npz": b"novelty"})
    version = register_version(workspace, run)
    assert version.folder == workspace.versions_folder / "0001"
    assert (version.number, version.name, version.run, version.parent) == (1, "0001", "0001", None)
    names = {"model.keras", "metrics.json", "predictions.csv", "manifest.csv", "config.yaml", "novelty.npz"}
    assert {file.name for file in version.folder.iterdir()} == names | {"version.json"}
    assert version.files == {name: digest_file(run / name) for name in names}
    assert version.model_sha256 == digest_file(version.model_file)
    assert version.read_metrics()["test"]["auc"] == 0.875
    record = json.loads((version.folder / "version.json").read_text())
    assert record["version"] == "0001"
    assert record["data_sha256"] == version.data_sha256 == digest_file(version.folder / "manifest.csv")
    assert record["config_sha256"] == version.config_sha256 == digest_file(version.folder / "config.yaml")
    assert record["test_set_sha256"] == version.test_set_sha256 == TEST_SET
    shutil.rmtree(run)
    check_version(version)


def test_the_same_run_gives_the_same_version(workspace, write_run):
    first, second = write_run(), write_run()
    one = register_version(workspace, first)
    two = register_version(workspace, second)
    assert [register_version(workspace, run) for run in (first, second)] == [one, two]
    assert [version.number for version in list_versions(workspace)] == [1, 2]


def test_another_run_is_another_version_even_with_the_same_bytes(workspace, write_run):
    one, two = (register_version(workspace, write_run("equal")) for _ in range(2))
    assert one.files == two.files
    assert (one.number, two.number) == (1, 2)


def test_numbers_follow_the_order_of_registration_not_the_clock(workspace, versions, write_run, monkeypatch):
    (workspace.versions_folder / "0003" / "version.json").touch()
    (workspace.versions_folder / "notes").mkdir()
    assert register_version(workspace, write_run()).number == 4
    assert [version.number for version in list_versions(workspace)] == [1, 2, 3, 4]


def test_the_parent_is_the_champion_of_the_time(workspace, versions, write_run):
    promote(workspace, versions[1], "better")
    version = register_version(workspace, write_run())
    assert version.parent == 2
    assert read_version(workspace, 4) == version


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.keras", "change", r"model\.keras .*changed"),
        ("figures/roc.png", "change", r"figures/roc\.png .*changed"),
        ("predictions.csv", "remove", r"predictions\.csv .*missing"),
        ("notes.txt", "change", r"notes\.txt"),
    ],
)
def test_a_run_that_was_changed_is_refused(workspace, write_run, name, change, message):
    run = write_run()
    (run / name).unlink() if change == "remove" else (run / name).write_text("other")
    with pytest.raises(ReleaseError, match=rf"runs/0001 .*{message}"):
        register_version(workspace, run)
    assert list_versions(workspace) == []


def test_what_is_no_finished_run_is_refused(workspace, write_run, tmp_path):
    with pytest.raises(ReleaseError, match=r"no files\.json"):
        register_version(workspace, tmp_path)
    run = write_run()
    (run / "files.json").write_text("{}")
    for file in [file for file in run.rglob("*") if file.is_file() and file.name != "files.json"]:
        file.unlink()
    with pytest.raises(ReleaseError, match=r"model\.keras, metrics\.json, predictions\.csv, manifest\.csv, config"):
        register_version(workspace, run)
    (run / "files.json").write_text("[]")
    with pytest.raises(WorkspaceError, match=r"files\.json .*SHA-256"):
        register_version(workspace, run)


def test_a_version_that_does_not_exist_is_refused_with_those_that_do(workspace, write_run):
    assert list_versions(workspace) == []
    with pytest.raises(ReleaseError, match=r"no version 0001 "):
        read_version(workspace, 1)
    for _ in range(3):
        register_version(workspace, write_run())
    with pytest.raises(ReleaseError, match=r"no version 0007 .* 0001, 0002, 0003\."):
        read_version(workspace, 7)


@pytest.mark.parametrize("change", [{"number": 2}, {"model_sha256": "0" * 64}, {"files": {}}, {"files": None}])
def test_a_record_that_contradicts_itself_is_refused(workspace, versions, change):
    file = versions[0].folder / "version.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ReleaseError, match="contradicts"):
        read_version(workspace, 1)


@pytest.mark.parametrize("name", ["model.keras", "metrics.json", "config.yaml"])
def test_other_bytes_than_were_registered_are_refused(versions, name):
    (versions[0].folder / name).unlink()
    for _ in range(2):
        with pytest.raises(ReleaseError, match=rf"version 0001 .*: {name} "):
            check_version(versions[0])
        (versions[0].folder / name).write_text("other bytes")


def test_rolling_back_loads_nothing_that_takes_seconds():
    code = "import hip_mri.registry.registration, sys; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = set(run_python("-c", code).stdout.split())
    assert "hip_mri" in loaded
    assert not loaded & {"numpy", "pandas", "sklearn", "keras", "tensorflow", "prefect"}
