"""The champion: the version that scores new images.

`champion.json` names it and lists all earlier champions; see `hip_mri.registry.audit`. Files are replaced in one step,
so that readers find the old champion with its history or the new one, whenever a process is killed. Changing the
champion copies no model.
"""

from collections.abc import Sequence

from hip_mri.errors import ReleaseError, list_offenders
from hip_mri.registry.audit import BYPASS, ReleaseDecision, Verdict, add_decision, read_decisions, read_record
from hip_mri.registry.versions import Version, check_version, name_version, read_version
from hip_mri.workspace import Workspace


def read_champion(workspace: Workspace) -> Version | None:
    """Read which version is the champion; `None` before the first promotion. Call `check_version` before loading it.

    Raises:
        ReleaseError: The version is missing, or is not the one that was promoted.
    """
    history = read_history(workspace)
    if not history:
        return None
    version = read_version(workspace, history[-1].version)
    if not history[-1].applies_to(version):
        raise ReleaseError(
            f"release: version {version.name} is not the one that became champion: version.json or the model has "
            f"another SHA-256 than the one that was promoted. Restore {version.folder} from a backup, or roll back."
        )
    return version


def read_history(workspace: Workspace) -> tuple[ReleaseDecision, ...]:
    """Read all changes of champion, the latest last; see `read_record`."""
    return read_record(workspace).history


def promote(workspace: Workspace, version: Version, reason: str) -> Version:
    """Make a version the champion by hand. Promoting the champion again changes nothing.

    Args:
        workspace: Where the version is registered.
        version: All of its files are checked first.
        reason: Why; kept in the history.

    Returns:
        The champion.

    Raises:
        ReleaseError: The version is not registered there, a file of it was changed, or the reason is empty; the
            champion stays.
    """
    _check_registered(workspace, version)
    with workspace.hold_releases():
        history = read_history(workspace)
        if not history or history[-1].version != version.number:
            add_decision(workspace, "promotion", version, Verdict(reason, BYPASS))
    return version


def promote_over(workspace: Workspace, champion: Version | None, version: Version, verdict: Verdict) -> bool:
    """Make a version the champion if the champion is still the one that it was compared with; see `promote`.

    Returns:
        Whether it was promoted.
    """
    _check_registered(workspace, version)
    with workspace.hold_releases():
        if read_champion(workspace) != champion:
            return False
        add_decision(workspace, "promotion", version, verdict)
    return True


def reject(workspace: Workspace, version: Version, verdict: Verdict) -> None:
    """Record that a version was not promoted. The same decision again changes nothing."""
    with workspace.hold_releases():
        known = {(it.action, it.version, it.decided_how) for it in read_decisions(workspace)}
        if ("rejection", version.number, verdict.method) not in known:
            add_decision(workspace, "rejection", version, verdict)


def roll_back(workspace: Workspace, version: int | None = None, *, reason: str) -> Version:
    """Restore an earlier champion.

    Args:
        workspace: Where the versions are registered.
        version: Number of a version that was champion before; `None` for the one before the present champion. Rolling
            back again goes back one further.
        reason: Why; kept in the history.

    Returns:
        The champion.

    Raises:
        ReleaseError: There is no earlier champion, the version was never champion, a file of it was changed, or the
            reason is empty; the champion stays.
    """
    with workspace.hold_releases():
        history = read_history(workspace)
        target = read_version(workspace, _find_target(history, version))
        promoted = next(change for change in reversed(history) if change.version == target.number)
        if not promoted.applies_to(target):
            raise ReleaseError(
                f"release: version {target.name} is not the one that was champion: version.json or the model has "
                f"another SHA-256. Restore {target.folder} from a backup, or roll back to another version."
            )
        check_version(target)
        if target.number != history[-1].version:
            add_decision(workspace, "rollback", target, Verdict(reason, "by hand"))
    return target


def _check_registered(workspace: Workspace, version: Version) -> None:
    if read_version(workspace, version.number).files != version.files:
        raise ReleaseError(
            f"release: version {version.name} of {workspace.versions_folder} is not the one that was to be promoted. "
            "Read the version again from this workspace."
        )
    check_version(version)


def _find_target(history: Sequence[ReleaseDecision], version: int | None) -> int:
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


def _list_champions(history: Sequence[ReleaseDecision]) -> list[int]:
    """List the champions that led to the present one; a rollback removes those after its target."""
    champions: list[int] = []
    for change in history:
        if change.action == "rollback" and change.version in champions:
            champions = champions[: champions.index(change.version) + 1]
        else:
            champions = [*(number for number in champions if number != change.version), change.version]
    return champions
