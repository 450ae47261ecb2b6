"""The champion: which version serves.

`champion.json` names it and holds all that served before. It is one file, replaced in one step: whoever reads it, and
whenever a process is killed, finds the old champion with its history or the new one with its own. Changing the
champion moves no model, so that rolling back takes a moment.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from hip_mri.errors import ReleaseError, list_offenders
from hip_mri.registry.versions import Version, check_version, name_version, read_version
from hip_mri.storage import read_json, write_json
from hip_mri.workspace import Workspace


@dataclass(frozen=True)
class Change:
    """A change of champion.

    Attributes:
        order: 1 for the first; the order of changes is that of these numbers, not of the times.
        action: Whether a version was promoted, or an earlier champion came back.
        version: Number of the version that serves from then on.
        model_sha256: Of its model.
        reason: Why, in words.
        changed_at: Time in UTC, for people.
    """

    order: int
    action: Literal["promotion", "rollback"]
    version: int
    model_sha256: str
    reason: str
    changed_at: str


def read_champion(workspace: Workspace) -> Version | None:
    """Read which version serves; `None` before the first promotion. Whoever loads its model calls `check_version`.

    Raises:
        ReleaseError: The version is gone, or is not the one that was promoted.
    """
    history = read_history(workspace)
    if not history:
        return None
    version = read_version(workspace, history[-1].version)
    if version.model_sha256 != history[-1].model_sha256:
        raise ReleaseError(
            f"release: version {version.name} is not the one that became champion: its model has the SHA-256 "
            f"{version.model_sha256[:12]}…, {history[-1].model_sha256[:12]}… was promoted. Restore "
            f"{version.folder} from a backup, or roll back."
        )
    return version


def read_history(workspace: Workspace) -> list[Change]:
    """All changes of champion, the latest last.

    Raises:
        WorkspaceError: The file cannot be read.
        ReleaseError: The file is not such a record.
    """
    if not workspace.champion_file.exists():
        return []
    content = read_json(workspace.champion_file)
    try:
        return [Change(**{**entry, "version": int(entry["version"])}) for entry in content["history"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseError(
            f"release: {workspace.champion_file} is no record of champions. Restore it from a backup."
        ) from error


def promote(workspace: Workspace, version: Version, reason: str) -> Version:
    """Make a version the champion. Promoting the champion again changes nothing.

    Args:
        workspace: Where the version is registered.
        version: All of its files are checked first.
        reason: Why, in words; kept with the change.

    Returns:
        The champion.

    Raises:
        ReleaseError: The version is not registered there, or a file of it is not the one that was registered; the
            champion stays.
    """
    _check_registered(workspace, version)
    with workspace.hold_releases():
        history = read_history(workspace)
        if not history or history[-1].version != version.number:
            _write(workspace, history, _note(history, "promotion", version, reason))
    return version


def promote_over(workspace: Workspace, champion: Version | None, version: Version, reason: str) -> bool:
    """Make a version the champion in the place of the one that it was compared with; see `promote`.

    Returns:
        Whether it is: not where another one serves by now.
    """
    _check_registered(workspace, version)
    with workspace.hold_releases():
        if read_champion(workspace) != champion:
            return False
        history = read_history(workspace)
        _write(workspace, history, _note(history, "promotion", version, reason))
    return True


def _check_registered(workspace: Workspace, version: Version) -> None:
    if read_version(workspace, version.number).files != version.files:
        raise ReleaseError(
            f"release: version {version.name} of {workspace.versions_folder} is another one than was to be promoted. "
            "Read it again from the workspace that it shall serve in."
        )
    check_version(version)


def roll_back(workspace: Workspace, version: int | None = None, reason: str = "rolled back by hand") -> Version:
    """Let an earlier champion serve again.

    Args:
        workspace: Where the versions are registered.
        version: Number of a version that was champion before; without it, the one before the present champion. Rolling
            back again goes back one further.
        reason: Why, in words; kept with the change.

    Returns:
        The champion.

    Raises:
        ReleaseError: There is no earlier champion, the version never was champion, or a file of it is not the one
            that was registered; the champion stays.
    """
    with workspace.hold_releases():
        history = read_history(workspace)
        target = read_version(workspace, _find_target(history, version))
        promoted = next(change for change in reversed(history) if change.version == target.number)
        if promoted.model_sha256 != target.model_sha256:
            raise ReleaseError(
                f"release: version {target.name} is not the one that was champion: its model has another SHA-256. "
                f"Restore {target.folder} from a backup, or roll back to another version."
            )
        check_version(target)
        if target.number != history[-1].version:
            _write(workspace, history, _note(history, "rollback", target, reason))
    return target


def _find_target(history: list[Change], version: int | None) -> int:
    """Which version a rollback goes to."""
    if version is None:
        line = _follow(history)
        if len(line) < 2:
            raise ReleaseError(
                f"release: there is no champion before {name_version(line[-1]) if line else 'the first promotion'}. "
                "Promote another version instead."
            )
        return line[-2]
    former = sorted({change.version for change in history})
    if version not in former:
        raise ReleaseError(
            f"release: version {name_version(version)} never was champion, only "
            f"{list_offenders([name_version(number) for number in former]) or 'none'} was. Roll back to one of these; "
            "a new version becomes champion through the gate."
        )
    return version


def _follow(history: list[Change]) -> list[int]:
    """Champions that led to the present one: a rollback takes back what came after its target."""
    line: list[int] = []
    for change in history:
        if change.action == "rollback" and change.version in line:
            line = line[: line.index(change.version) + 1]
        else:
            line = [*(number for number in line if number != change.version), change.version]
    return line


def _note(history: list[Change], action: Literal["promotion", "rollback"], version: Version, reason: str) -> Change:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Change(len(history) + 1, action, version.number, version.model_sha256, reason, now)


def _write(workspace: Workspace, history: list[Change], change: Change) -> None:
    entries = [_describe(entry) for entry in (*history, change)]
    content = {"version": entries[-1]["version"], "model_sha256": change.model_sha256, "history": entries}
    write_json(workspace.champion_file, content)


def _describe(change: Change) -> dict[str, Any]:
    return asdict(change) | {"version": name_version(change.version)}
