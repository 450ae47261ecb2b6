"""Manual approval: a flow run with a deployment is suspended, another one ends with the command to answer by."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run
from prefect.runtime import flow_run
from prefect.states import Pending

from hip_mri.errors import ReleaseError
from hip_mri.promotion.comparison_records import find_comparison_of_flow_run, store_comparison
from hip_mri.promotion.conclusion import Answer
from hip_mri.registry.versions import read_version
from hip_mri.workspace import Workspace
from tasks.approval import ask_for_approval, find_suspended, is_resumed
from tests.promotion.challenges import make_compared

pytestmark = pytest.mark.usefixtures("prefect_server")

DESCRIPTION = "# What a person reads"
ANSWERS: list[Answer | State[str]] = []


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as connected:
        yield connected


@flow
def decide(root: str) -> None:
    """Ask as a retraining does."""
    workspace = Workspace(Path(root))
    compared = find_suspended(workspace.root)
    if compared is None:  # at the first start
        challenger, champion = (read_version(workspace, number) for number in (2, 1))
        made = make_compared(challenger, champion, flow_runs=(str(flow_run.id),))
        compared = store_comparison(workspace, made, DESCRIPTION)
    ANSWERS.append(ask_for_approval(workspace.root, compared, timeout_hours=1))


def create_run(client: SyncPrefectClient, workspace: Workspace) -> UUID:
    deployment = client.create_deployment(client.create_flow(decide), "of a test")
    run = client.create_flow_run_from_deployment(deployment, parameters={"root": str(workspace.root)})
    return run.id


def start(client: SyncPrefectClient, run: UUID) -> State:
    """Start a flow run in this process as a worker does, and return the state that it leaves."""
    parameters = client.read_flow_run(run).parameters
    client.set_flow_run_state(run, Pending())
    with contextlib.suppress(Pause):
        run_flow(decide, flow_run=client.read_flow_run(run), parameters=parameters)
    state = client.read_flow_run(run).state
    assert state is not None
    return state


@pytest.mark.parametrize("decision", ["promote", "decline"])
def test_a_suspended_flow_run_that_is_resumed_gets_the_answer(decision, workspace, versions, client):
    ANSWERS.clear()
    run = create_run(client, workspace)
    state = start(client, run)
    assert state.name == "Suspended"
    assert ANSWERS == []
    keyset = state.state_details.run_input_keyset
    assert keyset is not None
    assert DESCRIPTION in client.read_flow_run_input(run, keyset["description"])
    waiting = find_comparison_of_flow_run(workspace, str(run))
    assert waiting is not None
    assert not is_resumed(waiting)
    resume_flow_run(run, run_input={"decision": decision, "reason": "the scanner is new", "name": "Ada"})
    assert is_resumed(waiting)  # until a worker starts it
    assert start(client, run).name == "Completed"
    assert [Answer(decision == "promote", "the scanner is new", "Ada")] == ANSWERS


def test_a_resumed_flow_run_without_its_comparison_fails(workspace, versions, client):
    ANSWERS.clear()
    run = create_run(client, workspace)
    start(client, run)
    resume_flow_run(run, run_input={"decision": "promote", "reason": "good", "name": "Ada"})
    shutil.rmtree(workspace.comparisons_folder)
    with pytest.raises(ReleaseError, match="comparisons"):
        start(client, run)
    assert ANSWERS == []


def test_an_answer_applies_only_to_the_model_that_was_reviewed(workspace, versions, client):
    run = create_run(client, workspace)
    start(client, run)
    resume_flow_run(run, run_input={"decision": "promote", "reason": "good", "name": "Ada"})
    record = next(workspace.comparisons_folder.glob("*/comparison.json"))
    other = make_compared(*(read_version(workspace, number) for number in (3, 1)), flow_runs=(str(run),))
    store_comparison(workspace, other, DESCRIPTION)
    shutil.rmtree(record.parent)
    assert start(client, run).name == "Suspended"


@pytest.mark.parametrize(
    "said", [{"decision": "promote", "reason": " ", "name": "Ada"}, {"decision": "promote", "reason": "good"}]
)
def test_an_answer_without_reason_or_name_is_refused_and_the_run_goes_on_waiting(said, workspace, versions, client):
    run = create_run(client, workspace)
    start(client, run)
    with pytest.raises(RuntimeError, match=r"reason|name"):
        resume_flow_run(run, run_input=said)
    state = client.read_flow_run(run).state
    assert state is not None
    assert state.name == "Suspended"


def test_without_a_deployment_the_run_ends_with_the_command_to_answer_by(workspace, versions):
    ANSWERS.clear()
    decide(str(workspace.root))
    (state,) = ANSWERS
    assert isinstance(state, State)
    assert state.name == "Awaiting approval"
    assert f"hip-mri models approve {workspace.root} 0002 --reason" in str(state.message)
    assert "approval.md" in str(state.message)
