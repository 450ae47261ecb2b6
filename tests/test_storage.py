import errno
import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hip_mri import storage
from hip_mri.disk_errors import is_unrecoverable, require_room
from hip_mri.errors import DiskError, WorkspaceError
from hip_mri.hashes import digest, digest_file
from hip_mri.storage import (
    find_next_folder,
    flush_file_system,
    publish_folder,
    remove_leftovers,
    replace_file,
    write_bytes,
    write_json,
    write_small_file,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
WRITERS = [write_bytes, write_small_file]
both_writers = pytest.mark.parametrize("write", WRITERS, ids=["write_bytes", "write_small_file"])


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A path that cannot be written, not even by root: its parent is a file."""
    (tmp_path / "file").write_bytes(b"in the way")
    return tmp_path / "file" / "below"


# Files


@both_writers
def test_a_file_is_written_with_its_folders_and_replaced(tmp_path, write):
    file = tmp_path / "a" / "b" / "file.bin"
    for content in (b"first", b"", b"third" * 1000):
        write(file, content)
        assert file.read_bytes() == content
        assert list(file.parent.iterdir()) == [file]


@both_writers
def test_a_file_that_cannot_be_written_is_named(blocked, write):
    with pytest.raises(WorkspaceError) as caught:
        write(blocked, b"content")
    assert str(caught.value).startswith(f"{blocked} could not be written (")
    assert "room" not in str(caught.value), "the disk is not full"
    assert blocked.parent.read_bytes() == b"in the way"


@both_writers
def test_a_folder_in_the_way_is_named_and_nothing_is_left(tmp_path, write):
    (tmp_path / "name").mkdir()
    with pytest.raises(WorkspaceError, match=r"could not be written \(Is a directory\)"):
        write(tmp_path / "name", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


@both_writers
def test_readers_see_old_or_new_but_nothing_between(tmp_path, write):
    file = tmp_path / "file"
    contents = [bytes([number]) * 200_000 for number in range(20)]
    write(file, contents[0])
    torn, done = [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            if (content_read := file.read_bytes()) not in contents:
                torn.append(content_read)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for content in contents:
            write(file, content)
    finally:
        done.set()
        watcher.join()
    assert torn == []


@both_writers
def test_of_writers_at_the_same_time_one_wins_whole(tmp_path, write):
    file = tmp_path / "file"
    contents = [bytes([number]) * 100_000 for number in range(6)]
    threads = [threading.Thread(target=write, args=(file, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [file]


def write_half(file: Path, error: BaseException) -> None:
    with replace_file(file) as temporary:
        temporary.write_bytes(b"half of the n")
        raise error


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("is_new", [True, False])
def test_when_the_block_raises_the_old_content_stays(tmp_path, kind, is_new):
    file = tmp_path / "file"
    if not is_new:
        file.write_bytes(b"old")
    with pytest.raises(kind):
        write_half(file, kind())
    assert [path.name for path in tmp_path.iterdir()] == ([] if is_new else ["file"])
    assert is_new or file.read_bytes() == b"old"


def test_when_the_disk_is_full_the_old_content_stays(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with pytest.raises(WorkspaceError, match=r"file could not be written \(No space left on device\)") as caught:
        write_half(file, OSError(28, "No space left on device"))
    assert isinstance(caught.value.__cause__, OSError)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(WorkspaceError, match="No such file"), replace_file(tmp_path / "file"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "ending"), [("head.weights.h5", ".weights.h5"), ("a.b.c.png", ".c.png"), ("x.csv", ".csv"), ("x", "")]
)
def test_the_temporary_file_has_the_same_folder_and_suffix(tmp_path, name, ending):
    """Keras and Pandas go by the ending of a name."""
    with replace_file(tmp_path / name) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name != name
        assert temporary.name.endswith(ending)
        assert "".join(temporary.suffixes) == ending
        temporary.write_bytes(b"content")
    assert (tmp_path / name).read_bytes() == b"content"


def test_json_is_readable_by_people_and_programs(tmp_path):
    content = {"b": [1, 2.5, None], "a": {"ä": True}}
    write_json(tmp_path / "file.json", content)
    text = (tmp_path / "file.json").read_text()
    assert json.loads(text) == content
    assert text.endswith("}\n")
    assert text.count("\n") > 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), {1, 2}])
def test_what_json_cannot_say_is_refused(tmp_path, value):
    write_json(tmp_path / "file.json", {"old": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "file.json", {"value": value})
    assert json.loads((tmp_path / "file.json").read_text()) == {"old": 1}
    assert len(list(tmp_path.iterdir())) == 1


# Folders


def fill(folder: Path, content: str) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "file.txt").write_text(content)
    (folder / f"{content}.txt").write_text(content)


def publish_half(target: Path, error: BaseException) -> None:
    with publish_folder(target) as folder:
        fill(folder, "new")
        raise error


def publish_whole(target: Path) -> None:
    with publish_folder(target) as folder:
        fill(folder, "new")


def list_tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "a" / "target"
    with publish_folder(target) as folder:
        assert not target.exists()
        assert folder.parent == target.parent
        assert list(folder.iterdir()) == []
        fill(folder, "new")
        assert not target.exists()
    assert list_tree(tmp_path) == {
        "a",
        "a/target",
        "a/target/deep",
        "a/target/deep/er",
        "a/target/deep/er/file.txt",
        "a/target/new.txt",
    }
    assert {path.stat().st_mode & 0o777 for path in (target, target.parent)} == {0o700}


def test_a_folder_is_replaced_whole(tmp_path):
    for content in ("old", "new"):
        with publish_folder(tmp_path / "target") as folder:
            fill(folder, content)
    assert list_tree(tmp_path) == {
        "target",
        "target/deep",
        "target/deep/er",
        "target/deep/er/file.txt",
        "target/new.txt",
    }
    assert (tmp_path / "target/deep/er/file.txt").read_text() == "new"


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("kind", [ValueError, OSError, KeyboardInterrupt])
def test_a_folder_that_is_not_finished_never_appears(tmp_path, kind, is_new):
    if not is_new:
        with publish_folder(tmp_path / "target") as folder:
            fill(folder, "old")
    before = list_tree(tmp_path)
    with pytest.raises(kind):
        publish_half(tmp_path / "target", kind())
    assert list_tree(tmp_path) == before


def test_a_folder_that_cannot_be_written_is_named(blocked):
    with pytest.raises(WorkspaceError) as caught, publish_folder(blocked):
        pass
    assert str(caught.value).startswith(f"{blocked} could not be written (File exists).")


def test_when_the_exchange_fails_the_old_folder_stays(tmp_path, monkeypatch):
    target = tmp_path / "target"
    with publish_folder(target) as folder:
        fill(folder, "old")
    before = list_tree(tmp_path)
    replace = os.replace

    def fail_to_publish(source, destination) -> None:
        if Path(destination) == target and not str(source).endswith(".old"):
            raise OSError(5, "Input/output error")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", fail_to_publish)
    with pytest.raises(WorkspaceError, match=r"target could not be written \(Input/output error\)"):
        publish_whole(target)
    assert list_tree(tmp_path) == before


# Digests


@settings(max_examples=60, deadline=None, database=None)
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=6), st.randoms(use_true_random=False))
def test_a_digest_does_not_depend_on_the_order_of_keys(content, shuffler):
    keys = shuffler.sample(list(content), len(content))
    shuffled = {key: content[key] for key in keys}
    assert digest(shuffled) == digest(content)
    assert digest({"inner": [shuffled]}) == digest({"inner": [content]})
    assert digest(json.loads(json.dumps(content))) == digest(content)


@settings(max_examples=60, deadline=None, database=None)
@given(JSON, JSON)
def test_other_content_has_another_digest(first, second):
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (digest(first) == digest(second)) == same


def test_a_digest_stays_what_it_was():
    """Whatever was kept in a workspace is found by it."""
    assert digest({"b": [1, 2.5], "a": None}) == hashlib.sha256(b'{"a":null,"b":[1,2.5]}').hexdigest()
    assert digest([1, 2]) != digest([2, 1])


@pytest.mark.parametrize("size", [0, 1, 1_000_003])
def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert digest_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


# Disks that refuse

UNRECOVERABLE = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO]


@pytest.mark.parametrize("number", UNRECOVERABLE, ids=[errno.errorcode[number] for number in UNRECOVERABLE])
@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    "act",
    [lambda folder: write_bytes(folder / "file", b"new"), lambda folder: publish_whole(folder / "folder")],
    ids=["file", "folder"],
)
def test_fault_57_a_failed_write_is_always_an_error(tmp_path, monkeypatch, number, call, act):
    write_bytes(tmp_path / "file", b"old")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(DiskError, match=r"could not be written \(") as caught:
        act(tmp_path)
    assert is_unrecoverable(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("error", [OSError("4000 requested and 128 written"), RuntimeError("Can't write data")])
def test_fault_56_an_error_without_errno_is_classified_by_free_space(tmp_path, monkeypatch, error):
    with pytest.raises(type(error)) as caught:
        write_half(tmp_path / "file", error)
    assert caught.value is error
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(DiskError):
        write_half(tmp_path / "file", error)
    with pytest.raises(DiskError):
        publish_half(tmp_path / "folder", error)
    assert list(tmp_path.iterdir()) == []


def test_fault_56_free_space_is_checked_before_a_library_that_would_crash(tmp_path):
    require_room(tmp_path / "not" / "there", 1000)
    with pytest.raises(DiskError, match=r"1,000,000,000,000 MB .*, [\d,]+ MB"):
        require_room(tmp_path / "not" / "there", 10**18)


def test_fault_57_a_failed_flush_of_small_files_is_reported(tmp_path, monkeypatch):
    flush_file_system(tmp_path)
    monkeypatch.setattr(storage, "_C_LIBRARY", type("Broken", (), {"syncfs": lambda self, _: -1})())
    monkeypatch.setattr(storage.ctypes, "get_errno", lambda: errno.EIO)
    with pytest.raises(DiskError, match="Input/output error"):
        flush_file_system(tmp_path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.ETIMEDOUT])
def test_other_refusals_may_be_tried_again(tmp_path, monkeypatch, number):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(WorkspaceError) as caught:
        write_bytes(tmp_path / "file", b"new")
    assert not is_unrecoverable(caught.value)


both_blocks = pytest.mark.parametrize("write", [replace_file, publish_folder], ids=["file", "folder"])


@both_blocks
@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "input.png"),
        PermissionError(errno.EACCES, "Permission denied", "/elsewhere/input.png"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        TimeoutError("the server did not answer"),
        OSError(errno.EIO, "Input/output error", "input.png"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_something_else_is_not_a_disk_error(tmp_path, write, error):
    """A missing input or a lost connection is no reason to make room."""
    with pytest.raises(type(error)) as caught, write(tmp_path / "target"):
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


@both_blocks
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_an_error_that_names_what_is_being_written_is_explained(tmp_path, write, number):
    with pytest.raises(WorkspaceError, match=r"target could not be written"), write(tmp_path / "target") as temporary:
        raise OSError(number, os.strerror(number), str(temporary))


# What killed processes leave


def test_fault_61_leftovers_go_and_everything_else_stays(tmp_path):
    kept = {
        "kept",
        ".lock",
        ".gitignore",
        ".DS_Store",
        ".nfs000000000001",
        ".env-prod",
        ".git",
        ".12-ab.json",
        ".hip-mri",
    }
    for name in (".hip-mri-12-ab.json", ".hip-mri-0002-x1y2z3ab", *kept):
        (tmp_path / name).touch()
    (tmp_path / ".hip-mri-0003-a1b2c3d4" / "figures").mkdir(parents=True)
    remove_leftovers([tmp_path])
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_fault_55_an_old_folder_without_replacement_is_restored(tmp_path):
    """Killed between the two renames of an exchange: the old one or the new one, never neither."""
    for name in (".hip-mri-0001-abcdefgh.old", ".hip-mri-0002-abcdefgh.old", "0002"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "from").write_text(name)
    remove_leftovers([tmp_path])
    assert {path.name: (path / "from").read_text() for path in tmp_path.iterdir()} == {
        "0001": ".hip-mri-0001-abcdefgh.old",
        "0002": "0002",
    }


@pytest.mark.parametrize("step", ["fill", "flush", "move away", "rename", "renamed"])
def test_fault_55_an_exchange_that_is_cut_off_leaves_the_old_or_the_new(tmp_path, monkeypatch, step):
    target = tmp_path / "target"
    with publish_folder(target) as folder:
        fill(folder, "old")
    child = os.fork()
    if child == 0:
        storage._reached = lambda reached, _: os._exit(9) if reached == step else None
        publish_whole(target)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    remove_leftovers([tmp_path])
    content = (target / "deep" / "er" / "file.txt").read_text()
    assert content == ("new" if step == "renamed" else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_fault_60_numbers_follow_numbers_and_not_the_clock(tmp_path):
    for name, seconds in (("0001", 4e9), ("0002", 0), ("10000", 1)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (seconds, seconds))
    assert find_next_folder(tmp_path) == tmp_path / "10001"
