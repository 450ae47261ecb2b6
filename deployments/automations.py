"""What the Prefect server does by itself: a flow run that fell silent is marked as crashed."""

from datetime import timedelta
from typing import Final

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

NAME: Final = "Mark silent flow runs as crashed"
SILENCE_SECONDS: Final = 120
"""Four of the heartbeats that deployments send every 30 seconds; one late heartbeat is no crash."""
_HEARTBEAT: Final = "prefect.flow-run.heartbeat"
_MAY_FALL_SILENT: Final = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended", "AwaitingRetry")
"""States in which no process has to be there any more, or yet."""


def plan_automation(silence_seconds: int = SILENCE_SECONDS) -> AutomationCore:
    """Describe the automation: after a heartbeat, another one or an end must follow in time.

    A worker marks the runs of its own dead children within seconds. This is for the rest: the worker killed as well,
    or its machine gone.

    Args:
        silence_seconds: How long a flow run may send nothing; at least 10.

    Source: Prefect's documentation, "How to detect and respond to zombie flows".
    """
    message = f"No heartbeat for {silence_seconds} seconds."
    return AutomationCore(
        name=NAME,
        description="Flow runs whose process or machine is gone would stay 'Running' for ever.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _MAY_FALL_SILENT)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence_seconds),
        ),
        actions=[ChangeFlowRunState(name=None, state=StateType.CRASHED, message=message, force=False)],
    )


def register_automation(client: SyncPrefectClient, silence_seconds: int = SILENCE_SECONDS) -> None:
    """Create the automation, or bring the one of that name up to date; whether it is switched on is left alone.

    Args:
        client: Of the server that keeps it.
        silence_seconds: How long a flow run may send nothing; at least 10.
    """
    plan = plan_automation(silence_seconds)
    present = client.read_automations_by_name(NAME)
    if not present:
        client.create_automation(plan)
    for automation in present:
        client.update_automation(automation.id, plan.model_copy(update={"enabled": automation.enabled}))
