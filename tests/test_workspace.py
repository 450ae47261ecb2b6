import errno
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hip_mri.errors import DiskError, SettingsError, WorkspaceError
from hip_mri.storage import find_next_folder
from hip_mri.workspace import Workspace, resolve_path
from tests.processes import run_python


def private_folders(root: Path) -> set[str]:
    """Everything in a folder, after seeing that only the owner can enter it."""
    folders = [path for path in root.iterdir() if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
    return {path.name for path in folders}


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A path that cannot be written, not even by root: its parent is a file."""
    (tmp_path / "file").write_bytes(b"in the way")
    return tmp_path / "file" / "below"


# Places


def list_places(workspace: Workspace) -> list[Path]:
    names = [name for name in vars(Workspace) if name.endswith(("_file", "_folder")) and name[0] != "_"]
    return [place for name in names if isinstance(place := getattr(workspace, name), Path)]


def test_all_paths_are_below_the_root_and_different(tmp_path):
    workspace = Workspace(tmp_path / "root")
    sha256 = "ab" + "0" * 62
    places = list_places(workspace)
    places += [workspace.image_file(sha256), workspace.preprocessed_file("set", sha256)]
    assert len(places) == len(set(places)) >= 12
    assert all(place.is_relative_to(workspace.root) for place in places)
    assert not workspace.root.exists()


def test_places_are_found_as_a_person_writes_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for written in ("~/here", "here", "there/../here", tmp_path / "here"):
        assert resolve_path(written, "workspace") == tmp_path.resolve() / "here"
        assert Workspace.at(Path(written)) == Workspace(tmp_path.resolve() / "here")


@pytest.mark.parametrize("written", ["~no-such-user/x", "loop", "nul\0"])
def test_what_is_not_a_path_is_reported(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(SettingsError, match=r"(?s)^model: '.*' is not a path"):
        resolve_path(written, "model")


@pytest.mark.skipif(sys.platform == "darwin", reason="all names of files are UTF-8")
def test_a_path_that_is_not_utf_8_behind_a_link_is_reported(tmp_path, monkeypatch):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller"))
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(SettingsError, match=r"^workspace: .*not UTF-8"):
        Workspace.at(tmp_path / "link")
    monkeypatch.chdir(folder)
    with pytest.raises(SettingsError, match=r"^workspace: .*not UTF-8"):
        Workspace.at(Path("workspace"))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_reported(number, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(WorkspaceError) as found, Workspace(tmp_path).hold():
        pass
    assert "offers no locks" in str(found.value)
    assert os.strerror(number) in str(found.value)
    assert "room" not in str(found.value)


def test_a_disk_that_breaks_at_a_lock_is_reported_as_such(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(DiskError), Workspace(tmp_path).hold():
        pass


def test_images_are_spread_over_folders_by_hash():
    workspace = Workspace(Path("root"))
    sha256 = "cd" + "1" * 62
    assert workspace.image_file(sha256) == Path("root/images/cd", sha256)
    assert workspace.preprocessed_file("0123", sha256) == Path("root/preprocessed/0123/cd", f"{sha256}.png")


def test_preparing_creates_the_root_and_private_folders_alone(tmp_path):
    workspace = Workspace(tmp_path / "new" / "root")
    for _ in range(2):
        workspace.prepare()
        assert private_folders(workspace.root) == {"cache", "images", "sources"}


def test_folders_with_pictures_that_an_earlier_version_left_open_are_closed(tmp_path):
    workspace = Workspace(tmp_path)
    open_folders = [
        workspace.preprocessed_folder,
        workspace.runs_folder,
        workspace.drift_folder,
        workspace.serving.root,
    ]
    for folder in [*open_folders, tmp_path / "of the user"]:
        folder.mkdir(mode=0o755)
    workspace.prepare()
    assert {folder.stat().st_mode & 0o777 for folder in open_folders} == {0o700}
    assert (tmp_path / "of the user").stat().st_mode & 0o777 == 0o755


def test_preparing_keeps_what_is_there(tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    Workspace(tmp_path).prepare()
    assert {path.name for path in tmp_path.iterdir()} == {"kept.txt", ".gitignore", "cache", "images", "sources"}


@pytest.mark.parametrize(("place", "cause"), [("file/below", "Not a directory"), ("file", "File exists")])
def test_a_root_that_cannot_be_a_folder_is_named(tmp_path, blocked, place, cause):
    with pytest.raises(WorkspaceError, match=rf"^workspace: {tmp_path / place} .*\({cause}\)"):
        Workspace(tmp_path / place).prepare()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_root_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WorkspaceError, match=r"cannot be written \(Permission denied\)"):
        Workspace(tmp_path).prepare()
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("folders", "number"),
    [([], 1), (["0001"], 2), (["0001", "0002"], 3), (["0003"], 4), (["0009", "0010"], 11), (["9999"], 10_000),
     (["0001", ".hip-mri-0002-x1y2z3"], 3), (["0004", "latest", ".hidden"], 5)],
)  # fmt: skip
def test_runs_are_numbered_on(tmp_path, folders, number):
    for folder in folders:
        (tmp_path / "runs" / folder).mkdir(parents=True)
    assert find_next_folder(tmp_path / "runs").name == f"{number:04d}"


def test_files_are_no_runs(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "0007").write_text("a file")
    assert find_next_folder(tmp_path / "runs").name == "0001"


@pytest.mark.parametrize("name", ["0001-copy", "0001 (1)", "2026-01-31"])
def test_folders_of_the_user_are_no_runs(tmp_path, name):
    for folder in ("0001", name):
        (tmp_path / "runs" / folder).mkdir(parents=True)
    assert find_next_folder(tmp_path / "runs").name == "0002"


HOLDER = (
    "import sys, time; from pathlib import Path; from hip_mri.workspace import Workspace\n"
    "with Workspace(Path(sys.argv[1])).hold():\n    print('held', flush=True)\n    time.sleep(60)\n"
)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the workspace."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_fault_59_a_workspace_is_held_by_one_process_alone(tmp_path: Path, holder) -> None:
    found = rf"process {holder.pid} on {platform.node()} since 20\d\d-"
    for ask in (lambda: Workspace(tmp_path).hold().__enter__(), Workspace(tmp_path).check_free):
        with pytest.raises(WorkspaceError, match=found):
            ask()


def test_fault_59_a_dead_holders_lock_is_taken_over(tmp_path: Path, holder) -> None:
    holder.kill()
    holder.wait()
    Workspace(tmp_path).check_free()
    with Workspace(tmp_path).hold():
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()


def test_fault_59_another_machine_is_called_by_its_name(tmp_path: Path, holder) -> None:
    (tmp_path / ".lock").write_text('{"process": 7, "host": "far", "boot": "b", "started_at": "2020-01-01"}')
    found = rf"process 7 on far since 2020-01-01.* \({platform.node()}\)"
    with pytest.raises(WorkspaceError, match=found):
        Workspace(tmp_path).check_free()


@pytest.mark.parametrize("content", ["", "nonsense", "[]", "{}"])
def test_fault_59_a_holder_that_cannot_be_read_still_holds(tmp_path: Path, holder, content) -> None:
    (tmp_path / ".lock").write_text(content)
    with pytest.raises(WorkspaceError, match="another process"):
        Workspace(tmp_path).check_free()


NO_ROOM = """
import resource, sys
from pathlib import Path
from hip_mri.errors import HipMriError
from hip_mri.workspace import Workspace
workspace = Workspace(Path(sys.argv[1]))
workspace.prepare()
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    with workspace.hold():
        print("held", end="")
except HipMriError as error:
    print(error, end="")
"""
"""No file may take a byte, as on a full disk."""


def test_fault_56_a_lock_without_room_for_its_holder_is_refused(tmp_path: Path) -> None:
    assert run_python("-c", NO_ROOM, tmp_path).stdout.startswith(f"{tmp_path / '.lock'} could not be written")


def test_a_workspace_that_is_not_there_is_free_and_stays_so(tmp_path: Path) -> None:
    Workspace(tmp_path / "new").check_free()
    assert not (tmp_path / "new").exists()


def test_fault_61_every_folder_is_swept(tmp_path: Path) -> None:
    """A temporary file beside whatever has a place of its own is gone at the next start."""
    workspace = Workspace(tmp_path)
    sha256 = "ab" + "0" * 62
    apart = {workspace.data_folder, workspace.predictions_folder}
    apart |= {workspace.releases_folder, workspace.versions_folder, workspace.comparisons_folder}
    folders = [place for place in list_places(workspace) if not place.suffix and place not in apart]
    folders += [workspace.root, *(workspace.features_folder / "set", workspace.fingerprints_folder / "1")]
    folders += [workspace.backbones_folder / name for name in ("1", "1-engine")]
    small = [workspace.image_file(sha256), workspace.preprocessed_file("set", sha256)]
    for folder in [*folders, *(file.parent.parent for file in small)]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".hip-mri-1-ab.tmp").touch()
    with workspace.hold():
        assert [path for path in tmp_path.rglob(".*") if path.name not in (".lock", ".gitignore")] == []


def test_holding_sweeps_what_killed_runs_left(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    sets = [workspace.features_folder / "set", workspace.fingerprints_folder / "1", workspace.backbones_folder / "1"]
    for leftover in (workspace.runs_folder / ".hip-mri-0002-abc", *(folder / ".hip-mri-1-2.npy" for folder in sets)):
        leftover.mkdir(parents=True)
        (leftover / "file").touch()
    kept = workspace.runs_folder / "0001"
    kept.mkdir()
    with workspace.hold():
        assert sorted(path.name for path in workspace.runs_folder.iterdir()) == ["0001"]
        assert not [leftover for folder in sets for leftover in folder.iterdir()]


# Releases


def test_releases_have_places_below_one_folder():
    workspace = Workspace(Path("root"))
    assert workspace.versions_folder == Path("root/releases/versions")
    assert workspace.champion_file == Path("root/releases/champion.json")
    assert workspace.ledger_file == Path("root/releases/ledger.json")


def test_releases_change_while_a_run_holds_the_workspace(tmp_path):
    workspace = Workspace(tmp_path)
    with workspace.hold(), workspace.hold_releases():
        assert workspace.versions_folder.is_dir()


def test_only_one_changes_releases(tmp_path):
    workspace = Workspace(tmp_path)
    with (
        workspace.hold_releases(),
        pytest.raises(WorkspaceError, match=r"releases .* 0\.1 seconds by process \d+ on "),
        workspace.hold_releases(timeout_seconds=0.1),
    ):
        pass
    with workspace.hold_releases():
        pass


def test_releases_are_swept_of_what_killed_processes_left(tmp_path):
    workspace = Workspace(tmp_path)
    (workspace.versions_folder / ".hip-mri-0001-abc").mkdir(parents=True)
    (workspace.versions_folder / ".hip-mri-0001-abc" / "model.keras").touch()
    (workspace.releases_folder / ".hip-mri-1-ab.json").touch()
    with workspace.hold_releases():
        assert {path.name for path in workspace.releases_folder.rglob("*")} == {".lock", "versions"}
