"""A flow goes on whatever becomes of MLflow, and the states of its task runs say what became of it."""

from pathlib import Path

import pytest
from prefect import flow

from hip_mri.config import TrackingSettings
from hip_mri.errors import HipMriError, ReleaseError, TrackingError
from hip_mri.registry import tracking
from hip_mri.workspace import Workspace
from tasks.tracking import track_champion, track_run

SETTINGS = TrackingSettings(mlflow_uri="http://127.0.0.1:5000")
FOLDER = Path("workspace/runs/0001")


@flow
def track_both() -> list[tuple[str | None, str | None]]:
    run = track_run(str(FOLDER), SETTINGS, return_state=True)
    champion = track_champion(Workspace(FOLDER.parents[1]), SETTINGS, return_state=True)
    return [(state.name, state.message) for state in (run, champion)]


def answer(monkeypatch: pytest.MonkeyPatch, **answers: str | HipMriError | None) -> None:
    """Replace functions of the library by ones that return a value or raise an error."""

    def make(value: str | HipMriError | None):
        def track(*given: object) -> str | None:
            if isinstance(value, HipMriError):
                raise value
            return value

        return track

    for name, value in answers.items():
        monkeypatch.setattr(tracking, name, make(value))


@pytest.mark.usefixtures("prefect_server")
def test_the_state_of_a_task_run_says_what_became_of_it(monkeypatch, caplog) -> None:
    answer(monkeypatch, track_run=TrackingError("no answer"), track_champion=ReleaseError("changed"))
    assert track_both() == [("Not tracked", "no answer"), ("Not tracked", "changed")]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == ["no answer", "changed"]
    answer(monkeypatch, track_run="http://127.0.0.1:5000/#/1", track_champion=None)
    (run, champion) = track_both()
    assert (run[0], champion[0]) == ("Completed", "Completed")
    assert "http://127.0.0.1:5000/#/1" in str(run[1])
