"""The record of decisions: who, how and why, in a chain that shows every change."""

import hashlib
import json
import shutil
from collections.abc import Callable

import pytest

from hip_mri.errors import ReleaseError
from hip_mri.registry.audit import Verdict, read_decisions
from hip_mri.registry.champion import promote, promote_over, read_champion, read_history, reject, roll_back
from hip_mri.registry.release_checks import check_audit_log, verify_releases
from hip_mri.registry.versions import check_version, read_version
from hip_mri.storage import write_json

CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    **{f"removed {n}": lambda lines, n=n: lines[: n - 1] + lines[n:] for n in range(1, 6)},
    **{f"changed {n}": lambda lines, n=n: [*lines[: n - 1], change(lines[n - 1]), *lines[n:]] for n in range(1, 6)},
    **{f"inserted {n}": lambda lines, n=n: [*lines[:n], change(lines[n - 1]), *lines[n:]] for n in range(1, 6)},
    **{f"repeated {n}": lambda lines, n=n: [*lines[:n], *lines[n - 1 :]] for n in range(1, 6)},
    "reordered": lambda lines: [lines[1], lines[0], *lines[2:]],
    "reversed": lambda lines: lines[::-1],
    "truncated by two": lambda lines: lines[:-2],
    "truncated within a line": lambda lines: [*lines[:-1], lines[-1][:-9]],
    "emptied": lambda lines: [],
    "with other bytes": lambda lines: [*lines[:2], b"\xff{}", *lines[3:]],
    "with other blanks": lambda lines: [*lines[:2], lines[2].replace(b":", b": "), *lines[3:]],
}


def change(line: bytes) -> bytes:
    return json.dumps(json.loads(line) | {"reason": "another"}, separators=(",", ":")).encode()


def decide(workspace, versions) -> None:
    """One decision of each kind."""
    promote_over(workspace, None, versions[0], Verdict("reaches all", "by the gate", "gate"))
    promote_over(workspace, versions[0], versions[1], Verdict("reviewed", "by approval", "Ada"))
    reject(workspace, versions[2], Verdict("not better", "by approval", "Grace"))
    promote(workspace, versions[2], "needed")
    roll_back(workspace, 1, reason="worse")


def test_who_decided_what_how_and_why_is_kept_with_champion_and_version(workspace, versions):
    decide(workspace, versions)
    decisions = read_decisions(workspace)
    assert [(it.order, it.action, it.version, it.decided_how) for it in decisions] == [
        (1, "promotion", 1, "by the gate"),
        (2, "promotion", 2, "by approval"),
        (3, "rejection", 3, "by approval"),
        (4, "promotion", 3, "by hand, bypassing the gate"),
        (5, "rollback", 1, "by hand"),
    ]
    assert [(it.decided_by, it.reason) for it in decisions[:3]] == [
        ("gate", "reaches all"),
        ("Ada", "reviewed"),
        ("Grace", "not better"),
    ]
    history = json.loads(workspace.champion_file.read_text())["history"]
    assert history == [it.describe() for it in decisions if it.action != "rejection"]
    kept = json.loads((versions[2].folder / "decisions.json").read_text())
    assert kept == [it.describe() for it in decisions if it.version == 3]
    assert check_audit_log(workspace) == []


def test_the_same_rejection_again_changes_nothing(workspace, versions):
    for _ in range(2):
        reject(workspace, versions[0], Verdict("not better", "by the gate"))
    assert len(read_decisions(workspace)) == 1
    assert read_champion(workspace) is None
    assert check_audit_log(workspace) == []


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_of_the_log_is_found_and_stays_found(workspace, versions, name):
    decide(workspace, versions)
    changed = CHANGES[name](workspace.audit_file.read_bytes().splitlines())
    workspace.audit_file.write_bytes(b"".join(line + b"\n" for line in changed))
    assert check_audit_log(workspace)
    assert read_champion(workspace) == versions[0]
    if changed:  # else the changes of champion are written again, and only the rejection stays lost
        promote(workspace, versions[1], "goes on")
        assert read_champion(workspace) == versions[1]
        assert check_audit_log(workspace)


def test_changes_of_the_other_files_are_found(workspace, versions):
    decide(workspace, versions)
    champion = json.loads(workspace.champion_file.read_text())
    champion["history"][1]["reason"] = "another"
    write_json(workspace.champion_file, champion)
    assert any("champion.json" in it for it in check_audit_log(workspace))
    workspace.champion_file.unlink()
    with pytest.raises(ReleaseError, match=r"champion\.json is missing.* 5 decisions"):
        read_champion(workspace)


