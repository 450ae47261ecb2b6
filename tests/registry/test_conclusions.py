"""How a retraining ended is recorded with the versions."""

import json
import shutil

import pytest

from hip_mri.errors import ReleaseError
from hip_mri.registry.conclusions import find_conclusion, list_unconcluded, record_conclusion
from hip_mri.registry.registration import register_version
from hip_mri.storage import write_json


def test_a_challenger_is_concluded_once_and_for_all(workspace, write_run):
    versions = [register_version(workspace, write_run(), is_challenger=True) for _ in range(3)]
    register_version(workspace, write_run())  # by hand: no retraining has to report on it
    assert list_unconcluded(workspace) == versions
    for outcome in ("kept", "promoted"):
        record_conclusion(workspace, versions[1], outcome, ["It is shown to be better."])
    assert list_unconcluded(workspace) == [versions[0], versions[2]]
    (conclusion,) = json.loads(workspace.conclusions_file.read_text())
    assert (conclusion["version"], conclusion["outcome"]) == ("0002", "promoted")
    assert conclusion["reasons"] == ["It is shown to be better."]


def test_reports_of_earlier_releases_are_taken_over(workspace, write_run):
    versions = [register_version(workspace, write_run(), is_challenger=True) for _ in range(3)]
    for number, version in enumerate(versions[:2], start=1):
        report = workspace.retrainings_folder / f"000{number}" / "retraining.json"
        write_json(report, {"challenger": version.name, "outcome": "kept"})
    write_json(workspace.retrainings_folder / "0003" / "retraining.json", {"challenger": None, "outcome": "stopped"})
    assert list_unconcluded(workspace) == versions[2:]
    assert find_conclusion(workspace, versions[1]) == {"version": "0002", "outcome": "kept", "report": "0002"}
    record_conclusion(workspace, versions[2], "kept", [])
    shutil.rmtree(workspace.retrainings_folder)
    assert list_unconcluded(workspace) == []


@pytest.mark.parametrize("content", [{}, [1], [{"outcome": "kept"}]])
def test_a_damaged_list_is_refused(workspace, versions, content):
    write_json(workspace.conclusions_file, content)
    with pytest.raises(ReleaseError, match=r"conclusions\.json"):
        list_unconcluded(workspace)
