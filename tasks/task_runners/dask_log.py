"""Shows log lines of the workers of a cluster where the flow runs.

`distributed.Client.forward_logging` would forward the lines of all flow runs on the cluster, without the ids by which
Prefect assigns a line to its flow run and task run.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, Final

from distributed import Client, Worker, WorkerPlugin
from prefect.context import TaskRunContext

LOGGER: Final = "hip_mri"


@contextlib.contextmanager
def forward_log(client: Client, flow_run_id: str) -> Iterator[None]:
    """Handle the library's log lines in task runs of a flow in this process too, while the block lasts.

    They go through the same loggers as lines of this process: to the terminal, and to the run's log in the UI.

    Args:
        client: Connected to the cluster.
        flow_run_id: Lines of other flow runs on the same cluster are left out.
    """
    topic = f"hip-mri-log-{flow_run_id}"
    client.subscribe_topic(topic, _handle_line)
    client.register_plugin(_ForwardLog(topic, flow_run_id), name=topic)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # the scheduler may have ended
            client.unregister_worker_plugin(topic)
            client.unsubscribe_topic(topic)


class _ForwardLog(WorkerPlugin):
    """Adds the handler to each worker, also to those that join later."""

    def __init__(self, topic: str, flow_run_id: str) -> None:
        self._topic = topic
        self._flow_run_id = flow_run_id

    def setup(self, worker: Worker) -> None:
        self._handler = _TopicHandler(worker, self._topic, self._flow_run_id)
        logging.getLogger(LOGGER).addHandler(self._handler)
        logging.getLogger(LOGGER).setLevel(logging.INFO)

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002 - Dask's signature
        logging.getLogger(LOGGER).removeHandler(self._handler)


class _TopicHandler(logging.Handler):
    def __init__(self, worker: Worker, topic: str, flow_run_id: str) -> None:
        super().__init__(logging.INFO)
        self._worker = worker
        self._topic = topic
        self._flow_run_id = flow_run_id

    def emit(self, record: logging.LogRecord) -> None:
        context = TaskRunContext.get()
        if context is None or str(context.task_run.flow_run_id) != self._flow_run_id:
            return
        line = {
            "name": record.name,
            "levelno": record.levelno,
            "levelname": record.levelname,
            "msg": record.getMessage(),
            "flow_run_id": self._flow_run_id,  # by these two Prefect's handler assigns a line
            "task_run_id": str(context.task_run.id),
        }
        self._worker.log_event(self._topic, line)


def _handle_line(event: tuple[float, dict[str, Any]]) -> None:
    _, line = event
    logger = logging.getLogger(line["name"])
    if logger.isEnabledFor(line["levelno"]):
        logger.handle(logging.makeLogRecord(line))
