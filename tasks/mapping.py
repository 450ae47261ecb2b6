"""Maps a task over shards or folds, and waits for its task runs."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from prefect import Task, unmapped
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFutureList

from hip_mri.dataset.shards import Shard
from hip_mri.workspace import Workspace
from tasks.progress import show_progress
from tasks.task_runners.configured import get_task_runner


def map_shards(task: Task[..., Any], shards: Sequence[Shard], workspace: Workspace, *arguments: Any) -> list[State]:
    """Run a task on every shard, and wait; see `wait_for_all`.

    Args:
        task: Called with a shard, the workspace, the other arguments and the number of threads.
        shards: The images, in parts.
        workspace: Also holds Prefect's records of finished task runs.
        *arguments: The same for every shard.
    """
    num_threads = get_task_runner().threads_per_shard
    recorded = task.with_options(result_storage=workspace.cache_folder)
    futures = recorded.map(shards, unmapped(workspace), *map(unmapped, arguments), unmapped(num_threads))
    return wait_for_all(task, futures, "images", [shard.num_images for shard in shards])


def wait_for_all(task: Task[..., Any], futures: PrefectFutureList[Any], unit: str, sizes: Sequence[int]) -> list[State]:
    """Wait for the task runs of a mapped task, and show how many are done.

    The caller keeps no reference to the futures: as long as there is one, Dask runs a finished task again when the
    worker that holds its result dies, even after later steps have changed the workspace.

    Args:
        task: What was mapped.
        futures: Its task runs.
        unit: What progress is counted in.
        sizes: Of each task run, in that unit.

    Returns:
        The final states, for the parameter `wait_for` of tasks that use what these task runs have written.

    Raises:
        Exception: What the first failed task run raised, after all have ended.
    """
    if futures:
        with show_progress(task.name, unit) as update:
            for future, done in zip(futures, accumulate(sizes), strict=True):
                future.wait()
                update(done, sum(sizes))
    for future in futures:
        future.result()
    return [future.state for future in futures]
