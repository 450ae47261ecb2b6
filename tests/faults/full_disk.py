"""Runs the flow on disks that are too small, checks the error, then frees space and runs it to the end.

`python -m tests.faults.full_disk FOLDER` prints the results as JSON; `--sizes` says on how many disks at most, each
of a size that gives out in another place of the workspace. Needs root, for disks in memory of a given size. Prefect's
own files lie elsewhere, as they do in a team's set-up.
"""

import argparse
import contextlib
import ctypes
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import write_source
from tests.faults import nursery
from tests.faults.kill import run_pipeline
from tests.faults.nursery import Outcome, run_once
from tests.faults.results import find_differences, find_leftovers, hash_results
from tests.small_sources import put_key

PAGE = 4096
"""Bytes that a disk in memory gives out at a time."""

ROOM = 4 << 30
"""Bytes that every run finds enough."""

CLONE_NEWNS = 0x00020000
"""The flag of unshare(2) for a mount namespace; see linux/sched.h. `os.unshare` needs Python 3.12."""


def enter_own_mount_namespace() -> None:
    """Makes disks visible to this process and its children only: they vanish with it, also when it is killed."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "no mount namespace of its own")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


@contextlib.contextmanager
def mount_disk(folder: Path, num_bytes: int) -> Iterator[Path]:
    """A disk in memory."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "hip-mri-test", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def resize_disk(folder: Path, num_bytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={num_bytes}", str(folder)], check=True)


def can_mount(folder: Path) -> bool:
    """Whether this user may mount disks; containers often forbid it even to root."""
    try:
        with mount_disk(folder / "probe", 1 << 20):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def choose_sizes(workspace: Path, count: int) -> list[int]:
    """Sizes that give out at the first and the middle file of each place of a finished workspace, or at some."""
    by_inode = {file.stat().st_ino: file for file in sorted(workspace.rglob("*")) if file.is_file()}
    places: dict[str, list[int]] = {}
    used = 0
    for file in sorted(by_inode.values(), key=lambda file: file.stat().st_mtime_ns):
        if size := math.ceil(file.stat().st_size / PAGE) * PAGE:
            places.setdefault(file.relative_to(workspace).parts[0], []).append(max(used, PAGE))  # 0 is no bound
            used += size
    sizes = sorted({level for levels in places.values() for level in (levels[0], levels[len(levels) // 2])})
    count = min(count, len(sizes))
    return [sizes[number * len(sizes) // count] for number in range(count)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", type=int, default=100)
    given = parser.parse_args(arguments)
    enter_own_mount_namespace()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    source = write_source(folder / "hip.zip")
    reported, wrong = [], []
    with nursery.serve_prefect(nursery.empty(folder / "prefect")):
        nursery.load_everything()

        def run(workspace: Path) -> Outcome:
            return run_once(lambda: run_pipeline(source, workspace), folder / "workspace")

        with mount_disk(folder / "disk", ROOM) as disk:
            undisturbed = run(start(disk))
            if undisturbed.status:
                raise RuntimeError(f"the undisturbed run failed\n{undisturbed.log}")
            expected, sizes = hash_results(disk / "workspace"), choose_sizes(disk / "workspace", given.sizes)
        for size in sizes:
            with mount_disk(folder / "disk", size) as disk:
                refused = run(start(disk))
                resize_disk(disk, ROOM)
                ended = run(disk / "workspace")
                different = find_differences(expected, hash_results(disk / "workspace"))
                said = (refused.log.strip().splitlines() or [""])[-1]
                reported.append(
                    {"size": size, "status": refused.status, "said": said, "seconds": round(refused.seconds)}
                )
                if refused.status != 1 or "hip_mri.errors.DiskError" not in said:
                    wrong.append(f"{size}: {refused.log[-3000:]}")
                wrong += [f"{size}: {ended.log[-2000:]}"] if ended.status else []
                wrong += [f"{size}: {name}" for name in different + find_leftovers(disk / "workspace")]
                print(json.dumps(reported[-1]), len(wrong), file=sys.stderr, flush=True)
    print(json.dumps({"reported": reported, "wrong": wrong}))
    return 1 if wrong else 0


def start(disk: Path) -> Path:
    workspace = nursery.empty(disk / "workspace")
    put_key(workspace)
    return workspace


if __name__ == "__main__":
    sys.exit(main())
