"""Checks that the workers of a Dask cluster can do the work of a run, before it begins."""

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
from hip_mri.hashes import digest, digest_file
from hip_mri.models.keras_settings import describe_keras
from hip_mri.storage import UNFINISHED
from hip_mri.workspace import Workspace

SAME_CODE: Final = ("hip_mri", "tasks", "flows")
"""Packages whose source must be the same everywhere, since workers call it by name."""

SAME_VERSIONS: Final = ("prefect", "dask", "distributed", "cloudpickle", "numpy", "pandas", "openvino")
"""Distributions whose version must be the same everywhere: those that serialize objects, and those that compute."""

SERVER_TIMEOUT_SECONDS: Final = 10


@dataclass(frozen=True)
class Member:
    """A worker.

    Attributes:
        host: Name of its machine.
        num_cores: Processor cores that it may use.
        versions: See `list_versions`.
        workspace_fault: Why it cannot work in the workspace; `None` if it can.
        server_fault: Why it cannot report to the Prefect server; `None` if it can.
        num_slots: Task runs that it takes at the same time, as the scheduler says.
        resources: Names of the resources that it declares, as the scheduler says.
    """

    host: str
    num_cores: int
    versions: dict[str, str]
    workspace_fault: str | None = None
    server_fault: str | None = None
    num_slots: int = 1
    resources: frozenset[str] = frozenset()


def check_workers(client: Client, workspace: Workspace, server_address: str) -> list[Member]:
    """Check all workers at once.

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
        settings = SettingsContext.get().serialize()  # pyright: ignore[reportOptionalMemberAccess]
    with tempfile.TemporaryDirectory(
        prefix=f"{UNFINISHED}shared-", dir=workspace.root, ignore_cleanup_errors=True
    ) as folder:
        token = Path(folder, "token")
        token.write_text(os.urandom(16).hex())
        arguments = (token, token.read_text(), settings, server_address, str(flow_run.id))
        answers = cast("dict[str, Any]", client.run(describe_member, *arguments, on_error="return"))
    failed = [f"{address} ({answer})" for address, answer in answers.items() if isinstance(answer, Exception)]
    if failed:
        raise ClusterError(
            f"runner: workers cannot load this project: {list_offenders(failed)}. "
            "Install the same version of it, with the extra dask, in the environment of every worker."
        )
    members = []
    for address, worker in client.scheduler_info()["workers"].items():
        if address in answers:
            num_slots = max(1, min([worker["nthreads"], *map(int, worker["resources"].values())]))
            members.append(replace(answers[address], num_slots=num_slots, resources=frozenset(worker["resources"])))
    _check_versions(members)
    if faults := _list_faults({member.host: member.server_fault for member in members}):
        raise ClusterError(
            f"PREFECT_API_URL: workers do not reach this run's Prefect server at {server_address}: {faults}. "
            "Start a server that all machines reach (prefect server start --host ADDRESS) and set PREFECT_API_URL to "
            "http://ADDRESS:4200/api before you start the pipeline; workers need no setting of their own."
        )
    if faults := _list_faults({member.host: member.workspace_fault for member in members}):
        raise WorkspaceError(
            f"workspace: workers do not see {workspace.root} as this machine does: {faults}. "
            "Mount one shared disk at the same path on every machine, writable for the user that runs the workers."
        )
    return members


def _check_versions(members: Sequence[Member]) -> None:
    expected = list_versions()
    faults = {
        f"{member.host} has {name} {found}, this process {expected[name]}"
        for member in members
        for name, found in member.versions.items()
        if found != expected[name]
    }
    if faults:
        raise ClusterError(
            f"runner: workers run other versions: {list_offenders(sorted(faults))}. Install the project from the same "
            "commit and the same lock file on every machine, and start the workers again with the same environment "
            "variables."
        )


def _list_faults(faults: dict[str, str | None]) -> str:
    return list_offenders([f"{host} ({fault})" for host, fault in sorted(faults.items()) if fault])


def describe_member(
    token_file: Path, token: str, settings: dict[str, Any], server_address: str, flow_run_id: str
) -> Member:
    """Describe the process that calls this, a worker.

    Args:
        token_file: A file in the workspace.
        token: Its expected content.
        settings: Prefect's settings, with the address of the server.
        server_address: The same address, for a first request with a short timeout.
        flow_run_id: Flow run that the server must know; otherwise it is another server under the same address.
    """

    def reach_workspace() -> None:
        if token_file.read_text() != token:
            raise WorkspaceError("another disk is mounted there")
        token_file.with_name(os.urandom(8).hex()).touch()

    def reach_server() -> None:
        with contextlib.suppress(urllib.error.HTTPError):  # an answer, such as that a password is needed
            urllib.request.urlopen(f"{server_address.rstrip('/')}/health", timeout=SERVER_TIMEOUT_SECONDS).close()
        with SettingsContext(**settings), get_client(sync_client=True) as client:
            client.read_flow_run(UUID(flow_run_id))

    return Member(
        host=node(),
        num_cores=RunnerSettings().count_threads(),
        versions=list_versions(),
        workspace_fault=_find_fault(reach_workspace),
        server_fault=_find_fault(reach_server),
    )


def _find_fault(attempt: Callable[[], None]) -> str | None:
    try:
        attempt()
    except Exception as error:  # of any kind: it becomes part of the message
        return f"{type(error).__name__}: {error}"
    return None


def list_versions() -> dict[str, str]:
    """What must be the same everywhere: Python's minor version, the project's source, distributions, Keras's settings.

    Keras's settings contain the environment variables that change what it computes.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    settings = {f"Keras's {name}": str(value) for name, value in describe_keras().items()}
    packages = {name: _find_version(name) for name in SAME_VERSIONS}
    return {"Python": python, "hip-mri": digest_code()} | packages | settings


def digest_code() -> str:
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
