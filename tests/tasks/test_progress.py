"""Wall time of steps, and mapped tasks that fail."""

import time

import pytest
from prefect import flow, get_client, task
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from tasks.mapping import wait_for_all
from tasks.progress import StepTimer, show_progress

ENDED: list[int] = []


@task
def fail_at_zero(number: int) -> None:
    if number == 0:
        raise ValueError("number 0")
    time.sleep(0.3)
    ENDED.append(number)


@flow
def map_numbers() -> None:
    wait_for_all(fail_at_zero, fail_at_zero.map([0, 1, 2, 3]), "numbers", [1] * 4)


@pytest.mark.usefixtures("prefect_server")
def test_the_first_error_is_raised_after_all_task_runs_have_ended() -> None:
    with pytest.raises(ValueError, match="number 0"):
        map_numbers()
    assert sorted(ENDED) == [1, 2, 3]


@flow
def skip_step() -> None:
    with show_progress("skipped_step", "bytes"):
        pass


@pytest.mark.usefixtures("prefect_server")
def test_a_step_without_anything_to_do_ends_at_100_percent() -> None:
    skip_step()
    with get_client(sync_client=True) as client:
        found = client.read_latest_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["skipped-step"]))
        )
    assert [artifact.data for artifact in found] == [100.0]


def test_the_times_of_all_steps_sum_to_the_time_since_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("tasks.progress.time.perf_counter", lambda: now)
    timer = StepTimer()
    assert timer.measure() == {}
    for name in ("extract_features", "extract_features", "group_images", "extract_features", "publish_run"):
        timer.start(name)
        now += 1.5
    assert timer.measure() == {"extract_features": 4.5, "group_images": 1.5, "publish_run": 1.5}
    timer.stop()
    timer.stop()
    assert sum(timer.measure().values()) == now - 100
