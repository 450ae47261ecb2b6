"""Trying again, where that can help."""

from collections.abc import Callable
from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from hip_mri.errors import FetchError, WorkspaceError
from hip_mri.storage import is_unrecoverable


def _failed_by(*kinds: type[Exception]) -> Callable[[Task[..., Any], TaskRun, State], bool]:
    def is_worth_retrying(task: Task[..., Any], run: TaskRun, state: State) -> bool:
        error = state.result(raise_on_failure=False)
        return isinstance(error, kinds) and not is_unrecoverable(error)

    return is_worth_retrying


NETWORK_RETRIES: dict[str, Any] = {
    "retries": 4,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _failed_by(FetchError),
}
"""For a step that reads from elsewhere: waits of about 2, 4, 8 and 16 seconds."""

STORAGE_RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _failed_by(WorkspaceError, OSError),
}
"""For a shard that reads and writes many files, perhaps on a network disk; a full or broken disk is not tried again."""
