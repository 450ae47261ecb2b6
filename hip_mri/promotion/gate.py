"""Decides whether a newly trained model replaces the champion.

Both models score the same locked test images, and their AUCs are compared by two tests that respect groups. The error
that a comparison may spend comes from `hip_mri.promotion.error_budget`. Every model must also reach the required
sensitivity and specificity at its own threshold; the first champion, which is compared with none, must rank lesions
above normal images. With few groups in the test set nothing is decided.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
from numpy.typing import ArrayLike

from hip_mri.config import ReleaseSettings
from hip_mri.errors import ReleaseError, list_offenders
from hip_mri.evaluation.metrics.confidence_intervals import Interval
from hip_mri.evaluation.metrics.delong import AucComparison, compare_auc
from hip_mri.evaluation.metrics.split_metrics import measure_split
from hip_mri.evaluation.metrics.subgroups import MIN_SUBGROUP_SIZE
from hip_mri.evaluation.metrics.validation import check_predictions, number_labels, validate_scores
from hip_mri.promotion.error_budget import Comparison
from hip_mri.promotion.permutation import NUM_SUBSETS, compare_by_permutation, find_min_p_value
from hip_mri.promotion.requirements import Requirement, describe_requirements, measure_requirements

CONCENTRATED_LOSS: Final = 0.1
"""Loss of AUC within the groups that have one; see `_bound_error`."""


@dataclass(frozen=True)
class Difference:
    """Difference in AUC between challenger and champion on the test images.

    Attributes:
        champion_auc: AUC of the champion.
        challenger_auc: AUC of the challenger.
        value: AUC of the challenger minus that of the champion.
        interval: Lower and upper limit of the difference, each one-sided at the error of the comparison.
        p_value: One-sided, of the hypothesis that the challenger is no better.
        excludes_loss: Whether a loss of the non-inferiority margin is ruled out at the error of the comparison.
    """

    champion_auc: float
    challenger_auc: float
    value: float
    interval: Interval
    p_value: float
    excludes_loss: bool


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
    settings: ReleaseSettings,
    comparison: Comparison,
    threshold: float,
    attributes: pd.DataFrame | None = None,
    min_size: int = MIN_SUBGROUP_SIZE,
) -> Decision:
    """Decide whether a challenger replaces the champion.

    Args:
        champion_scores: See `measure_test_set`.
        challenger_scores: The same images, scored by the challenger.
        settings: The rule, its margin and the requirements.
        comparison: From `hip_mri.promotion.error_budget.record_comparison`.
        threshold: The challenger's own, 0-1; scores at or above it are called a lesion.
        attributes: Columns image_id and those that define subgroups, as text; `None` without any.
        min_size: Groups with lesions below which a subgroup is not judged, and groups below which its name is withheld.

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
    measured = measure_test_set(challenger, threshold)
    requirements = measure_requirements(challenger, measured, settings, attributes, min_size)
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
    scores: pd.DataFrame,
    settings: ReleaseSettings,
    threshold: float,
    attributes: pd.DataFrame | None = None,
    min_size: int = MIN_SUBGROUP_SIZE,
) -> Decision:
    """Decide whether a version becomes the first champion; arguments as of `compare_versions`."""
    measured = measure_test_set(scores, threshold)
    requirements = measure_requirements(scores, measured, settings, attributes, min_size)
    is_useful, reason = _judge_auc(measured, settings)
    return Decision(
        promote=is_useful and all(requirement.is_met for requirement in requirements),
        reasons=("There is no champion to compare with.", reason, *describe_requirements(requirements)),
        requirements=requirements,
    )


def bound_difference(
    labels: ArrayLike,
    champion: ArrayLike,
    challenger: ArrayLike,
    groups: ArrayLike,
    alpha: float,
    margin: float,
    num_subsets: int = NUM_SUBSETS,
) -> Difference:
    """Estimate the difference of two AUCs on the same images, with one-sided confidence limits.

    Two tests have to agree; limits and p-value are the less favorable ones. The permutation test keeps its error for
    models whose ROC curves have the same shape, also where a few groups have most of the images. Student's t with
    Obuchowski's standard error needs no equal shape. In simulations (`tests/benchmarks/gate.py`) either alone promotes
    up to twice as often as it should where the condition of the other one holds.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        champion: Scores of the champion, 0-1, shape (num_images,).
        challenger: Scores of the challenger, 0-1, shape (num_images,).
        groups: Names of groups of dependent images, shape (num_images,).
        alpha: One-sided error of each limit, 0-0.5; with 0 the limits are -1 and 1.
        margin: Non-inferiority margin of the AUC, 0-0.5.
        num_subsets: Of the permutation test.

    Raises:
        EvaluationError: A class is missing, or fewer than two groups have lesions, or normal images.
    """
    compared = compare_auc(labels, challenger, champion, groups)
    (lower, upper), p_value = compare_by_permutation(labels, challenger, champion, groups, alpha, num_subsets)
    value, error = compared.difference, compared.standard_error
    half = -_find_quantile(compared, alpha) * error if alpha > 0 else 2.0
    lower, upper = max(min(lower, value - half), -1.0), min(max(upper, value + half), 1.0)
    loss_p_value = _compute_p_value(compared, margin, _bound_error(compared, margin))
    return Difference(
        champion_auc=compared.second_auc,
        challenger_auc=compared.first_auc,
        value=value,
        interval=(lower, upper),
        p_value=max(p_value, _compute_p_value(compared, 0.0, error)),
        excludes_loss=lower > 0 or (lower > -margin and loss_p_value <= alpha),
    )


def _find_quantile(compared: AucComparison, alpha: float) -> float:
    from scipy.special import stdtrit  # noqa: PLC0415 - a tenth of a second to import

    return float(stdtrit(compared.degrees_of_freedom, alpha))


def _compute_p_value(compared: AucComparison, loss: float, error: float) -> float:
    """Compute the one-sided p-value of the hypothesis that the challenger loses as much AUC, by Student's t."""
    from scipy.special import stdtr  # noqa: PLC0415 - a tenth of a second to import

    distance = compared.difference + loss
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stdtr(compared.degrees_of_freedom, -distance / error))


def _bound_error(compared: AucComparison, margin: float) -> float:
    """Estimate the standard error of the difference if the challenger loses the margin, from above.

    Test images that happen to show no loss show too little variance as well, above all where the AUC is near 1. The
    variance of an AUC is about proportional to AUC (1 - AUC) (Hanley and McNeil, Radiology 143, 1982), which gives its
    value after the loss. The lower limit is for losses that are concentrated in few groups, none of which is in the
    test set; its factor comes from simulations (`tests/benchmarks/gate.py`).
    """
    num_groups = compared.num_rarer_groups
    highest = min(max(compared.first_auc, compared.second_auc), 1 - 1 / (2 * num_groups))
    after_loss = max(compared.second_auc - margin, 0.5)
    growth = max(after_loss * (1 - after_loss) / (highest * (1 - highest)), 1.0)
    return math.sqrt(max(growth * compared.standard_error**2, CONCENTRATED_LOSS * margin / num_groups))


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
    reasons.append("It is shown to be better." if is_superior else "It is not shown to be better.")
    reasons.append(
        f"A loss of {margin:g}, the margin, is ruled out."
        if is_non_inferior
        else f"A loss of {margin:g}, the margin, is not ruled out."
    )
    return is_superior or (is_non_inferior and settings.rule == "non_inferior"), reasons
