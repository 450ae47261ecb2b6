"""Samples of the two harnesses, small enough for every change; `make test-long` tries everything."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.full_disk import can_mount

pytestmark = pytest.mark.system

PROJECT = Path(__file__).parents[2]


def run(module: str, *arguments: object) -> tuple[dict[str, dict], str]:
    """What a harness tells in JSON, by its last lines, and everything that it wrote beside."""
    command = [sys.executable, "-m", f"tests.faults.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=1200)
    told: dict[str, dict] = {}
    for line in done.stdout.splitlines():
        told |= json.loads(line)
    return told, done.stderr[-3000:]


def test_fault_54_55_58_61_killed_anywhere_a_run_ends_the_same(tmp_path: Path) -> None:
    told, beside = run("kill", tmp_path, "--steps", 3, "--moments", 2, "--kinds", "pipeline", "retraining")
    assert told.keys() == {"pipeline", "retraining"}, beside
    for killed in told.values():
        assert killed["wrong"] == []
        assert killed["never_reached"] == []
        assert killed["kills_at_steps"] == 3
        assert killed["kills_at_moments"] >= 2
        assert killed["most_shards_repeated"] <= 2  # what two task runs at the same time were working on
        assert killed["most_images_repeated"] == 0


def test_fault_56_a_full_disk_is_told_and_the_next_run_ends_the_same(tmp_path: Path) -> None:
    if not can_mount(tmp_path):
        pytest.skip("disks of a given size can be mounted by root alone, and not in every container")
    told, beside = run("full_disk", tmp_path, "--sizes", 2)
    assert told.keys() == {"told", "wrong"}, beside
    assert told["wrong"] == []
    assert len(told["told"]) == 2
