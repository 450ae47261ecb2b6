"""The champion: the version that scores new images.

`champion.json` names it and lists all earlier champions. The file is replaced in one step, so that readers find the
old champion with its history or the new one, whenever a process is killed. Changing the champion copies no model.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from hip_mri.errors import ReleaseError, list_offenders
from hip_mri.registry.versions import Version, check_version, name_version, read_version
from hip_mri.storage import read_json, write_json
from hip_mri.workspace import Workspace

Action = Literal["promotion", "rollback"]


@dataclass(frozen=True)
class Change:
    """A change of champion.

    Attributes:
        order: 1 for the first; changes are ordered by this number, not by time.
        action: Whether a version was promoted, or an earlier champion was restored.
        version: Number of the champion from then on.
        model_sha256: Of its model.
        reason: Why, as text.
        changed_at: Time in UTC, for display.
    """

    order: int
    action: Action
    version: int
    model_sha256: str
    reason: str
    changed_at: str


def read_champion(workspace: Workspace) -> Version | None:
    """Read which version is the champion; `None` before the first promotion. Call `check_version` before loading it.

    Raises:
        ReleaseError: The version is missing, or is not the one that was promoted.
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
    """Read all changes of champion, the latest last.

    Raises:
        WorkspaceError: The file cannot be read.
        ReleaseError: The file has other content.
    """
    if not workspace.champion_file.exists():
        return []
    content = read_json(workspace.champion_file)
    try:
        return [Change(**{**entry, "version": int(entry["version"])}) for entry in content["history"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseError(
            f"release: {workspace.champion_file} is not a list of champions. Restore it from a backup."
        ) from error


def promote(workspace: Workspace, version: Version, reason: str) -> Version:
    """Make a version the champion. Promoting the champion again changes nothing.

    Args:
        workspace: Where the version is registered.
        version: All of its files are checked first.
        reason: Why; kept in the history.

    Returns:
        The champion.

    Raises:
        ReleaseError: The version is not registered there, or a file of it was changed; the champion stays.
    """
    _check_registered(workspace, version)
    with workspace.hold_releases():
        history = read_history(workspace)
        if not history or history[-1].version != version.number:
            _append(workspace, history, "promotion", version, reason)
    return version


def promote_over(workspace: Workspace, champion: Version | None, version: Version, reason: str) -> bool:
    """Make a version the champion if the champion is still the one that it was compared with; see `promote`.

    Returns:
        Whether it was promoted.
    """
    _check_registered(workspace, version)
    with workspace.hold_releases():
        if read_champion(workspace) != champion:
            return False
        _append(workspace, read_history(workspace), "promotion", version, reason)
    return True


def roll_back(workspace: Workspace, version: int | None = None, reason: str = "rolled back by hand") -> Version:
    """Restore an earlier champion.

    Args:
        workspace: Where the versions are registered.
        version: Number of a version that was champion before; `None` for the one before the present champion. Rolling
            back again goes back one further.
        reason: Why; kept in the history.

    Returns:
        The champion.

    Raises:
        ReleaseError: There is no earlier champion, the version was never champion, or a file of it was changed; the
            champion stays.
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
            _append(workspace, history, "rollback", target, reason)
    return target


def _check_registered(workspace: Workspace, version: Version) -> None:
    if read_version(workspace, version.number).files != version.files:
        raise ReleaseError(
            f"release: version {version.name} of {workspace.versions_folder} is not the one that was to be promoted. "
            "Read the version again from this workspace."
        )
    check_version(version)


def _find_target(history: list[Change], version: int | None) -> int:
    """Find which version a rollback goes to."""
    if version is None:
        champions = _list_champions(history)
        if len(champions) < 2:
            present = name_version(champions[-1]) if champions else "the first promotion"
            raise ReleaseError(f"release: there is no champion before {present}. Promote another version instead.")
        return champions[-2]
    former = sorted({change.version for change in history})
    if version not in former:
        raise ReleaseError(
            f"release: version {name_version(version)} was never champion, only "
            f"{list_offenders([name_version(number) for number in former]) or 'none'} was. Roll back to one of these, "
            "or promote the version."
        )
    return version


def _list_champions(history: list[Change]) -> list[int]:
    """List the champions that led to the present one; a rollback removes those after its target."""
    champions: list[int] = []
    for change in history:
        if change.action == "rollback" and change.version in champions:
            champions = champions[: champions.index(change.version) + 1]
        else:
            champions = [*(number for number in champions if number != change.version), change.version]
    return champions


def _append(workspace: Workspace, history: list[Change], action: Action, version: Version, reason: str) -> None:
    """Write the history with one more change."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    change = Change(len(history) + 1, action, version.number, version.model_sha256, reason, now)
    entries = [asdict(entry) | {"version": name_version(entry.version)} for entry in (*history, change)]
    content = {"version": version.name, "model_sha256": version.model_sha256, "history": entries}
    write_json(workspace.champion_file, content)
