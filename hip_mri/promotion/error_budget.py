"""Every look that a decision takes at the locked test set, and what it may cost.

Whoever compares often enough finds a model that is better by chance. So all looks at one test set share one budget of
error, and a look is written down before its result is known. By Bonferroni's inequality the probability that any model
which is no better is ever promoted stays within the budget, however much the looks resemble each other.

Source: Dunn, "Multiple comparisons among means", Journal of the American Statistical Association 56, 1961.
"""

import math
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from hip_mri.config import ReleaseSettings
from hip_mri.errors import ReleaseError
from hip_mri.storage import read_json, write_json
from hip_mri.workspace import Workspace


@dataclass(frozen=True)
class Look:
    """A look at a test set, to compare two models.

    Attributes:
        number: 1 for the first look at this test set.
        alpha: Share of the budget that this look spends: one-sided probability that chance passes it, 0 where the
            budget was spent before.
        test_set_sha256: Of the list of test images.
        champion_sha256: Of the model that serves.
        challenger_sha256: Of the model that would take its place.
        looked_at: Time in UTC, for people.
        is_promoted: Whether the challenger became champion by it; `None` where that was never noted.
    """

    number: int
    alpha: float
    test_set_sha256: str
    champion_sha256: str
    challenger_sha256: str
    looked_at: str
    is_promoted: bool | None = None


def record_look(
    workspace: Workspace,
    test_set_sha256: str,
    champion_sha256: str,
    challenger_sha256: str,
    settings: ReleaseSettings,
) -> Look:
    """Write down a look before it is taken. The same comparison again is the same look and costs nothing.

    Args:
        workspace: Its ledger gets the look.
        test_set_sha256: Of the list of test images, as `metrics.json` and a version record it.
        champion_sha256: Of the model that serves.
        challenger_sha256: Of the model that would take its place.
        settings: How the budget is shared.

    Returns:
        The look, with the error that it may spend.

    Raises:
        ReleaseError: The ledger was changed by hand.
        WorkspaceError: It cannot be read or written.
    """
    with workspace.hold_releases():
        looks = read_looks(workspace)
        taken = [look for look in looks if look.test_set_sha256 == test_set_sha256]
        for look in taken:
            if (look.champion_sha256, look.challenger_sha256) == (champion_sha256, challenger_sha256):
                return look
        left = max(0.0, settings.error_budget - math.fsum(look.alpha for look in taken))
        number = len(taken) + 1
        look = Look(
            number=number,
            alpha=min(find_alpha(number, settings), left),
            test_set_sha256=test_set_sha256,
            champion_sha256=champion_sha256,
            challenger_sha256=challenger_sha256,
            looked_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        _write(workspace, [*looks, look])
        return look


def record_outcome(workspace: Workspace, look: Look, *, is_promoted: bool) -> None:
    """Note what came of a look; for the record alone, it changes no budget."""
    with workspace.hold_releases():
        looks = read_looks(workspace)
        noted = replace(look, is_promoted=is_promoted)
        _write(workspace, [noted if _is_same(taken, look) else taken for taken in looks])


def find_alpha(number: int, settings: ReleaseSettings) -> float:
    """Error that a look may spend by its number, 1 for the first; over all looks this adds up to the budget at most.

    `even` shares equally among `num_looks`; `falling` gives look k the share 6 / (pi k)^2, which add up to 1 without
    end. Falling is the larger one for the first `sqrt(6 num_looks) / pi` looks (3 of 24), and far smaller later.
    """
    if settings.spending == "falling":
        return settings.error_budget * 6 / (math.pi * number) ** 2
    return settings.error_budget / settings.num_looks if number <= settings.num_looks else 0.0


def read_looks(workspace: Workspace) -> list[Look]:
    """All looks at all test sets, in their order.

    Raises:
        ReleaseError: The ledger was changed by hand.
        WorkspaceError: It cannot be read.
    """
    if not workspace.looks_file.exists():
        return []
    content = read_json(workspace.looks_file)
    try:
        return [Look(test_set_sha256=sha256, **entry) for sha256, looks in content.items() for entry in looks]
    except (AttributeError, TypeError) as error:
        raise ReleaseError(
            f"release: {workspace.looks_file} is no ledger of looks. Restore it from a backup: without it nobody knows "
            "how often the test set was looked at."
        ) from error


def _is_same(one: Look, other: Look) -> bool:
    return (one.test_set_sha256, one.number) == (other.test_set_sha256, other.number)


def _write(workspace: Workspace, looks: list[Look]) -> None:
    """Write all looks, by test set."""
    content: dict[str, list[dict[str, Any]]] = {}
    for look in looks:
        entry = asdict(look)
        content.setdefault(entry.pop("test_set_sha256"), []).append(entry)
    write_json(workspace.looks_file, content)
