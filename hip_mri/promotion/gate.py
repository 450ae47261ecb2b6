"""Decides whether a newly trained model replaces the champion.

Both models score the same locked test images, and their AUCs are compared as paired data with clustering by group. The
error that a comparison may spend comes from `hip_mri.promotion.error_budget`. The challenger must also reach the
required sensitivities at its own threshold, in all test images and in each subgroup.
"""

from dataclasses import dataclass

import pandas as pd
from numpy.typing import ArrayLike

from hip_mri.config import ReleaseSettings
from hip_mri.errors import ReleaseError, list_offenders
from hip_mri.evaluation.metrics.confidence_intervals import Interval
from hip_mri.evaluation.metrics.delong import compare_auc
from hip_mri.evaluation.metrics.subgroups import MIN_SUBGROUP_SIZE
from hip_mri.evaluation.metrics.validation import check_predictions, number_labels, validate_scores
from hip_mri.promotion.error_budget import Comparison
from hip_mri.promotion.sensitivity_requirements import (
    SensitivityRequirement,
    describe_requirements,
    measure_sensitivities,
)


@dataclass(frozen=True)
class Difference:
    """Difference in AUC between challenger and champion on the test images.

    Attributes:
        champion_auc: AUC of the champion.
        challenger_auc: AUC of the challenger.
        value: AUC of the challenger minus that of the champion.
        interval: Lower and upper limit of the difference, each one-sided at the error of the comparison.
        p_value: One-sided, of the hypothesis that the challenger is no better; `None` where the difference does not
            vary between groups, so that its error cannot be estimated.
    """

    champion_auc: float
    challenger_auc: float
    value: float
    interval: Interval
    p_value: float | None


@dataclass(frozen=True)
class Decision:
    """Decision of the gate.

    Attributes:
        promote: Whether the challenger passes.
        reasons: Why, as sentences; includes those against it.
        requirements: Every required sensitivity, that in all test images first.
        difference: AUC of the challenger minus that of the champion; `None`, like all below, for the first version,
            which is compared with none.
        interval: Lower and upper limit of the difference, each one-sided at `alpha_spent`.
        p_value: One-sided, of the hypothesis that the challenger is no better.
        alpha_spent: One-sided error that the comparison spent.
        comparison: Number of the comparison on this test set.
    """

    promote: bool
    reasons: tuple[str, ...]
    requirements: tuple[SensitivityRequirement, ...] = ()
    difference: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    alpha_spent: float | None = None
    comparison: int | None = None


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
        champion_scores: Columns image_id, label (of `LABELS`), score (probability of a lesion, 0-1) and group, one row
            per image of the locked test set.
        challenger_scores: The same images, scored by the challenger.
        settings: The rule, its margin and the required sensitivities.
        comparison: From `hip_mri.promotion.error_budget.record_comparison`.
        threshold: The challenger's own, 0-1; scores at or above it are called a lesion.
        attributes: Columns image_id and those that define subgroups, as text; `None` without any.
        min_size: Groups with lesions below which a subgroup is not judged, and groups below which its name is
            withheld.

    Returns:
        The decision and its reasons.

    Raises:
        ReleaseError: The tables differ in images, labels or groups.
        EvaluationError: A class is missing, or fewer than two groups have lesions.
    """
    champion, challenger = _align(champion_scores, challenger_scores)
    difference = bound_difference(
        number_labels(challenger), champion["score"], challenger["score"], challenger["group"], comparison.alpha
    )
    requirements = measure_sensitivities(challenger, settings, threshold, attributes, min_size)
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
    """Decide by the required sensitivities whether a version becomes the first champion; see `compare_versions`."""
    _check_scores(scores)
    requirements = measure_sensitivities(scores, settings, threshold, attributes, min_size)
    return Decision(
        promote=all(requirement.is_met for requirement in requirements),
        reasons=(
            "There is no champion to compare with: only the required sensitivities count.",
            *describe_requirements(requirements),
        ),
        requirements=requirements,
    )


def bound_difference(
    labels: ArrayLike, champion: ArrayLike, challenger: ArrayLike, groups: ArrayLike, alpha: float
) -> Difference:
    """Estimate the difference of two AUCs on the same images, with one-sided confidence limits.

    The standard error is Obuchowski's for clustered data, with normal quantiles. In simulations
    (`tests/benchmarks/gate.py`) the error is kept at the small alpha of a comparison from 8 groups with lesions on;
    Student's quantiles would halve the power.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        champion: Scores of the champion, 0-1, shape (num_images,).
        challenger: Scores of the challenger, 0-1, shape (num_images,).
        groups: Names of groups of dependent images, shape (num_images,).
        alpha: One-sided error of each limit, 0-0.5; with 0 the limits are -1 and 1.

    Raises:
        EvaluationError: A class is missing, or fewer than two groups have lesions, or normal images.
    """
    from scipy.special import ndtr, ndtri  # noqa: PLC0415 - a tenth of a second to import

    compared = compare_auc(labels, challenger, champion, groups)
    value, error = compared.difference, compared.standard_error
    without_variance = 0.5 if value == 0 else None
    half = -float(ndtri(alpha)) * error if alpha > 0 else 2.0
    return Difference(
        champion_auc=compared.second_auc,
        challenger_auc=compared.first_auc,
        value=value,
        interval=(max(value - half, -1.0), min(value + half, 1.0)),
        p_value=float(ndtr(-value / error)) if error > 0 else without_variance,
    )


def _align(champion: pd.DataFrame, challenger: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sort both tables by image id and check that they have the same images, labels and groups."""
    for scores in (champion, challenger):
        _check_scores(scores)
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


def _check_scores(scores: pd.DataFrame) -> None:
    check_predictions(scores.assign(split="test"))
    validate_scores(number_labels(scores), scores["score"], scores["group"])


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
    if difference.p_value is None:
        reasons.append("The difference does not vary between groups, so its error cannot be estimated.")
        return False, reasons
    is_superior, is_non_inferior = lower > 0, lower > -margin
    reasons.append("It is shown to be better." if is_superior else "It is not shown to be better.")
    reasons.append(
        f"A loss of {margin:g}, the margin, is ruled out."
        if is_non_inferior
        else f"A loss of {margin:g}, the margin, is not ruled out."
    )
    return is_superior or (is_non_inferior and settings.rule == "non_inferior"), reasons
