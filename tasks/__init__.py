"""One thin Prefect task per step of the library: retries, cache, tags, artifacts. No logic."""

import logging


def _is_of_interest(record: logging.LogRecord) -> bool:
    """Whether a line is not one of the two that Prefect logs for each hook that runs without an error."""
    return record.levelno > logging.INFO or "hook '" not in record.getMessage().lower()


logging.getLogger("hip_mri").setLevel(logging.INFO)  # Prefect adds its handler, and leaves the level at warnings
for name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(name).addFilter(_is_of_interest)
