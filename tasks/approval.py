"""Asks for manual approval of a model that has passed the gate."""

import logging
from typing import Final

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from hip_mri.config import RetrainSettings
from hip_mri.promotion.challenge import Answer, Challenge
from hip_mri.promotion.retraining_report import describe_comparison

logger = logging.getLogger("hip_mri.tasks")

POLL_INTERVAL_SECONDS: Final = 10
"""How often the server is asked whether the flow run was resumed."""


class Approval(RunInput):
    """The form in the Prefect UI."""

    promote: bool = Field(default=False, description="Whether the new model becomes the champion.")
    reason: str = Field(default="", description="Why; stored with the version.")


def ask_for_approval(challenge: Challenge, settings: RetrainSettings) -> Answer:
    """Pause the flow run for manual approval, where the settings ask for it and the gate was passed.

    The Prefect UI shows the comparison, and a form under `Resume`. The caller does not hold the workspace meanwhile.

    Args:
        challenge: Decision of the gate.
        settings: Whether to ask, and how long to wait.

    Returns:
        The answer; automatic approval if approval is not required, and no decision where no answer came in time.
    """
    if settings.approval == "automatic" or challenge.is_serving or not challenge.decision.promote:
        return Answer()
    logger.info(
        "Waiting up to %g hours for approval: Resume, on the page of this run in the Prefect UI",
        settings.approval_timeout_hours,
    )
    form = Approval.with_initial_data(description=describe_comparison(challenge))
    try:
        given = pause_flow_run(
            wait_for_input=form,
            timeout=round(settings.approval_timeout_hours * 3600),
            poll_interval=POLL_INTERVAL_SECONDS,
        )
    except FlowPauseTimeout:
        return Answer(promote=None)
    action = "promote" if given.promote else "keep the champion"
    return Answer(given.promote, f"{action}: {given.reason}" if given.reason else action)
