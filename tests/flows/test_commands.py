"""The commands of `hip-mri` beside the flows: what they print, and exit codes."""

import getpass
import json
import os
import sys
import tomllib
import zipfile
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from flows.cli import commands, model_commands
from flows.cli.main import run_command
from hip_mri.dataset.manifest import read_manifest
from hip_mri.errors import TrackingError
from hip_mri.registry.champion import promote, read_champion, read_history
from tests.processes import PROJECT, run_python


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str], str]:
    """Exit code, lines on standard output, and standard error."""
    exit_code = run_command([str(word) for word in words])
    captured = capsys.readouterr()
    return exit_code, captured.out.splitlines(), captured.err


def test_models_are_registered_listed_promoted_and_rolled_back(workspace, write_run, versions, capsys):
    exit_code, lines, _ = run(capsys, "models", "register", workspace.root, write_run())
    assert (exit_code, lines) == (0, [str(workspace.versions_folder / "0004")])
    promote(workspace, versions[0], "the first")
    promote(workspace, versions[2], "better by 0.03")
    lines = run(capsys, "models", "list", workspace.root)[1]
    assert [line.split()[0] for line in lines] == ["0001", "0002", "0003", "0004"]
    assert [line.endswith("test AUC 0.875  champion") for line in lines] == [False, False, True, False]
    rolled_back = run(capsys, "models", "rollback", workspace.root, "--reason", "worse")
    assert rolled_back[:2] == (0, [str(versions[0].folder)])
    assert run(capsys, "models", "rollback", workspace.root, "--to", "0003", "--reason", "it was fine")[0] == 0
    promoted = run(capsys, "models", "promote", workspace.root, "0002", "--reason", "the scanner is new")
    assert promoted[:2] == (0, [str(versions[1].folder)])
    decisions = [line.split("  ") for line in run(capsys, "models", "history", workspace.root)[1]]
    by_hand, user = "by hand, bypassing the gate", getpass.getuser()
    assert [[order, *words] for order, _, *words in decisions] == [
        ["1", "promotion of 0001", by_hand, user, "the first"],
        ["2", "promotion of 0003", by_hand, user, "better by 0.03"],
        ["3", "rollback to 0001", "by hand", user, "worse"],
        ["4", "rollback to 0003", "by hand", user, "it was fine"],
        ["5", "promotion of 0002", by_hand, user, "the scanner is new"],
    ]


@pytest.mark.parametrize("words", ["promote {} 0002", "rollback {} --to 0001"])
def test_a_decision_needs_a_reason(words, workspace, versions, capsys):
    promote(workspace, versions[0], "the first")
    promote(workspace, versions[2], "better")
    before = workspace.champion_file.read_bytes()
    command = ["models", *words.format(workspace.root).split()]
    assert run(capsys, *command)[0] == 2
    exit_code, _, error = run(capsys, *command, "--reason", " ")
    assert exit_code == 1
    assert "reason" in error
    assert workspace.champion_file.read_bytes() == before


def test_a_changed_record_of_decisions_is_found(workspace, versions, capsys):
    promote(workspace, versions[0], "the first")
    promote(workspace, versions[1], "better")
    assert run(capsys, "verify", workspace.root)[0] == 0
    workspace.audit_file.write_bytes(workspace.audit_file.read_bytes().replace(b"better", b"Better"))
    for words in (["verify"], ["models", "history"]):
        exit_code, lines, error = run(capsys, *words, workspace.root)
        assert exit_code == 1
        assert "audit.jsonl" in "".join(lines) + error
    versions[2].model_file.write_text("other bytes")
    assert any("version 0003" in line for line in run(capsys, "verify", workspace.root)[1])


