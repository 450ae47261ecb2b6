"""Divides one error budget among all comparisons on a test set, and records each comparison before its result is known.

Repeated comparisons on one test set eventually favor a model by chance. By Bonferroni's inequality the probability
that any model which is no better is ever promoted stays within the budget, whatever the dependence between comparisons.

Source: Dunn, "Multiple comparisons among means", Journal of the American Statistical Association 56, 1961.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from hip_mri.config import ReleaseSettings
from hip_mri.errors import ReleaseError, WorkspaceError, list_offenders
from hip_mri.storage import read_json, write_json
from hip_mri.workspace import Workspace

ROUNDING: Final = 1e-9
"""Smaller parts of a comparison's error are rounding errors."""


@dataclass(frozen=True)
class Comparison:
    """A comparison of two models on a test set.

    Attributes:
        number: 1 for the first comparison on this test set.
        alpha: Part of the error budget that it spends: one-sided probability that a model which is no better passes by
            chance; 0 where the budget was spent before.
        test_set_sha256: Of the list of test images.
        champion_sha256: Of the champion's model.
        challenger_sha256: Of the challenger's model.
        looked_at: Time in UTC, for display.
        is_promoted: Whether the challenger became champion by it; `None` where the outcome was not recorded.
        labels_sha256: Of the labels of the test images, which may be corrected; empty in earlier versions.
    """

    number: int
    alpha: float
    test_set_sha256: str
    champion_sha256: str
    challenger_sha256: str
    looked_at: str
    is_promoted: bool | None = None
    labels_sha256: str = ""


def plan_comparison(
    workspace: Workspace,
    test_set_sha256: str,
    champion_sha256: str,
    challenger_sha256: str,
    settings: ReleaseSettings,
    labels_sha256: str = "",
) -> Comparison:
    """Find a comparison in the ledger, or the error that it may spend as the next one; writes nothing.

    Args:
        workspace: Its `releases/ledger.json` is read.
        test_set_sha256: Of the list of test images, as `metrics.json` and a version record it.
        champion_sha256: Of the champion's model.
        challenger_sha256: Of the challenger's model.
        settings: How the budget is divided.
        labels_sha256: Of the labels of the test images; with corrected labels it is another comparison.

    Raises:
        ReleaseError: The ledger has other content, or lacks a stored comparison.
        WorkspaceError: It cannot be read.
    """
    earlier = [it for it in check_ledger(workspace) if it.test_set_sha256 == test_set_sha256]
    for comparison in earlier:
        models = comparison.champion_sha256, comparison.challenger_sha256
        if models == (champion_sha256, challenger_sha256) and comparison.labels_sha256 in ("", labels_sha256):
            return comparison
    number = len(earlier) + 1
    return Comparison(
        number=number,
        alpha=min(find_alpha(number, settings), _find_rest(earlier, settings)),
        test_set_sha256=test_set_sha256,
        champion_sha256=champion_sha256,
        challenger_sha256=challenger_sha256,
        looked_at=datetime.now(UTC).isoformat(timespec="seconds"),
        labels_sha256=labels_sha256,
    )


def record_comparison(workspace: Workspace, comparison: Comparison) -> None:
    """Record a planned comparison before it is made. A comparison that is recorded already spends nothing.

    Args:
        workspace: The comparison is written to its `releases/ledger.json`; the caller holds the workspace, so that no
            other comparison gets the same number.
        comparison: From `plan_comparison`.

    Raises:
        ReleaseError: The ledger has other content, or another comparison with this number.
        WorkspaceError: It cannot be read or written.
    """
    key = (comparison.test_set_sha256, comparison.number)
    with workspace.hold_releases():
        comparisons = read_comparisons(workspace)
        if comparison in comparisons:
            return
        if key in {(it.test_set_sha256, it.number) for it in comparisons}:
            raise ReleaseError(
                f"release: {workspace.ledger_file} has another comparison {comparison.number} on this test set. "
                "Start again."
            )
        _write(workspace, [*comparisons, comparison])


