"""Runs flows in processes that can be killed at a given step or moment.

A process that has loaded everything forks one child per run, so that a run costs no start-up; they share one Prefect
server. Each child reports the steps that it reaches in `hip_mri.storage`, and can be made to die at one of them.
"""

import contextlib
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from tests.flows.servers import make_prefect

_TEMPORARY = re.compile(r"/\.hip-mri-([^/]+)-[a-z0-9_]{8}(?=/|$)")
_HEAT_MAPS = re.compile(r"^/explanations/[0-9a-f]{16}")
"""Named by the hash of a Keras file, which contains the time: another name in each training."""
"""A folder that `publish_folder` is filling; its name is random."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        steps: What it reached, in order, as `step path`.
        killed_at: The step at which it killed itself; `None` where it ended otherwise.
        status: Exit status, negative for a signal.
        seconds: How long it took.
        log: What it said.
    """

    steps: list[str]
    killed_at: str | None
    status: int
    seconds: float
    log: str


@contextlib.contextmanager
def serve_prefect(home: Path) -> Iterator[None]:
    """One Prefect server for all runs; to be opened before Prefect is imported, which reads the environment then."""
    prefect = make_prefect(home)
    settings = {name: value for name, value in prefect.environment.items() if name.startswith("PREFECT_")}
    os.environ |= settings | {"PREFECT_LOGGING_TO_API_ENABLED": "false", "DO_NOT_TRACK": "1"}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server must not outlive this process
    with prefect.serve():
        yield


def load_everything() -> None:
    """Import what a run needs; nothing of it starts a thread before the first run."""
    import cv2  # noqa: F401
    import keras  # noqa: F401
    import openvino  # noqa: F401
    import sklearn.linear_model  # noqa: F401

    import flows.pipeline
    import flows.retrain  # noqa: F401
    import hip_mri.evaluation.explain
    import hip_mri.evaluation.run  # noqa: F401


def run_once(
    act: Callable[[], object],
    workspace: Path,
    die_at: Set[str] = frozenset(),
    die_after_seconds: float | None = None,
) -> Outcome:
    """Let a child do something, and perhaps kill it.

    Args:
        act: What the child does.
        workspace: Its paths stand in the steps relative to this folder.
        die_at: The child kills itself at the first of these steps that it reaches.
        die_after_seconds: The child is killed after so long, if it is still alive.
    """
    trace = workspace.with_name(f"{workspace.name}.trace")
    log = workspace.with_name(f"{workspace.name}.log")
    trace.unlink(missing_ok=True)
    start = time.monotonic()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _be_the_child(act, workspace, trace, log, die_at)
    status = _wait(child, die_after_seconds)
    steps = trace.read_text().splitlines() if trace.exists() else []
    is_at_step = bool(steps) and steps[-1].startswith("KILLED ")
    killed_at = steps.pop().removeprefix("KILLED ") if is_at_step else None
    return Outcome(steps, killed_at, status, time.monotonic() - start, log.read_text(errors="replace"))


def _wait(child: int, seconds: float | None) -> int:
    end = None if seconds is None else time.monotonic() + seconds
    try:
        while True:
            done, status = os.waitpid(child, os.WNOHANG if end else 0)
            if done:
                return os.waitstatus_to_exitcode(status)
            if end and time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                end = None
            time.sleep(0.01)
    except BaseException:  # a stop of the harness must not leave a run behind
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise


def _be_the_child(act: Callable[[], object], workspace: Path, trace: Path, log: Path, die_at: Set[str]) -> None:
    """Never returns."""
    status = 1
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        _watch_steps(workspace, os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), die_at)
        act()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _watch_steps(workspace: Path, trace: int, die_at: Set[str]) -> None:
    from hip_mri import storage

    root = f"{workspace.resolve()}/"

    def reached(step: str, path: Path) -> None:
        name = _TEMPORARY.sub(r"/\1", f"/{str(path).removeprefix(root)}")
        name = _HEAT_MAPS.sub("/explanations/HASH", name)[1:]
        line = f"{step} {name}"
        if line in die_at:
            os.write(trace, f"KILLED {line}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(trace, f"{line}\n".encode())

    storage._reached = reached


def empty(folder: Path) -> Path:
    """A folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
