"""What the workers of a cluster must have in common with this process, checked before the work begins."""

import contextlib
import importlib
import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import node
from typing import Any, Final, cast
from uuid import UUID

from distributed import Client
from prefect.client.orchestration import get_client
from prefect.context import SettingsContext
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings

from hip_mri.config import RunnerSettings
from hip_mri.errors import ClusterError, WorkspaceError, list_offenders
from hip_mri.models.keras_settings import describe_keras
from hip_mri.storage import UNFINISHED, digest, digest_file
from hip_mri.workspace import Workspace

SAME_CODE: Final = ("hip_mri", "tasks", "flows")
"""Packages whose source must be the same everywhere, since workers call it by name."""

SAME_VERSIONS: Final = ("prefect", "dask", "distributed", "cloudpickle", "numpy", "pandas", "openvino")
"""Distributions whose version must be the same everywhere: what travels between processes, and what makes figures."""

SECONDS_TO_REACH_SERVER: Final = 10


@dataclass(frozen=True)
class Place:
    """A worker, as the scheduler knows it.

    Attributes:
        address: Where it listens.
        num_slots: Task runs that it takes at the same time.
        resources: Names of the resources that it declares.
    """

    address: str
    num_slots: int
    resources: frozenset[str]


@dataclass(frozen=True)
class Member:
    """A worker, as it describes itself.

    Attributes:
        host: Name of its machine.
        num_cores: Processor cores that it may use.
        versions: What must be the same everywhere.
        workspace_fault: Why it cannot work in the workspace; `None` if it can.
        server_fault: Why it cannot report to the Prefect server; `None` if it can.
        num_slots: See `Place`.
        resources: See `Place`.
    """

    host: str
    num_cores: int
    versions: dict[str, str]
    workspace_fault: str | None = None
    server_fault: str | None = None
    num_slots: int = 1
    resources: frozenset[str] = frozenset()


def list_workers(client: Client) -> list[Place]:
    """Ask the scheduler which workers there are."""
    places = []
    for address, worker in client.scheduler_info()["workers"].items():
        declared = {name: int(amount) for name, amount in worker["resources"].items()}
        num_slots = min([worker["nthreads"], *declared.values()])
        places.append(Place(address, max(1, num_slots), frozenset(declared)))
    return places


def check_workers(client: Client, workspace: Workspace, server_address: str) -> list[Member]:
    """Ask all workers at once whether they can do this run's work.

    Args:
        client: Connected to the cluster.
        workspace: Every worker must read and write it at the same path.
        server_address: Prefect API that every worker must reach.

    Returns:
        The workers, at least one.

    Raises:
        ClusterError: A worker runs other code or other versions, or does not reach the Prefect server.
        WorkspaceError: A worker does not see the workspace.
    """
    with temporary_settings({PREFECT_API_URL: server_address}):
        server = SettingsContext.get().serialize()  # pyright: ignore[reportOptionalMemberAccess]
    with tempfile.TemporaryDirectory(
        prefix=f"{UNFINISHED}shared-", dir=workspace.root, ignore_cleanup_errors=True
    ) as folder:
        token = Path(folder, "token")
        token.write_text(os.urandom(16).hex())
        questions = (token, token.read_text(), server, server_address, str(flow_run.id))
        answers = cast("dict[str, Any]", client.run(describe_member, *questions, on_error="return"))
    failed = [f"{address} ({answer})" for address, answer in answers.items() if isinstance(answer, Exception)]
    if failed:
        raise ClusterError(
            f"runner: workers cannot load this project: {list_offenders(failed)}. "
            "Install the same version of it, with the extra dask, in the environment of every worker."
        )
    places = [place for place in list_workers(client) if place.address in answers]
    members = [replace(answers[p.address], num_slots=p.num_slots, resources=p.resources) for p in places]
    _check_versions(members)
    _check_server(members, server_address)
    _check_workspace(members, workspace)
    return members