def count_looks_left(earlier: Sequence[Comparison], settings: ReleaseSettings) -> int | None:
    """Count the further comparisons on a test set that get a part of its error budget; `None` with `falling`.

    Args:
        earlier: The comparisons on this test set.
        settings: How the budget is divided; earlier comparisons may have been made with others.
    """
    if settings.spending == "falling":
        return None
    parts = _find_rest(earlier, settings) / find_alpha(1, settings)
    return max(0, min(settings.num_looks - len(earlier), math.ceil(parts - ROUNDING)))


def _find_rest(earlier: Sequence[Comparison], settings: ReleaseSettings) -> float:
    """Compute the part of the error budget of a test set that is not spent."""
    return max(0.0, settings.error_budget - math.fsum(it.alpha for it in earlier))


def record_outcome(workspace: Workspace, comparison: Comparison, *, is_promoted: bool) -> None:
    """Record whether the challenger of a comparison was promoted; this changes no budget."""
    key = (comparison.test_set_sha256, comparison.number)
    with workspace.hold_releases():
        comparisons = read_comparisons(workspace)
        updated = replace(comparison, is_promoted=is_promoted)
        _write(workspace, [updated if (it.test_set_sha256, it.number) == key else it for it in comparisons])


def find_alpha(number: int, settings: ReleaseSettings) -> float:
    """Compute the error that a comparison may spend; all comparisons together spend at most the budget.

    Args:
        number: 1 for the first comparison on the test set.
        settings: With spending `even`, `num_looks` comparisons get equal parts. With `falling`, comparison k gets the
            fraction 6 / (pi k)^2 of the budget; these fractions sum to 1 over all k. `falling` gives more to the first
            `sqrt(6 num_looks) / pi` comparisons (3 of 24), and far less to later ones.
    """
    if settings.spending == "falling":
        return settings.error_budget * 6 / (math.pi * number) ** 2
    return settings.error_budget / settings.num_looks if number <= settings.num_looks else 0.0


def read_comparisons(workspace: Workspace) -> list[Comparison]:
    """Read all comparisons on all test sets, in their order.

    Raises:
        ReleaseError: The ledger has other content.
        WorkspaceError: It cannot be read.
    """
    if not workspace.ledger_file.exists():
        return []
    content = read_json(workspace.ledger_file)
    try:
        return [Comparison(test_set_sha256=sha256, **entry) for sha256, made in content.items() for entry in made]
    except (AttributeError, TypeError) as error:
        raise ReleaseError(
            f"release: {workspace.ledger_file} is not a list of comparisons. Restore it from a backup: without it the "
            "error budget that was spent on the test set is not known."
        ) from error


def check_ledger(workspace: Workspace) -> list[Comparison]:
    """Read all comparisons, and check that all stored ones are among them: without one, its error would be spent twice.

    Raises:
        ReleaseError: A comparison is missing, or the ledger has other content.
        WorkspaceError: It cannot be read.
    """
    comparisons = read_comparisons(workspace)
    known = {(it.test_set_sha256, it.number) for it in comparisons}
    missing = []
    for file in sorted(workspace.comparisons_folder.glob("[0-9]*/comparison.json")):
        with contextlib.suppress(WorkspaceError, KeyError, TypeError):  # a record that is damaged says nothing
            made = read_json(file)["challenge"]["comparison"]
            if made is not None and (made["test_set_sha256"], made["number"]) not in known:
                missing.append(file.parent.name)
    if missing:
        raise ReleaseError(
            f"release: {workspace.ledger_file} is missing or older than {len(missing)} comparisons in "
            f"{workspace.comparisons_folder}: {list_offenders(missing)}. Restore it from a backup: without it the "
            "error budget that was spent on the test set is not known."
        )
    return comparisons


def _write(workspace: Workspace, comparisons: list[Comparison]) -> None:
    """Write all comparisons, grouped by test set."""
    content: dict[str, list[dict[str, Any]]] = {}
    for comparison in comparisons:
        entry = asdict(comparison)
        content.setdefault(entry.pop("test_set_sha256"), []).append(entry)
    write_json(workspace.ledger_file, content)
