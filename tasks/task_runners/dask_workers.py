"""Warns in the log of a flow run of workers that end while it uses them."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from distributed import Client

logger = logging.getLogger("hip_mri.cluster")

TOPIC: Final = "all"
"""Topic of a Dask scheduler for events of the whole cluster, such as workers that join and leave."""


@contextmanager
def report_lost_workers(client: Client, flow_run_id: str, task_names: Mapping[str, str]) -> Iterator[None]:
    """Log a warning for each worker that ends while the block lasts, unless it was stopped in order.

    Args:
        client: Connected to the cluster.
        flow_run_id: Flow run whose log receives the warnings.
        task_names: Name of the task by Dask's key, for each task run of the flow run; may grow meanwhile.
    """
    names = {address: worker["name"] for address, worker in client.scheduler_info()["workers"].items()}

    def report(event: tuple[float, dict[str, Any]]) -> None:
        _, message = event
        if message.get("action") == "remove-worker" and not message["expected"]:
            lost = {*message["processing-tasks"], *message["lost-computed-tasks"]}
            repeated = describe_repeated(task_names[key] for key in lost if key in task_names)
            address = message["worker"]
            name = names.get(address, address)  # by default the name is the address
            place = "" if name == address else f" at {address}"
            # By the id Prefect's handler assigns the line to the flow run.
            logger.warning("Dask worker %s%s ended. %s", name, place, repeated, extra={"flow_run_id": flow_run_id})

    client.subscribe_topic(TOPIC, report)
    try:
        yield
    finally:
        with suppress(OSError, RuntimeError, ValueError):  # the scheduler may have ended
            client.unsubscribe_topic(TOPIC)


def describe_repeated(task_names: Iterator[str]) -> str:
    """Describe what other workers repeat, such as `Other workers repeat: 2 x preprocess_images.`."""
    counted = ", ".join(f"{count} x {name}" for name, count in sorted(Counter(task_names).items()))
    return f"Other workers repeat: {counted}." if counted else "It had no task run of this flow run."
