"""The result of a flow run reaches its caller also if the server of Prefect is slow."""

import prefect.flow_engine
import pytest
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import MissingResult

from flows.cli.flow_runs import call_flow
from hip_mri.config import Settings
from tasks.flow_runs import complete_with


@flow(persist_result=False)
def write_folder(config: Settings) -> State[str]:
    return complete_with("workspace/runs/0001")


def test_result_survives_a_server_that_answers_the_repeated_request(monkeypatch: pytest.MonkeyPatch) -> None:
    propose = prefect.flow_engine.propose_state_sync

    def answer_without_data(*arguments: object, **options: object) -> State:
        state = propose(*arguments, **options)  # pyright: ignore[reportArgumentType]
        return state.model_copy(update={"data": None})

    monkeypatch.setattr(prefect.flow_engine, "propose_state_sync", answer_without_data)
    with pytest.raises(MissingResult):
        write_folder(Settings())
    assert call_flow(write_folder, Settings()) == "workspace/runs/0001"


def test_result_of_a_flow_is_returned() -> None:
    assert call_flow(write_folder, Settings()) == "workspace/runs/0001"
    assert call_flow(lambda config: "no flow", Settings()) == "no flow"
