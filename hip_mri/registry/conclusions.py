"""Records how retrainings ended, with the versions: reports can be deleted without losing it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hip_mri.errors import ReleaseError
from hip_mri.registry.versions import Version, list_versions
from hip_mri.storage import read_json, write_json
from hip_mri.workspace import Workspace


def record_conclusion(
    workspace: Workspace, version: Version, outcome: str, reasons: Sequence[str], report: str = ""
) -> None:
    """Record that the retraining that registered a version has ended; the last thing that a retraining does.

    Args:
        workspace: Where the version is registered.
        version: The challenger.
        outcome: How it ended, such as `promoted`.
        reasons: Why, as sentences.
        report: Name of the folder of its report.
    """
    with workspace.hold_releases():
        now = datetime.now(UTC).isoformat(timespec="seconds")
        conclusion = {"version": version.name, "outcome": outcome, "reasons": list(reasons), "report": report}
        conclusion |= {"concluded_at": now}
        earlier = [it for it in _read_conclusions(workspace) if it["version"] != version.name]
        write_json(workspace.conclusions_file, [*earlier, conclusion])


def find_conclusion(workspace: Workspace, version: Version) -> dict[str, Any] | None:
    """Find how the retraining that registered a version has ended; `None` if it has not."""
    return next((it for it in _read_conclusions(workspace) if it["version"] == version.name), None)


def list_unconcluded(workspace: Workspace) -> list[Version]:
    """List the challengers whose retraining was interrupted; the next retraining continues with them."""
    concluded = {conclusion["version"] for conclusion in _read_conclusions(workspace)}
    return [it for it in list_versions(workspace) if it.is_challenger and it.name not in concluded]


def _read_conclusions(workspace: Workspace) -> list[dict[str, Any]]:
    if not workspace.conclusions_file.exists():
        # Earlier releases of hip-mri kept no such file: the reports of their retrainings are taken over once.
        files = workspace.retrainings_folder.glob("[0-9]*/retraining.json")
        reports = [read_json(file) | {"report": file.parent.name} for file in files]
        return [
            {"version": it["challenger"], "outcome": it["outcome"], "report": it["report"]}
            for it in reports
            if it["challenger"]
        ]
    conclusions = read_json(workspace.conclusions_file)
    if not isinstance(conclusions, list) or not all(isinstance(it, dict) and "version" in it for it in conclusions):
        raise ReleaseError(
            f"release: {workspace.conclusions_file} must list how each retraining ended. Restore it from a backup."
        )
    return conclusions
