"""Options that tasks share: tags, retries and caching."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from prefect.cache_policies import NO_CACHE, CacheKeyFnPolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.filesystems import LocalFileSystem
from prefect.serializers import JSONSerializer
from prefect.tasks import Task, exponential_backoff

from hip_mri.disk_errors import is_unrecoverable
from hip_mri.errors import FetchError, WorkspaceError
from hip_mri.hashes import digest
from tasks.progress import log_start

GPU_TAG: Final = "gpu"
"""Marks tasks that compute a network. With Dask they run on a worker that has a GPU, where there is one."""

SERIALIZER: Final = JSONSerializer()
"""Results are stored as plain data; unlike a pickle, it runs no code when it is loaded."""

NOT_IN_KEY: Final = ("shard", "num_threads")
"""Parameters that are not part of a cache key as they are: a shard is represented by its digest, and the number of
threads, which differs between clusters, changes no output."""


def _retry_on(*errors: type[Exception], retries: int) -> dict[str, Any]:
    def can_succeed(task: Task[..., Any], task_run: TaskRun, state: State) -> bool:  # noqa: ARG001 - Prefect's signature
        error = state.result(raise_on_failure=False)
        return isinstance(error, errors) and not is_unrecoverable(error)

    return {
        "retries": retries,
        "retry_delay_seconds": exponential_backoff(backoff_factor=2),
        "retry_jitter_factor": 0.5,
        "retry_condition_fn": can_succeed,
    }


CALLED: Final[dict[str, Any]] = {"cache_policy": NO_CACHE, "on_running": [log_start]}
"""For a task that the flow calls: it runs in the process of the flow, and its outputs make repeated work cheap."""

FETCH: Final[dict[str, Any]] = {**CALLED, **_retry_on(FetchError, retries=4)}
"""For a called task that reads from elsewhere: retries after about 2, 4, 8 and 16 seconds."""

NETWORK: Final[dict[str, Any]] = {"cache_policy": NO_CACHE, "tags": [GPU_TAG]}
"""For a task that computes a network: the flow submits it, and the task runner decides where it runs."""


def cache_shards(is_complete: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Options of a task that is mapped over shards: it is skipped while its outputs exist, and retried on disk errors.

    The cache policy checks the outputs of a task run, not only Prefect's record of it. The key is made of the shard's
    content and the other parameters. A record is deleted, so that the task runs again, where outputs are missing, or
    where the record is truncated or was not written by this project.

    Args:
        is_complete: Whether all outputs of a task run exist, given its parameters.
    """

    def compute_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
        others = {name: repr(value) for name, value in parameters.items() if name not in NOT_IN_KEY}
        key = digest([context.task.name, parameters["shard"].digest, others])
        storage = context.result_store.result_storage
        if isinstance(storage, LocalFileSystem) and storage.basepath:
            record = Path(storage.basepath, key)
            if not (_is_valid(record) and is_complete(parameters)):
                record.unlink(missing_ok=True)
        return key

    return {
        "cache_policy": CacheKeyFnPolicy(cache_key_fn=compute_key),
        "persist_result": True,
        "result_serializer": SERIALIZER,
        **_retry_on(WorkspaceError, OSError, retries=2),  # not on a disk that is full or broken
    }


def _is_valid(record: Path) -> bool:
    """Whether a record is complete and plain JSON, or does not exist.

    Prefect does not write it atomically, so a killed run can truncate it. And Prefect loads it by the serializer that
    the record itself names: pickle, or JSON with any function as its decoder.
    """
    try:
        return json.loads(record.read_bytes())["metadata"]["serializer"] == SERIALIZER.model_dump(mode="json")
    except FileNotFoundError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False