MLFLOW = ("--tracking.mlflow-uri", "http://127.0.0.1:5000")


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that are logged and champions that are marked in MLflow, as if it were installed."""
    done = []
    mlflow = ModuleType("mlflow")
    mlflow.__spec__ = ModuleSpec("mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setattr(commands, "track_run", lambda folder, settings: done.append(folder.name) or settings.mlflow_uri)
    monkeypatch.setattr(
        model_commands, "track_champion", lambda workspace, settings: done.append(read_champion(workspace).name)
    )
    return done


def test_a_finished_run_is_logged_to_mlflow(write_run, capsys, tracked):
    folder = write_run()
    assert run(capsys, "track", folder, *MLFLOW) == (0, [MLFLOW[1]], "")
    assert tracked == ["0001"]


def test_the_champion_is_marked_in_mlflow(workspace, versions, capsys, tracked):
    promote(workspace, versions[1], "reviewed")
    assert run(capsys, "models", "track", workspace.root, *MLFLOW)[0] == 0
    assert tracked == ["0002"]


@pytest.mark.parametrize("words", [("track",), ("models", "track")])
def test_mlflow_needs_an_address(workspace, capsys, tracked, words):
    exit_code, lines, error = run(capsys, *words, workspace.root)
    assert (exit_code, lines, tracked) == (1, [], [])
    assert error.startswith("error: tracking.mlflow_uri: ")


def test_a_champion_that_is_set_by_hand_is_marked_in_mlflow_if_asked_for(workspace, versions, capsys, tracked):
    reason = ("--reason", "reviewed")
    run(capsys, "models", "promote", workspace.root, "0001", *reason)
    assert run(capsys, "models", "promote", workspace.root, "0002", *reason, *MLFLOW)[0] == 0
    assert run(capsys, "models", "rollback", workspace.root, *reason, *MLFLOW)[0] == 0
    assert tracked == ["0002", "0001"]


def test_a_failure_of_mlflow_is_a_warning_when_the_champion_was_changed(
    workspace, versions, capsys, monkeypatch, tracked
):
    def fail(workspace: object, settings: object) -> None:
        raise TrackingError("tracking: no answer")

    monkeypatch.setattr(model_commands, "track_champion", fail)
    done = run(capsys, "models", "promote", workspace.root, "0002", "--reason", "reviewed", *MLFLOW)
    assert done == (0, [str(versions[1].folder)], "warning: tracking: no answer\n")
    assert read_champion(workspace) == versions[1]


def test_a_champion_that_is_promoted_again_is_said_to_be_champion(workspace, versions, capsys):
    promote(workspace, versions[1], "reviewed")
    exit_code, lines, error = run(capsys, "models", "promote", workspace.root, "0002", "--reason", "again")
    assert (exit_code, lines) == (0, [str(versions[1].folder)])
    assert error.startswith("warning: 0002 ")
    assert len(read_history(workspace)) == 1


@pytest.mark.parametrize(
    "words", [("models", "promote", "{}", "2", "--reason", "x"), ("models", "rollback", "{}", "--reason", "x")]
)
def test_without_mlflow_nothing_is_changed(workspace, versions, capsys, monkeypatch, words):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    promote(workspace, versions[1], "first")
    promote(workspace, versions[0], "second")
    exit_code, lines, error = run(capsys, *[word.format(workspace.root) for word in words], *MLFLOW)
    assert (exit_code, lines) == (1, [])
    assert ".[mlflow]" in error
    assert read_champion(workspace) == versions[0]


@pytest.mark.parametrize("words", ["names {}", "prune {}", "prune {} --yes", "models register {} run"])
def test_a_command_that_fails_prints_one_line_and_creates_nothing(words, capsys, tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        exit_code, lines, error = run(capsys, *words.format(folder).split())
        assert (exit_code, lines) == (1, [])
        assert error.startswith("error: ")
        assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_names_of_a_batch_of_predictions(workspace, capsys):
    folder = workspace.predictions_folder / "0002"
    folder.mkdir(parents=True)
    rows = ["image_id,source_name,slice,examination", "a1,one.png,0,a1", "b2,two.png,0,a1", "c3,three.png,0,"]
    (folder / "names.csv").write_text("\n".join(rows) + "\n")
    of_batch = ("--predictions", "0002")
    assert run(capsys, "names", workspace.root, *of_batch)[:2] == (0, rows)
    assert run(capsys, "names", workspace.root, "c3", *of_batch)[1] == [rows[0], rows[3]]
    assert run(capsys, "names", workspace.root, "a1", *of_batch)[1] == rows[:3]  # an examination
    exit_code, lines, error = run(capsys, "names", workspace.root, "d4", *of_batch)
    assert (exit_code, lines) == (1, rows[:1])
    assert "d4" in error
    exit_code, lines, error = run(capsys, "names", workspace.root, "--predictions", "0007")
    assert (exit_code, lines) == (1, [])
    assert "0007/names.csv cannot be read" in error


def test_names_of_images_are_a_table_and_unknown_ids_an_error(filled, capsys):
    known = read_manifest(filled.manifest_file)["image_id"]
    exit_code, lines, error = run(capsys, "names", filled.root)
    assert (exit_code, error) == (0, "")
    assert [line.partition(",")[0] for line in lines] == ["image_id", *known]
    assert lines[0] == "image_id,source_name,state,reason"
    exit_code, lines, error = run(capsys, "names", filled.root, "0" * 16, known[0])
    assert (exit_code, len(lines)) == (1, 2)
    assert lines[1].startswith(known[0])
    assert "0" * 16 in error


def test_verify_fails_on_what_is_no_run(tmp_path, capsys):
    exit_code, lines, error = run(capsys, "verify", tmp_path)
    assert (exit_code, lines) == (1, [])
    assert error.startswith("error: ")


def test_prune_lists_and_with_yes_removes(workspace, capsys):
    run_folder = workspace.runs_folder / "0001"
    run_folder.mkdir(parents=True)
    (run_folder / "metrics.json").write_text(json.dumps({"features": {"set": "new", "preprocessed": "p1"}}))
    (run_folder / "files.json").write_text("{}")
    old = workspace.features_folder / "old"
    old.mkdir(parents=True)
    (old / "file").write_bytes(b"x" * 3_000_000)
    for path in (old / "file", old):
        os.utime(path, (0, 0))  # what is newer than the run can belong to an interrupted one
    for options, exists in ([], True), (["--yes"], False):
        exit_code, lines, _ = run(capsys, "prune", workspace.root, *options)
        assert exit_code == 0
        assert str(old) in lines[0]
        assert lines[-1].split()[:2] == ["3.0", "MB"]
        assert old.exists() == exists
    assert run(capsys, "prune", workspace.root)[1][-1].split()[:2] == ["0.0", "MB"]


def test_demo_writes_a_zip_file(tmp_path, capsys):
    file = tmp_path / "month-1.zip"
    assert run(capsys, "demo", file, "--seed", "3", "--num-patients", "5")[:2] == (0, [str(file)])
    assert "Synthetic Hip MRI/SYNTHETIC.txt" in zipfile.ZipFile(file).namelist()
    exit_code, _, error = run(capsys, "demo", tmp_path / "few.zip", "--num-patients", "4")
    assert exit_code == 1
    assert error.startswith("error: num_patients: ")


def test_demo_replaces_no_file(tmp_path, capsys):
    file = tmp_path / "own.zip"
    file.write_bytes(b"images")
    exit_code, _, error = run(capsys, "demo", file)
    assert exit_code == 1
    assert error.startswith(f"error: {file} exists")
    assert file.read_bytes() == b"images"


def test_the_installed_command_is_the_entry_point():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["hip-mri"].partition(":")
    code = f"from {module} import {function}; {function}()"
    done = run_python("-c", code, "rnu")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean run?" in done.stderr
