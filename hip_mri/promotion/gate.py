"""Decides whether a newly trained model replaces the champion.

Both models score the same locked test images, and their AUCs are compared by two tests that respect groups. The error
that a comparison may spend comes from `hip_mri.promotion.error_budget`. Every model must also reach the required
sensitivity and specificity at its own threshold; the first champion, which is compared with none, must rank lesions
above normal images. With few groups in the test set nothing is decided.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hip_mri.config import ReleaseSettings
from hip_mri.errors import ReleaseError, list_offenders
from hip_mri.evaluation.metrics.confidence_intervals import Interval
from hip_mri.evaluation.metrics.split_metrics import measure_split
from hip_mri.evaluation.metrics.validation import check_predictions, number_labels, validate_scores
from hip_mri.promotion.difference import Difference, bound_difference
from hip_mri.promotion.error_budget import Comparison
from hip_mri.promotion.permutation import find_min_p_value
from hip_mri.promotion.requirements import Requirement, describe_requirements


@dataclass(frozen=True)
class Decision:
    """Decision of the gate.

    Attributes:
        promote: Whether the challenger passes.
        reasons: Why, as sentences; includes those against it.
        is_judged: Whether the test set has enough groups, and enough error left, for a decision.
        requirements: Every required sensitivity and specificity, those in all test images first.
        difference: AUC of the challenger minus that of the champion; `None`, like all below, where they were not
            compared.
        interval: Lower and upper limit of the difference, each one-sided at `alpha_spent`.
        p_value: One-sided, of the hypothesis that the challenger is no better.
        alpha_spent: One-sided error that the comparison spent.
        comparison: Number of the comparison on this test set.
    """

    promote: bool
    reasons: tuple[str, ...]
    is_judged: bool = True
    requirements: tuple[Requirement, ...] = ()
    difference: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    alpha_spent: float | None = None
    comparison: int | None = None


def measure_test_set(scores: pd.DataFrame, threshold: float) -> dict[str, Any]:
    """Compute all metrics of a model on the test set, with intervals; see `measure_split`.

    Args:
        scores: Columns image_id, label (of `LABELS`), score (probability of a lesion, 0-1) and group, one row per image
            of the locked test set.
        threshold: The model's own, 0-1; scores at or above it are called a lesion.

    Raises:
        EvaluationError: The table cannot be used, or a class is missing.
    """
    check_predictions(scores.assign(split="test"))
    return measure_split(number_labels(scores), scores["score"], scores["group"], threshold)


def refuse_few_groups(scores: pd.DataFrame, settings: ReleaseSettings) -> Decision | None:
    """Decide not to judge a model whose test set has too few groups; `None` where it has enough.

    Args:
        scores: See `measure_test_set`.
        settings: The minimum number of groups.

    Raises:
        EvaluationError: A class is missing.
    """
    validated = validate_scores(number_labels(scores), scores["score"], scores["group"])
    needed = settings.min_groups_per_class
    if validated.num_rarer_groups >= needed:
        return None
    reason = (
        f"Cannot be judged: {validated.count_groups(1)} groups of test images have lesions and "
        f"{validated.count_groups(0)} have normal images, but {needed} of each are needed "
        "(release.min_groups_per_class)."
    )
    return Decision(promote=False, reasons=(reason,), is_judged=False)


def refuse_small_error(scores: pd.DataFrame, comparison: Comparison) -> Decision | None:
    """Decide not to compare models where no p-value is as small as the error; `None` where one can be.

    Args:
        scores: See `measure_test_set`.
        comparison: The next one, which is not recorded yet.
    """
    smallest = find_min_p_value(number_labels(scores), scores["group"])
    if comparison.alpha == 0 or comparison.alpha >= smallest:  # a budget that is spent is another reason
        return None
    reason = (
        f"Cannot be judged: the error of comparison {comparison.number} is {100 * comparison.alpha:.3g} %, but with "
        f"{scores['group'].nunique()} groups of test images no p-value is below {100 * smallest:.3g} %. Start a "
        "workspace with new test images, of more groups."
    )
    return Decision(promote=False, reasons=(reason,), is_judged=False)


def compare_versions(
    champion_scores: pd.DataFrame,
    challenger_scores: pd.DataFrame,
    requirements: tuple[Requirement, ...],
    settings: ReleaseSettings,
    comparison: Comparison,
) -> Decision:
    """Decide whether a challenger replaces the champion.

    Args:
        champion_scores: See `measure_test_set`.
        challenger_scores: The same images, scored by the challenger.
        requirements: Of the challenger, from `hip_mri.promotion.requirements.measure_requirements`.
        settings: The rule and its margin.
        comparison: From `hip_mri.promotion.error_budget.record_comparison`.

    Returns:
        The decision and its reasons.

    Raises:
        ReleaseError: The tables differ in images, labels or groups.
        EvaluationError: A class is missing.
    """
    champion, challenger = _align(champion_scores, challenger_scores)
    difference = bound_difference(
        number_labels(challenger),
        champion["score"],
        challenger["score"],
        challenger["group"],
        comparison.alpha,
        settings.non_inferiority_margin,
    )
    is_shown, reasons = _apply_rule(difference, settings, comparison)
    return Decision(
        promote=is_shown and all(requirement.is_met for requirement in requirements),
        reasons=(*reasons, *describe_requirements(requirements)),
        requirements=requirements,
        difference=difference.value,
        interval=difference.interval,
        p_value=difference.p_value,
        alpha_spent=comparison.alpha,
        comparison=comparison.number,
    )


def judge_first_version(
    measured: Mapping[str, Any], requirements: tuple[Requirement, ...], settings: ReleaseSettings
) -> Decision:
    """Decide whether a version becomes the first champion.

    Args:
        measured: Its metrics, from `measure_test_set`.
        requirements: See `compare_versions`.
        settings: The required AUC.
    """
    is_useful, reason = _judge_auc(measured, settings)
    return Decision(
        promote=is_useful and all(requirement.is_met for requirement in requirements),
        reasons=("There is no champion to compare with.", reason, *describe_requirements(requirements)),
        requirements=requirements,
    )


def _judge_auc(measured: Mapping[str, Any], settings: ReleaseSettings) -> tuple[bool, str]:
    """Return whether the lower limit of the AUC is above the required one, and the reason."""
    lower, upper = measured["intervals"]["auc"] or (0.0, 1.0)
    is_useful = lower > settings.min_first_auc
    relation = "above" if is_useful else "not above"
    return is_useful, (
        f"AUC {measured['auc']:.3f} (95% interval {lower:.3f} to {upper:.3f}): the lower limit is {relation} the "
        f"required {settings.min_first_auc:g}."
    )


def _align(champion: pd.DataFrame, challenger: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sort both tables by image id and check that they have the same images, labels and groups."""
    for scores in (champion, challenger):
        check_predictions(scores.assign(split="test"))
    first, second = (table.sort_values("image_id", ignore_index=True) for table in (champion, challenger))
    ids = [set(table["image_id"]) for table in (first, second)]
    if ids[0] != ids[1]:
        raise ReleaseError(
            f"release: the champion has scores of {len(ids[0])} test images and the challenger of {len(ids[1])}; "
            f"{len(ids[0] - ids[1])} are scored by the champion alone, {len(ids[1] - ids[0])} by the challenger alone: "
            f"{list_offenders(sorted(ids[0] ^ ids[1]))}. Score both on the locked test set of this workspace."
        )
    for column in ("label", "group"):
        differs = first[column] != second[column]
        if differs.any():
            raise ReleaseError(
                f"release: {int(differs.sum())} of {len(first)} test images have another {column} for the champion "
                f"than for the challenger: {list_offenders(first.loc[differs, 'image_id'].tolist())}. Take both from "
                "the present manifest."
            )
    return first, second


def _apply_rule(difference: Difference, settings: ReleaseSettings, comparison: Comparison) -> tuple[bool, list[str]]:
    """Return whether the rule is met, and the reasons."""
    lower, upper = difference.interval
    margin = settings.non_inferiority_margin
    reasons = [
        f"AUC {difference.challenger_auc:.3f} against {difference.champion_auc:.3f} of the champion: difference "
        f"{difference.value:+.3f}, limits {lower:+.3f} and {upper:+.3f} at the error of comparison "
        f"{comparison.number}, {100 * comparison.alpha:.3g} %."
    ]
    if comparison.alpha == 0:
        reasons.append(
            f"The error budget of this test set, {settings.error_budget:g}, is spent: no further comparison on it can "
            "promote a model. Start a workspace with new test images."
        )
        return False, reasons
    is_superior, is_non_inferior = lower > 0, difference.excludes_loss
    reasons.append(
        "The challenger is shown to be better." if is_superior else "The challenger is not shown to be better."
    )
    reasons.append(
        f"A loss of {margin:g}, the margin, is ruled out."
        if is_non_inferior
        else f"A loss of {margin:g}, the margin, is not ruled out."
    )
    return is_superior or (is_non_inferior and settings.rule == "non_inferior"), reasons
