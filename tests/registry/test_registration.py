"""Registering: whole, once, hashed; and the commands."""

import json
import subprocess
import sys

import pytest

from hip_mri.errors import ReleaseError, WorkspaceError
from hip_mri.registry.champion import promote
from hip_mri.registry.registration import register_version
from hip_mri.registry.versions import check_version, list_versions, read_version
from hip_mri.storage import digest_file
from tests.small_runs import TEST_SET


def test_a_version_holds_what_its_run_left(workspace, write_run):
    run = write_run(further={"novelty.npz": b"novelty"})
    version = register_version(workspace, run)
    assert version.folder == workspace.versions_folder / "0001"
    assert (version.number, version.name, version.run, version.parent) == (1, "0001", "0001", None)
    names = {"model.keras", "metrics.json", "predictions.csv", "manifest.csv", "config.yaml", "novelty.npz"}
    assert {file.name for file in version.folder.iterdir()} == names | {"version.json"}
    assert version.files == {name: digest_file(run / name) for name in names}
    assert version.model_sha256 == digest_file(version.model_file)
    assert version.read_metrics()["test"]["auc"] == 0.875
    check_version(version)


def test_the_record_names_hashes_of_model_data_and_settings(workspace, write_run):
    version = register_version(workspace, write_run())
    record = json.loads((version.folder / "version.json").read_text())
    assert record["version"] == "0001"
    assert record["data_sha256"] == version.data_sha256 == digest_file(version.folder / "manifest.csv")
    assert record["config_sha256"] == version.config_sha256 == digest_file(version.folder / "config.yaml")
    assert record["test_set_sha256"] == version.test_set_sha256 == TEST_SET


def test_a_version_outlives_its_run(workspace, write_run):
    run = write_run()
    version = register_version(workspace, run)
    for file in sorted(run.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
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
    ("name", "change", "told"),
    [
        ("model.keras", "change", "model.keras was changed"),
        ("figures/roc.png", "change", "figures/roc.png was changed"),
        ("predictions.csv", "remove", "predictions.csv is missing"),
        ("stranger.txt", "change", "stranger.txt does not belong to the run"),
    ],
)
def test_a_run_that_was_changed_is_refused(workspace, write_run, name, change, told):
    run = write_run()
    (run / name).unlink() if change == "remove" else (run / name).write_text("other")
    with pytest.raises(ReleaseError, match=f"is not as its run left it: {told}"):
        register_version(workspace, run)
    assert list_versions(workspace) == []


def test_what_is_no_finished_run_is_refused(workspace, write_run, tmp_path):
    with pytest.raises(ReleaseError, match=r"is no finished run: it has no files.json. Give a folder below runs."):
        register_version(workspace, tmp_path)
    run = write_run()
    (run / "files.json").write_text("{}")
    for file in [file for file in run.rglob("*") if file.is_file() and file.name != "files.json"]:
        file.unlink()
    with pytest.raises(ReleaseError, match=r"has no model.keras, metrics.json, predictions.csv, manifest.csv, config"):
        register_version(workspace, run)
    (run / "files.json").write_text("[]")
    with pytest.raises(WorkspaceError, match=r"files.json must hold the SHA-256 of each file by its name\. Restore"):
        register_version(workspace, run)


def test_a_version_that_is_not_there_is_named_with_those_that_are(workspace, versions):
    with pytest.raises(ReleaseError, match=r"no version 0007 in .*, only 0001, 0002, 0003\. Give one of these"):
        read_version(workspace, 7)


def test_without_versions_the_message_says_so(workspace):
    assert list_versions(workspace) == []
    with pytest.raises(ReleaseError, match="only none at all"):
        read_version(workspace, 1)


@pytest.mark.parametrize("change", [{"number": 2}, {"model_sha256": "0" * 64}, {"files": {}}, {"files": None}])
def test_a_record_that_contradicts_itself_is_refused(workspace, versions, change):
    file = versions[0].folder / "version.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ReleaseError, match="contradicts itself or its folder"):
        read_version(workspace, 1)


@pytest.mark.parametrize("name", ["model.keras", "metrics.json", "config.yaml"])
def test_other_bytes_than_were_registered_are_refused(versions, name):
    (versions[0].folder / name).unlink()
    for _ in range(2):
        with pytest.raises(ReleaseError, match=f"version 0001 is not what was registered: {name} in"):
            check_version(versions[0])
        (versions[0].folder / name).write_text("other bytes")


def test_rolling_back_loads_nothing_that_takes_seconds():
    code = "import flows.cli.commands, hip_mri.registry.champion, sys; print(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not set(finished.stdout.split()) & {"numpy", "pandas", "sklearn", "keras", "tensorflow", "prefect"}
