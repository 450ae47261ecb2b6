"""The champion and its history."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hip_mri.errors import ReleaseError
from hip_mri.registry import champion as champion_module
from hip_mri.registry.audit import ReleaseDecision
from hip_mri.registry.champion import promote, read_champion, read_history, roll_back
from tests.processes import run_python


def test_before_the_first_promotion_there_is_no_champion(workspace, versions):
    assert read_champion(workspace) is None
    assert read_history(workspace) == ()


def test_a_promoted_version_serves_and_the_reason_is_kept(workspace, versions):
    assert promote(workspace, versions[1], "better by 0.03") == versions[1]
    assert read_champion(workspace) == versions[1]
    (change,) = read_history(workspace)
    assert (change.order, change.action, change.version, change.reason) == (1, "promotion", 2, "better by 0.03")
    pointer = json.loads(workspace.champion_file.read_text())
    assert (pointer["version"], pointer["model_sha256"]) == ("0002", versions[1].model_sha256)


def test_promoting_the_champion_again_changes_nothing(workspace, versions):
    promote(workspace, versions[0], "first")
    before = workspace.champion_file.read_bytes()
    promote(workspace, versions[0], "again")
    assert workspace.champion_file.read_bytes() == before


def test_fault_74_rolling_back_restores_earlier_champions_in_order(workspace, versions):
    for version in versions:
        promote(workspace, version, "better")
    assert [roll_back(workspace, reason="worse").number for _ in range(2)] == [2, 1]
    with pytest.raises(ReleaseError, match=r"before 0001"):
        roll_back(workspace, reason="worse")
    assert roll_back(workspace, 3, reason="fixed").number == 3
    assert roll_back(workspace, reason="worse").number == 1
    assert [change.order for change in read_history(workspace)] == list(range(1, 8))


def test_rolling_back_to_the_champion_changes_nothing(workspace, versions):
    promote(workspace, versions[0], "first")
    assert roll_back(workspace, 1, reason="worse") == versions[0]
    assert len(read_history(workspace)) == 1


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4)), min_size=1, max_size=12))
def test_the_list_of_champions_ends_with_the_present_one_and_has_no_duplicates(steps):
    history = [
        ReleaseDecision(order, "promotion" if is_promotion else "rollback", version, *[""] * 6)
        for order, (is_promotion, version) in enumerate(steps, start=1)
    ]
    champions = champion_module._list_champions(history)
    assert champions[-1] == history[-1].version
    assert len(set(champions)) == len(champions)
    assert set(champions) <= {version for _, version in steps}


def test_a_version_that_never_served_is_no_target(workspace, versions):
    promote(workspace, versions[0], "first")
    with pytest.raises(ReleaseError, match=r"0003 was never champion, only 0001"):
        roll_back(workspace, 3, reason="worse")


@pytest.mark.parametrize("act", ["promote", "roll_back"])
def test_a_model_with_other_bytes_never_serves(workspace, versions, act):
    promote(workspace, versions[0], "first")
    promote(workspace, versions[1], "second")
    before = workspace.champion_file.read_bytes()
    target = versions[2] if act == "promote" else versions[0]
    target.model_file.unlink()
    target.model_file.write_text("other bytes")
    with pytest.raises(ReleaseError, match=r"version 000[13] .*: model\.keras"):
        promote(workspace, target, "better") if act == "promote" else roll_back(workspace, reason="worse")
    assert workspace.champion_file.read_bytes() == before


def exchange(version, other) -> None:
    """Put another version in the place of one, with a record that does not contradict itself."""
    record = json.loads((other.folder / "version.json").read_text())
    for name in version.files:
        (version.folder / name).unlink()
        (version.folder / name).write_bytes((other.folder / name).read_bytes())
    record |= {"version": version.name, "number": version.number, "run": version.run}
    (version.folder / "version.json").write_text(json.dumps(record))


def test_a_version_that_was_exchanged_does_not_serve(workspace, versions):
    promote(workspace, versions[0], "first")
    promote(workspace, versions[1], "second")
    exchange(versions[1], versions[2])
    with pytest.raises(ReleaseError, match=r"version 0002 .* became champion"):
        read_champion(workspace)
    with pytest.raises(ReleaseError, match=r"version 0002 .* promoted"):
        promote(workspace, versions[1], "again")
    assert roll_back(workspace, reason="worse") == versions[0]
    with pytest.raises(ReleaseError, match=r"version 0002 .* was champion"):
        roll_back(workspace, 2, reason="worse")


@pytest.mark.parametrize("content", ["[]", "{}", '{"history": [{"version": "0001"}]}', '{"history": [{}]}'])
def test_a_damaged_champion_file_is_refused(workspace, versions, content):
    workspace.champion_file.write_text(content)
    with pytest.raises(ReleaseError, match=r"champion\.json"):
        read_champion(workspace)


def test_fault_55_killed_anywhere_the_old_or_the_new_champion_serves(tmp_path):
    """SIGKILL before each system call that changes the disk, in promoting, rolling back and registering."""
    done = run_python("-m", "tests.faults.kill_releases", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["promote"]["old"] >= 5
    assert found["promote"]["new"] >= 1
    assert found["roll_back"]["old"] >= 5
    assert found["register"]["old"] >= 10
