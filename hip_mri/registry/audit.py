"""The record of decisions on versions: who decided what, how and why.

`audit.jsonl` has one line per decision, a JSON object with the SHA-256 of the line before. `champion.json` contains all
changes of champion, and the number and SHA-256 of the newest line: a line that was removed, changed, inserted or moved
breaks the chain, also at the end. The line is written first. A process that is killed before it has written
`champion.json` leaves one line more than that file records, which counts as recorded.
"""

import getpass
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

from hip_mri.errors import ReleaseError
from hip_mri.registry.versions import Version, name_version
from hip_mri.storage import read_json, write_bytes, write_json
from hip_mri.workspace import Workspace

Action = Literal["promotion", "rollback", "rejection"]
Method = Literal["by the gate", "by approval", "by timeout", "by hand", "by hand, bypassing the gate", "not recorded"]

BYPASS: Final = "by hand, bypassing the gate"
"""How a version is promoted without a retraining."""

FIRST: Final = "0" * 64
"""Takes the place of the SHA-256 of the line before the first."""

NOT_RECORDED: Final = "not recorded"
"""Who decided, and how, in the history of workspaces of earlier versions."""

DECISIONS: Final = "decisions.json"
"""File in the folder of a version: the decisions on it."""


def find_system_user() -> str:
    """Name of the user of this process; the number where the system has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the former until Python 3.12
        return f"user {os.getuid()}"


@dataclass(frozen=True)
class Verdict:
    """Why, how and by whom a decision is made.

    Attributes:
        reason: Why, as text; not empty.
        method: How it is decided.
        decided_by: Name of the person or program.
    """

    reason: str
    method: Method
    decided_by: str = field(default_factory=find_system_user)


@dataclass(frozen=True)
class ReleaseDecision:
    """A decision on a version.

    Attributes:
        order: Number of its line, 1 for the first.
        action: Whether the version was promoted, restored by a rollback, or not promoted after a retraining.
        version: Number of the version; the champion from then on, unless it was rejected.
        model_sha256: Of its model.
        reason: Why, as text.
        decided_by: Who decided.
        decided_how: By which `Method`.
        decided_at: Time in UTC, for display; decisions are ordered by number.
        previous_sha256: Of the line before.
        record_sha256: Of `version.json`, which lists the SHA-256 of all files; `None` in lines of earlier versions.
    """

    order: int
    action: Action
    version: int
    model_sha256: str
    reason: str
    decided_by: str
    decided_how: Method
    decided_at: str
    previous_sha256: str
    record_sha256: str | None = None

    def describe(self) -> dict[str, Any]:
        """Return the content of its line."""
        content = asdict(self) | {"version": name_version(self.version)}
        if self.record_sha256 is None:
            del content["record_sha256"]
        return content

    def applies_to(self, version: Version) -> bool:
        """Whether a version of this number is the one that was decided on."""
        is_same_record = self.record_sha256 in (None, version.record_sha256)
        return is_same_record and self.model_sha256 == version.model_sha256

    def to_line(self) -> bytes:
        """Return its line, without the line break."""
        return json.dumps(self.describe(), separators=(",", ":")).encode()

    @property
    def sha256(self) -> str:
        """SHA-256 of its line."""
        return hash_line(self.to_line())


@dataclass(frozen=True)
class ReleaseRecord:
    """What is recorded in `champion.json`.

    Attributes:
        history: All changes of champion, the latest last.
        num_lines: Number of lines of the audit log.
        sha256: Of its newest line.
    """

    history: tuple[ReleaseDecision, ...] = ()
    num_lines: int = 0
    sha256: str = FIRST

    def add(self, decision: ReleaseDecision) -> "ReleaseRecord":
        """Return the record with one more decision."""
        history = self.history if decision.action == "rejection" else (*self.history, decision)
        return ReleaseRecord(history, decision.order, decision.sha256)

    def describe(self) -> dict[str, Any]:
        """Return the content of `champion.json`."""
        champion = self.history[-1] if self.history else None
        return {
            "version": champion and name_version(champion.version),
            "model_sha256": champion and champion.model_sha256,
            "history": [change.describe() for change in self.history],
            "audit": {"num_lines": self.num_lines, "sha256": self.sha256},
        }


def read_record(workspace: Workspace) -> ReleaseRecord:
    """Read all changes of champion and the newest line of the audit log.

    Raises:
        WorkspaceError: A file cannot be read.
        ReleaseError: `champion.json` is missing or has other content.
    """
    record, lines = _read_champion_file(workspace), read_lines(workspace)
    if len(lines) == record.num_lines + 1 and (newest := parse_line(lines[-1])) is not None:
        is_next = (newest.order, newest.previous_sha256) == (len(lines), record.sha256)
        return record.add(newest) if is_next else record
    if not record.num_lines and lines:
        raise ReleaseError(
            f"release: {workspace.champion_file} is missing, but {workspace.audit_file} lists {len(lines)} decisions. "
            "Restore it from a backup."
        )
    return record


def add_decision(workspace: Workspace, action: Action, version: Version, verdict: Verdict) -> None:
    """Record a decision in the audit log, in `champion.json` and in the folder of the version; call it under the lock.

    A damaged audit log does not prevent a decision: the new line continues the chain of `champion.json`, and
    `hip_mri.registry.release_checks` goes on finding the damage.

    Raises:
        ReleaseError: The reason is empty, or `champion.json` has other content.
    """
    if not verdict.reason.strip():
        raise ReleaseError(f"release: the reason for the {action} of version {version.name} is empty. Give a reason.")
    record, lines = read_record(workspace), read_lines(workspace)
    if not lines:  # of a workspace of an earlier version, if there are changes
        lines = [change.to_line() for change in record.history]
    decision = ReleaseDecision(
        order=record.num_lines + 1,
        action=action,
        version=version.number,
        model_sha256=version.model_sha256,
        reason=" ".join(verdict.reason.split()),
        decided_by=" ".join(verdict.decided_by.split()),
        decided_how=verdict.method,
        decided_at=datetime.now(UTC).isoformat(timespec="seconds"),
        previous_sha256=record.sha256,
        record_sha256=version.record_sha256,
    )
    lines.append(decision.to_line())
    write_bytes(workspace.audit_file, b"".join(line + b"\n" for line in lines))
    write_json(workspace.champion_file, record.add(decision).describe())
    _write_decisions_of_versions(workspace, lines)


def read_decisions(workspace: Workspace) -> list[ReleaseDecision]:
    """Read all readable lines of the audit log; those of a workspace of an earlier version from `champion.json`."""
    lines = read_lines(workspace)
    parsed = map(parse_line, lines)
    return [it for it in parsed if it is not None] if lines else list(read_record(workspace).history)


def _read_champion_file(workspace: Workspace) -> ReleaseRecord:
    if not workspace.champion_file.exists():
        return ReleaseRecord()
    content = read_json(workspace.champion_file)
    try:
        if "audit" not in content:
            return _chain_history(content["history"])
        history = tuple(_read_decision(entry) for entry in content["history"])
        record = ReleaseRecord(history, int(content["audit"]["num_lines"]), str(content["audit"]["sha256"]))
        if any(content[name] != record.describe()[name] for name in ("version", "model_sha256")):
            raise ValueError("another champion than the latest of the history")
        return record
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseError(
            f"release: {workspace.champion_file} is not a list of champions, the latest of which it names. Restore it "
            "from a backup."
        ) from error


def _chain_history(entries: Sequence[dict[str, Any]]) -> ReleaseRecord:
    """Read the history of an earlier version, which kept no audit log."""
    record, unknown = ReleaseRecord(), {"decided_by": NOT_RECORDED, "decided_how": NOT_RECORDED}
    for entry in entries:
        known = {"decided_at" if name == "changed_at" else name: value for name, value in entry.items()}
        decision = _read_decision(known | unknown | {"previous_sha256": record.sha256})
        record = record.add(replace(decision, order=record.num_lines + 1))
    return record


def read_lines(workspace: Workspace) -> list[bytes]:
    """Read the lines of the audit log, without line breaks; empty where there is none."""
    return workspace.audit_file.read_bytes().splitlines() if workspace.audit_file.exists() else []


def parse_line(line: bytes) -> ReleaseDecision | None:
    """Read a line; `None` unless it is exactly as it was written."""
    try:
        decision = _read_decision(json.loads(line))
        return decision if decision.to_line() == line else None
    except (TypeError, ValueError, KeyError):
        return None


def _read_decision(entry: dict[str, Any]) -> ReleaseDecision:
    return ReleaseDecision(**{**entry, "version": int(entry["version"])})


def hash_line(line: bytes) -> str:
    """Return the SHA-256 of a line, without its line break."""
    return hashlib.sha256(line).hexdigest()


def group_by_version(lines: Sequence[bytes]) -> dict[int, list[dict[str, Any]]]:
    """Group the decisions by version."""
    selected: dict[int, list[dict[str, Any]]] = {}
    for decision in filter(None, map(parse_line, lines)):
        selected.setdefault(decision.version, []).append(decision.describe())
    return selected


def _write_decisions_of_versions(workspace: Workspace, lines: Sequence[bytes]) -> None:
    """Write the decisions on each version into its folder, also those that a killed process did not."""
    for number, decisions in group_by_version(lines).items():
        folder = workspace.versions_folder / name_version(number)
        file = folder / DECISIONS
        if folder.is_dir() and (not file.exists() or read_json(file) != decisions):
            write_json(file, decisions)
