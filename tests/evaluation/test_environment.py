"""The commit of the code: of a git checkout, and of a package that was installed from git."""

import json
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from hip_mri.evaluation import environment
from hip_mri.evaluation.environment import find_commit, list_versions

COMMIT = "0123456789abcdef" * 2 + "01234567"


def run_git(folder, *arguments) -> str:
    command = ("git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x", *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_checkout_names_its_commit_and_whether_files_were_changed(tmp_path):
    run_git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("1")
    run_git(tmp_path, "add", ".")
    run_git(tmp_path, "commit", "-qm", "first")
    run_git(tmp_path, "tag", "-am", "x", "v1")
    commit = run_git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").touch()
    assert find_commit(tmp_path) == commit
    (tmp_path / "code.py").write_text("2")
    assert find_commit(tmp_path) == f"{commit}-dirty"


def test_an_unusable_checkout_has_no_commit(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    assert find_commit(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert find_commit(tmp_path) is None


@pytest.mark.parametrize(
    ("origin", "commit"),
    [
        (json.dumps({"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}), COMMIT),
        (json.dumps({"url": "file:///x", "dir_info": {}}), None),
        ("damaged", None),
        (None, None),
    ],
)
def test_an_installed_package_names_the_commit_it_was_installed_from(origin, commit, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "distribution", lambda name: SimpleNamespace(read_text=lambda file: origin))
    assert find_commit(tmp_path) == commit


def test_versions_name_the_project_and_python():
    assert {"hip-mri", "prefect", "python"} <= list_versions().keys()
