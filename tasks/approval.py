"""Asks for manual approval of a model that has passed the gate; no process waits for the answer."""

import logging
import shlex
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Completed
from pydantic import Field

from hip_mri.errors import ReleaseError
from hip_mri.promotion.comparison_records import APPROVAL, ComparedRetraining, find_comparison_of_flow_run
from hip_mri.promotion.conclusion import Answer
from hip_mri.registry.audit import find_system_user
from hip_mri.workspace import Workspace

logger = logging.getLogger("hip_mri.tasks")

NOT_BLANK: Final = r"\S"


class Approval(RunInput):
    """The form in the Prefect UI."""

    decision: Literal["promote", "decline"] = Field(description="Whether the new model becomes the champion.")
    reason: str = Field(pattern=NOT_BLANK, description="Why. Stored with the version and in the audit log.")
    name: str = Field(
        pattern=NOT_BLANK, description="Your name. Prefect's open-source server does not know who answers."
    )


def find_suspended(workspace: Path) -> ComparedRetraining | None:
    """Find the comparison that this flow run made before it was suspended; `None` at its first start.

    Raises:
        ReleaseError: The flow run was suspended, but its comparison is missing or cannot be read. It must not train
            again, since the answer applies to the model of that comparison.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    at = Workspace.at(workspace)
    compared = find_comparison_of_flow_run(at, str(context.flow_run.id))
    if compared is None and context.flow_run.empirical_policy.pause_keys:
        raise ReleaseError(
            f"release: this flow run was suspended for approval, but {at.comparisons_folder} has no readable "
            "comparison of it; warnings above name those that cannot be read. Restore the folder from a backup and "
            "retry this flow run, or start the retraining again as a new flow run."
        )
    return compared


def is_resumed(compared: ComparedRetraining) -> bool:
    """Whether a flow run that asked for approval was resumed with an answer and has yet to apply it."""
    runs = FlowRunFilterId(any_=[UUID(run) for run in compared.flow_runs])
    states = FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING])
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(id=runs, state=FlowRunFilterState(type=states)), limit=1
        )
    return bool(found)


def find_starter() -> str:
    """Name who started this flow run: Prefect's user, schedule or automation where it knows one, else the system's."""
    context = FlowRunContext.get()
    creator = context.flow_run.created_by if context and context.flow_run else None
    name = creator and creator.display_value
    return f"{name} (Prefect)" if name else find_system_user()


def ask_for_approval(workspace: Path, compared: ComparedRetraining, timeout_hours: float) -> Answer | State[str]:
    """Ask a person, in the Prefect UI if this flow run has a deployment.

    Such a flow run is suspended: its process ends. When a person has filled in the form, a worker starts the flow run
    again from the top, and the answer is returned here. Other flow runs end, and a person decides by a command.

    Args:
        workspace: Its folder.
        compared: What the person decides on.
        timeout_hours: Time to answer in the Prefect UI; Prefect then fails the flow run.

    Returns:
        The answer, or the final state of a flow run that ends without one.
    """
    context = FlowRunContext.get()
    flow_run = context and context.flow_run
    version, description = compared.challenge.challenger.name, compared.folder / APPROVAL
    command = f"hip-mri models approve {shlex.quote(str(workspace))} {version} --reason '...'"
    question = f"Version {version} awaits approval. Read {description}"
    if flow_run is None or flow_run.deployment_id is None or flow_run.parent_task_run_id is not None:
        message = f"{question}, then: {command}, or decline instead of approve"
        logger.info("%s", message)
        return Completed(name="Awaiting approval", message=message, data=message)
    logger.info("%s, or Resume on the page of this flow run in the Prefect UI; or: %s", question, command)
    form = Approval.with_initial_data(description=description.read_text())
    timeout_seconds = round(timeout_hours * 3600)
    # Prefect returns an earlier answer to the same key, so that the key names what the answer is about.
    key = f"approval-{compared.folder.name}-{compared.challenge.challenger.model_sha256}"
    given = suspend_flow_run(wait_for_input=form, timeout=timeout_seconds, key=key)
    return Answer(given.decision == "promote", given.reason, given.name)
