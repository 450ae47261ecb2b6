"""Kills a process before each of its system calls that change the disk, and checks the files.

`python -m tests.faults.kill_releases FOLDER` prints how often the old state and the new one were found. A child
process does the work; it is killed by SIGKILL before its first such call, the next child before its second, and so on.
"""

import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hip_mri.hashes import hash_files
from hip_mri.registry.champion import promote, read_champion, read_history, roll_back
from hip_mri.registry.registration import register_version
from hip_mri.registry.release_checks import check_audit_log
from hip_mri.registry.versions import check_version, list_versions
from hip_mri.storage import write_json
from hip_mri.workspace import Workspace

CALLS = ("open", "mkdir", "link", "fsync", "replace", "unlink", "rmdir", "chmod")


def write_run(workspace: Workspace, number: int) -> Path:
    folder = workspace.runs_folder / f"{number:04d}"
    folder.mkdir(parents=True)
    for name in ("model.keras", "predictions.csv", "manifest.csv", "config.yaml"):
        (folder / name).write_text(f"{name} {number}")
    write_json(folder / "metrics.json", {"test_set": {"sha256": "ab" * 32}})
    write_json(folder / "files.json", hash_files(folder))
    return folder


def die_at(count: int) -> None:
    """Let this process be killed before its call number `count`."""
    left = iter(range(count))

    def watch(call: Callable) -> Callable:
        def watched(*arguments, **options):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return watched

    for name in CALLS:
        setattr(os, name, watch(getattr(os, name)))


def kill_everywhere(act: Callable[[], object], look: Callable[[], str]) -> dict[str, int]:
    """Kill `act` at every call; what `look` says after each, counted."""
    states: Counter[str] = Counter()
    for count in range(1000):
        process = os.fork()
        if process == 0:
            die_at(count)
            act()
            os._exit(0)
        status = os.waitpid(process, 0)[1]
        states[look()] += 1
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return dict(states)
    raise AssertionError("it never ended by itself")


def main(root: Path) -> None:
    workspace = Workspace(root)
    first, second, third = (register_version(workspace, write_run(workspace, number)) for number in (1, 2, 3))
    promote(workspace, first, "the first")

    def look(before: int, after: int) -> str:
        champion = read_champion(workspace)
        assert champion is not None
        check_version(champion)
        history = read_history(workspace)
        assert [change.order for change in history] == list(range(1, len(history) + 1))
        differences = check_audit_log(workspace)  # what the killed process did not get to write
        assert all("was killed" in it or "decisions.json" in it for it in differences), differences
        assert champion.number in (before, after)
        state = "old" if champion.number == before else "new"
        if state == "new":
            roll_back(workspace, before, reason="again")
            assert check_audit_log(workspace) == []
        return state

    counts = {"promote": kill_everywhere(lambda: promote(workspace, second, "better"), lambda: look(1, 2))}
    promote(workspace, third, "better still")
    counts["roll_back"] = kill_everywhere(lambda: roll_back(workspace, 1, reason="worse"), lambda: look(3, 1))

    run = write_run(workspace, 4)

    def look_at_versions() -> str:
        versions = list_versions(workspace)
        for version in versions:
            check_version(version)
        if len(versions) == 3:
            return "old"
        shutil.rmtree(versions[3].folder)
        return "new"

    counts["register"] = kill_everywhere(lambda: register_version(workspace, run), look_at_versions)
    register_version(workspace, run)
    leftovers = [path.name for path in workspace.versions_folder.iterdir() if path.name.startswith(".")]
    assert not leftovers, leftovers
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