def describe_member(
    token_file: Path, token: str, server: dict[str, Any], server_address: str, flow_run_id: str
) -> Member:
    """Describe the process that calls this, a worker.

    Args:
        token_file: A file in the workspace.
        token: What must stand in it.
        server: Prefect's settings, with the address of the server.
        server_address: The same address, for a first attempt that does not wait long.
        flow_run_id: Flow run that the server must know, else it is another one under the same address.
    """
    return Member(
        host=node(),
        num_cores=RunnerSettings().count_threads(),
        versions=list_versions(),
        workspace_fault=_find_fault(lambda: _read_token(token_file, token)),
        server_fault=_find_fault(lambda: _reach_server(server, server_address, flow_run_id)),
    )


def list_versions() -> dict[str, str]:
    """What must be the same everywhere: Python's minor version, the project's source, distributions, Keras's settings.

    Keras's settings contain the environment variables that change what it computes.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    settings = {f"Keras's {name}": str(value) for name, value in describe_keras().items()}
    packages = {name: _find_version(name) for name in SAME_VERSIONS}
    return {"Python": python, "hip-mri": _name_code()} | packages | settings


def _check_versions(members: Sequence[Member]) -> None:
    wanted = list_versions()
    faults = sorted(
        {
            f"{member.host} has {name} {found}, this process {wanted[name]}"
            for member in members
            for name, found in member.versions.items()
            if found != wanted[name]
        }
    )
    if faults:
        raise ClusterError(
            f"runner: workers run other versions: {list_offenders(faults)}. Install the project from the same commit "
            "and the same lock file on every machine, and start the workers again with the same environment variables."
        )


def _check_server(members: Sequence[Member], address: str) -> None:
    if faults := _list_faults({member.host: member.server_fault for member in members}):
        raise ClusterError(
            f"PREFECT_API_URL: workers do not reach this run's Prefect server at {address}: {faults}. "
            "Start a server that all machines reach (prefect server start --host ADDRESS) and set PREFECT_API_URL to "
            "http://ADDRESS:4200/api before you start the pipeline; workers need no setting of their own."
        )


def _check_workspace(members: Sequence[Member], workspace: Workspace) -> None:
    if faults := _list_faults({member.host: member.workspace_fault for member in members}):
        raise WorkspaceError(
            f"workspace: workers do not see {workspace.root} as this machine does: {faults}. "
            "Mount one shared disk at the same path on every machine, writable for the user that runs the workers."
        )


def _list_faults(faults: dict[str, str | None]) -> str:
    return list_offenders([f"{host} ({fault})" for host, fault in sorted(faults.items()) if fault])


def _find_fault(attempt: Callable[[], None]) -> str | None:
    try:
        attempt()
    except Exception as error:  # whatever it is, the flow tells it
        return f"{type(error).__name__}: {error}"
    return None


def _read_token(token_file: Path, token: str) -> None:
    """See the flow's file, and be able to write one beside it."""
    if token_file.read_text() != token:
        raise WorkspaceError("another disk is mounted there")
    token_file.with_name(os.urandom(8).hex()).touch()


def _reach_server(server: dict[str, Any], address: str, flow_run_id: str) -> None:
    with contextlib.suppress(urllib.error.HTTPError):  # then it answers; Prefect's client brings what it asks for
        urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=SECONDS_TO_REACH_SERVER).close()
    with SettingsContext(**server), get_client(sync_client=True) as client:
        client.read_flow_run(UUID(flow_run_id))


def _name_code() -> str:
    """First digits of a digest over the project's source files."""
    sources = []
    for package in SAME_CODE:
        folder = Path(str(importlib.import_module(package).__file__)).parent
        sources += [[package, file.relative_to(folder).as_posix(), digest_file(file)] for file in folder.rglob("*.py")]
    return digest(sorted(sources))[:12]


def _find_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
