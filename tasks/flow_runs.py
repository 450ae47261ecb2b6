"""The workspace, the name and the final state of a flow run."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from hip_mri.storage import find_next_folder
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


def name_flow_run(parent: Path) -> None:
    """Name the current flow run by the date and the folder that it will write, such as `2026-11-28 runs/0004`.

    A Prefect template for the name knows the parameters only. The number is reserved by the lock of the workspace.

    Args:
        parent: Folder of the numbered folders, such as `runs`.
    """
    today = datetime.now().astimezone().date()
    with get_client(sync_client=True) as client:
        client.set_flow_run_name(UUID(flow_run.id), f"{today} {parent.name}/{find_next_folder(parent).name}")


def complete_with(folder: str) -> State[str]:
    """The final state of a flow run whose result and message are the folder that it has written."""
    return Completed(message=folder, data=folder)
