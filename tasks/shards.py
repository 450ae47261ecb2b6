"""Spreading a step over items, such as the shards of the manifest: one task run each, several at a time."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from prefect import Task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.context import TaskRunContext
from prefect.filesystems import LocalFileSystem
from prefect.serializers import JSONSerializer

from hip_mri.dataset.shards import Shard
from hip_mri.storage import digest
from hip_mri.workspace import Workspace
from tasks.progress import show_progress
from tasks.retries import STORAGE_RETRIES
from tasks.task_runners.runner import Runner

SERIALIZER: Final = JSONSerializer()
"""How results are kept: plain data, which cannot run when it is loaded."""

NOT_IN_KEY: Final = ("shard", "num_threads")
"""Parameters that stay out of the cache's key: a shard stands there by its digest; threads change no output, and
clusters differ in them."""


def map_over_shards(
    task: Task[..., Any], shards: Sequence[Shard], workspace: Workspace, runner: Runner, **parameters: Any
) -> list[Any]:
    """Run a task once per shard, several at a time, and wait for all of them.

    Args:
        task: Takes `shard`, `workspace` and the parameters.
        shards: The work.
        workspace: Its `cache` folder keeps the records of finished task runs.
        runner: What computes the task runs.
        **parameters: The same for every shard.

    Returns:
        The results, in the order of the shards.

    Raises:
        Exception: What the first failed task run raised, after all have ended.
    """
    recorded = task.with_options(result_storage=workspace.cache_folder)
    shared = {"workspace": workspace, **parameters}
    return map_over(recorded, "shard", shards, runner, "images", lambda shard: shard.num_images, **shared)


def map_over(
    task: Task[..., Any],
    parameter: str,
    items: Sequence[Any],
    runner: Runner,
    unit: str = "done",
    count: Callable[[Any], int] = lambda item: 1,
    **shared: Any,
) -> list[Any]:
    """Run a task once per item, several at a time, and wait for all of them.

    Args:
        task: Takes an item and the shared parameters.
        parameter: Name of the item among the task's parameters.
        items: The work.
        runner: What computes the task runs.
        unit: What progress is counted in, for the reader.
        count: How much of it an item is.
        **shared: The same for every item.

    Returns:
        The results, in the order of the items.

    Raises:
        Exception: What the first failed task run raised, after all have ended.
    """
    if not items:
        return []
    total, done = sum(map(count, items)), 0
    with show_progress(task.name.replace("_", "-"), f"{task.name}: {unit}") as update:
        futures = {runner.submit(task, {parameter: item, **shared}): item for item in items}
        for future in runner.wait(list(futures)):
            done += count(futures[future])
            update(done, total)
    return [runner.read_result(future) for future in futures]


def shard_options(is_complete: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Options of every task that handles a shard: not run again while its outputs are there, tried again on a bad disk.

    Args:
        is_complete: Tells from a task's parameters whether all its outputs are there.
    """
    return {
        "cache_policy": cache_while_complete(is_complete),
        "persist_result": True,
        "result_serializer": SERIALIZER,
        **STORAGE_RETRIES,
    }


def cache_while_complete(is_complete: Callable[[dict[str, Any]], bool]) -> CacheKeyFnPolicy:
    """Make a cache policy that looks at the outputs, not only at Prefect's record of a finished run.

    The key is made of the shard's content and the other parameters. Where outputs have gone since, the record is
    forgotten and the task runs again; so is a record that is torn or not as this project writes it.

    Args:
        is_complete: Tells from a task's parameters whether all its outputs are there.
    """

    def find_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
        others = {name: repr(value) for name, value in parameters.items() if name not in NOT_IN_KEY}
        key = digest([context.task.name, parameters["shard"].digest, others])
        if not (_is_sound(context, key) and is_complete(parameters)):
            _forget(context, key)
        return key

    return CacheKeyFnPolicy(cache_key_fn=find_key)


def _is_sound(context: TaskRunContext, key: str) -> bool:
    """Whether the record, where there is one, is whole and plain JSON.

    Prefect writes it in place, so a killed run can tear it; and it loads by whatever serializer the record itself
    names: pickle, or JSON with any function as its decoder.
    """
    storage = context.result_store.result_storage
    if not (isinstance(storage, LocalFileSystem) and storage.basepath):
        return True
    try:
        record = json.loads(Path(storage.basepath, key).read_bytes())
        return record["metadata"]["serializer"] == SERIALIZER.model_dump(mode="json")
    except FileNotFoundError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _forget(context: TaskRunContext, key: str) -> None:
    storage = context.result_store.result_storage
    if isinstance(storage, LocalFileSystem) and storage.basepath:
        Path(storage.basepath, key).unlink(missing_ok=True)
