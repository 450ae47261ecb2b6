"""Tasks that log to MLflow; see `hip_mri.registry.tracking`. Without MLflow, the flow goes on."""

import logging
from collections.abc import Callable
from pathlib import Path

from prefect import task
from prefect.client.schemas.objects import State
from prefect.states import Completed

from hip_mri.config import TrackingSettings
from hip_mri.errors import HipMriError
from hip_mri.registry import tracking
from hip_mri.workspace import Workspace
from tasks.options import CALLED

logger = logging.getLogger("hip_mri.tasks")

check_tracking = tracking.check_tracking  # a call at the start of a flow, not a step of it


@task(**CALLED)
def track_run(run_folder: str, settings: TrackingSettings) -> State[None]:
    """See `tracking.track_run`; the state of the task run says whether the run was logged."""
    return _report(lambda: tracking.track_run(Path(run_folder), settings))


@task(**CALLED)
def track_champion(workspace: Workspace, settings: TrackingSettings) -> State[None]:
    """See `tracking.track_champion`; the state of the task run says whether the champion was marked."""
    return _report(lambda: tracking.track_champion(workspace, settings))


def _report(track: Callable[[], str | None]) -> State[None]:
    try:
        place = track()
    except HipMriError as error:
        logger.warning("%s", error)
        return Completed(name="Not tracked", message=str(error))
    message = f"MLflow: {place or 'there is no champion to mark'}"
    logger.info("%s", message)
    return Completed(message=message)
