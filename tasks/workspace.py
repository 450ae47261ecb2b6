"""Locks a workspace for a flow run. Contexts rather than tasks, since they last for the whole flow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hip_mri.workspace import LOCK_TIMEOUT_SECONDS, Workspace


@contextmanager
def hold_workspace(folder: Path, timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> Iterator[Workspace]:
    """Open a workspace that no other run trains in meanwhile."""
    workspace = Workspace.at(folder)
    with workspace.hold(timeout_seconds):
        yield workspace


@contextmanager
def hold_serving(folder: Path) -> Iterator[Workspace]:
    """Open a workspace in which no other run scores new images meanwhile; another run may train."""
    workspace = Workspace.at(folder)
    with workspace.hold_serving():
        yield workspace
