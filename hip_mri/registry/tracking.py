"""Logs runs to MLflow and marks the champion there.

MLflow gets a copy of what a run may show: no table of images, no name of a file. The workspace stays the record of
champions, comparisons and hashes, so an MLflow server that does not answer costs a run some seconds and nothing else.
MLflow runs in a process of its own, since it reads its time limits from the environment of the whole process, and since
only a process can be ended whatever it waits for.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hip_mri.addresses import show_place, strip_credentials_in_text
from hip_mri.config import TrackingSettings
from hip_mri.errors import SettingsError, TrackingError
from hip_mri.hashes import find_changed
from hip_mri.registry.champion import read_champion
from hip_mri.registry.registration import check_run
from hip_mri.registry.versions import Version, check_version
from hip_mri.workspace import Workspace

CLIENT: Final = (sys.executable, "-P", "-m", "hip_mri.registry.mlflow_client")

GRACE_SECONDS: Final = 5.0
"""Time for the client to end by itself after its time limit, before it is killed."""

ENVIRONMENT: Final = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds; a server that runs answers in a tenth of one
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # else a server could let the client wait for hours
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""MLflow's settings for the client."""

MAX_CAUSE_LENGTH: Final = 300
"""Longest cause in a message, in characters; some of MLflow's messages repeat a whole web page."""


def check_tracking(settings: TrackingSettings, *, is_needed: bool = False) -> None:
    """Check that MLflow is installed, if runs are logged to it.

    Args:
        settings: With or without an address.
        is_needed: Whether an address must be given.

    Raises:
        SettingsError: MLflow is not installed, or the address is missing.
    """
    if is_needed and settings.mlflow_uri is None:
        raise SettingsError("tracking.mlflow_uri: no address is given. Give it with --tracking.mlflow-uri.")
    if settings.mlflow_uri and importlib.util.find_spec("mlflow") is None:
        raise SettingsError(
            "tracking.mlflow_uri: an address is given, and MLflow is not installed. Install the extra, "
            "pip install -e '.[mlflow]', or leave out the address."
        )


def track_run(run_folder: Path, settings: TrackingSettings) -> str:
    """Log a finished run to MLflow.

    A run that is there already is not logged again, and a partly logged one is completed.

    Args:
        run_folder: Such as `workspace/runs/0003`.
        settings: Address, name and time limit.

    Returns:
        Address of the run in MLflow.

    Raises:
        TrackingError: MLflow does not take the run.
        ReleaseError: The folder is not a finished run, or a file of it was changed.
    """
    check_run(run_folder)
    failure = (
        f"run {run_folder.name} is finished, but was not logged completely",
        f"log it: hip-mri track {run_folder} --tracking.mlflow-uri ADDRESS",
    )
    return _run_client({"run_folder": str(run_folder), "run_name": run_folder.name}, settings, *failure)


def track_champion(workspace: Workspace, settings: TrackingSettings) -> str | None:
    """Give the champion the alias `champion` in MLflow, where its run is logged first if it is not there yet.

    Args:
        workspace: Whose champion is marked.
        settings: Address, name and time limit.

    Returns:
        Address of its run in MLflow; `None` without a champion.

    Raises:
        TrackingError: MLflow does not take the change.
        ReleaseError: The version of the champion is missing or was changed.
    """
    champion = read_champion(workspace)
    if champion is None:
        return None
    job = {
        "run_folder": str(_find_files(champion, workspace)),
        "run_name": champion.run,
        "version": champion.name,
        "model_sha256": champion.model_sha256,
    }
    failure = (
        f"version {champion.name} is the champion, but was not marked as such",
        f"mark it: hip-mri models track {workspace.root} --tracking.mlflow-uri ADDRESS",
    )
    return _run_client(job, settings, *failure)


def _find_files(version: Version, workspace: Workspace) -> Path:
    """Return the run folder of a version, which also has figures and a report, or the version's if that was changed."""
    run_folder = workspace.runs_folder / version.run
    if not find_changed(run_folder, version.files):
        return run_folder
    check_version(version)
    return version.folder


def _run_client(job: Mapping[str, Any], settings: TrackingSettings, consequence: str, remedy: str) -> str:
    address = settings.mlflow_uri or ""
    options = {**job, "uri": address, "name": settings.name, "timeout_seconds": settings.timeout_seconds}
    answer = _ask_client(options, settings.timeout_seconds + GRACE_SECONDS)
    if "run" in answer:
        return answer["run"]
    cause = strip_credentials_in_text(" ".join(answer["error"].split()))[:MAX_CAUSE_LENGTH]
    raise TrackingError(
        f"tracking: {consequence} in MLflow at {show_place(address)} ({cause}). Check "
        f"the address, and that it can be written, then {remedy}"
    )


def _ask_client(options: Mapping[str, Any], timeout_seconds: float) -> dict[str, str]:
    try:
        done = subprocess.run(
            [*CLIENT, json.dumps(options)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_seconds,
            env={**os.environ, **ENVIRONMENT},
            umask=0o077,  # a database file and its folder hold images of patients
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {timeout_seconds:g} s"}
    except OSError as error:
        return {"error": str(error)}
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": f"the client ended with exit code {done.returncode}"}
