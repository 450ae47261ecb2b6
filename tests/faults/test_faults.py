"""A small part of the two harnesses; `make test-long` runs them in full."""

import json
from pathlib import Path

import pytest

from tests.faults.full_disk import can_mount
from tests.processes import run_python


def run(module: str, *arguments: object) -> tuple[dict[str, dict], str]:
    """The JSON that a harness prints in its last lines, and the end of its standard error."""
    done = run_python("-m", f"tests.faults.{module}", *arguments, timeout_seconds=1200)
    results: dict[str, dict] = {}
    for line in done.stdout.splitlines():
        results |= json.loads(line)
    return results, done.stderr[-3000:]


@pytest.mark.system
def test_fault_54_55_58_61_a_run_that_is_killed_anywhere_has_equal_results(tmp_path: Path) -> None:
    results, beside = run("kill", tmp_path, "--steps", 3, "--moments", 2, "--kinds", "pipeline", "retraining")
    assert results.keys() == {"pipeline", "retraining"}, beside
    for killed in results.values():
        assert killed["wrong"] == []
        assert killed["never_reached"] == []
        assert killed["kills_at_steps"] == 3
        assert killed["kills_at_moments"] >= 2
        assert killed["max_shards_repeated"] <= 2  # what two task runs at the same time were working on
        assert killed["max_images_repeated"] == 0


@pytest.mark.system(ci=True)
def test_fault_56_a_full_disk_is_reported_and_the_next_run_has_equal_results(tmp_path: Path) -> None:
    if not can_mount(tmp_path):
        pytest.skip("disks of a given size can be mounted by root alone, and not in every container")
    results, beside = run("full_disk", tmp_path, "--sizes", 2)
    assert results.keys() == {"reported", "wrong"}, beside
    assert results["wrong"] == []
    assert len(results["reported"]) == 2