def test_decisions_in_the_folder_of_a_version_are_checked(workspace, versions):
    decide(workspace, versions)
    (versions[1].folder / "decisions.json").unlink()
    assert any("0002/decisions.json" in it for it in check_audit_log(workspace))
    promote(workspace, versions[2], "goes on")  # writes it again
    assert check_audit_log(workspace) == []


def test_a_file_that_was_changed_together_with_its_hash_is_found(workspace, versions):
    promote(workspace, versions[0], "first")
    (versions[0].folder / "metrics.json").write_text('{"threshold": 0.9}')
    record = json.loads((versions[0].folder / "version.json").read_text())
    record["files"]["metrics.json"] = hashlib.sha256(b'{"threshold": 0.9}').hexdigest()
    write_json(versions[0].folder / "version.json", record)
    check_version(read_version(workspace, 1))
    with pytest.raises(ReleaseError, match=r"version 0001 .* became champion"):
        read_champion(workspace)
    assert any("0001" in it for it in verify_releases(workspace))


@pytest.mark.parametrize(("name", "value"), [("version", "0003"), ("model_sha256", "0" * 64)])
def test_another_champion_than_the_latest_of_the_history_is_refused(workspace, versions, name, value):
    promote(workspace, versions[0], "first")
    write_json(workspace.champion_file, json.loads(workspace.champion_file.read_text()) | {name: value})
    with pytest.raises(ReleaseError, match=r"champion\.json"):
        read_champion(workspace)


@pytest.mark.parametrize("number", [1, 2])
def test_a_version_whose_folder_is_missing_is_named(workspace, versions, number):
    promote(workspace, versions[0], "first")
    shutil.rmtree(versions[number - 1].folder)
    assert f"version 000{number}: its folder is missing" in verify_releases(workspace)


@pytest.mark.parametrize("num_files", [0, 1])
def test_a_decision_whose_process_was_killed_counts_without_a_difference(workspace, versions, monkeypatch, num_files):
    promote(workspace, versions[0], "first")
    written = []

    def write_then_die(file, content) -> None:
        if len(written) == num_files:
            raise SystemError
        written.append(file)
        write_json(file, content)

    with monkeypatch.context() as killing:
        killing.setattr("hip_mri.registry.audit.write_json", write_then_die)
        with pytest.raises(SystemError):
            promote(workspace, versions[1], "second")
    assert read_champion(workspace) == versions[1]
    assert check_audit_log(workspace) == []


def test_the_name_of_a_person_is_one_line(workspace, versions):
    reject(workspace, versions[0], Verdict("not better", "by approval", "Ada\n2  2026-01-01  promotion"))
    assert read_decisions(workspace)[0].decided_by == "Ada 2 2026-01-01 promotion"


@pytest.mark.parametrize("reason", ["", " \n"])
def test_a_decision_without_a_reason_is_refused(workspace, versions, reason):
    promote(workspace, versions[0], "first")
    promote(workspace, versions[1], "second")
    with pytest.raises(ReleaseError, match=r"reason .* version 0003"):
        promote(workspace, versions[2], reason)
    with pytest.raises(ReleaseError, match=r"reason .* version 0001"):
        roll_back(workspace, reason=reason)
    assert len(read_history(workspace)) == 2


def test_the_history_of_an_earlier_release_is_taken_over(workspace, versions):
    keys = ("order", "action", "version", "model_sha256", "reason", "changed_at")
    entries = [
        dict(zip(keys, (n, "promotion", it.name, it.model_sha256, "better", "2026-01-01"), strict=True))
        for n, it in enumerate(versions[:2], start=1)
    ]
    write_json(workspace.champion_file, {"version": "0002", "history": entries})
    assert read_champion(workspace) == versions[1]
    assert check_audit_log(workspace) == []
    roll_back(workspace, reason="worse")
    decisions = read_decisions(workspace)
    assert [(it.version, it.decided_at) for it in decisions[:2]] == [(1, "2026-01-01"), (2, "2026-01-01")]
    assert [it.decided_how for it in decisions] == ["not recorded", "not recorded", "by hand"]
    assert check_audit_log(workspace) == []
