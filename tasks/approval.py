"""A person's word on a model that has passed the gate."""

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

SECONDS_BETWEEN_LOOKS: Final = 10
"""How often the server is asked whether the answer has come."""


class Approval(RunInput):
    """The form in the Prefect UI."""

    promote: bool = Field(default=False, description="Whether the new model becomes the champion.")
    reason: str = Field(default="", description="Why; it is kept with the version.")


def ask_for_approval(challenge: Challenge, settings: RetrainSettings) -> Answer:
    """Ask a person, where that is wanted and there is something to decide.

    The flow run pauses: the Prefect UI shows the comparison, and a form under `Resume`. The workspace is free
    meanwhile.

    Args:
        challenge: What the gate said.
        settings: Whether to ask, and how long to wait.

    Returns:
        The answer; an automatic yes where nobody is asked.
    """
    if settings.approval == "automatic" or challenge.is_serving or not challenge.decision.promote:
        return Answer()
    logger.info(
        "Waiting up to %g hours for a person: Resume, on the page of this run in the Prefect UI",
        settings.approval_timeout_hours,
    )
    form = Approval.with_initial_data(description=describe_comparison(challenge))
    try:
        given = pause_flow_run(
            wait_for_input=form,
            timeout=round(settings.approval_timeout_hours * 3600),
            poll_interval=SECONDS_BETWEEN_LOOKS,
        )
    except FlowPauseTimeout:
        return Answer(promote=None)
    choice = "promote" if given.promote else "keep the champion"
    return Answer(given.promote, f"{choice}: {given.reason}" if given.reason else choice)
