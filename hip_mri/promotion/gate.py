"""The gate: whether a newly trained model may take the place of the champion.

Both models score the same locked test images, so their AUCs are compared in pairs, by groups. What a look may cost in
error is told by `hip_mri.promotion.error_budget`. Beside the AUC, the challenger must call enough lesions at its
own threshold, in all and in each subgroup.
"""

from dataclasses import dataclass
from typing import Final

import pandas as pd
from numpy.typing import ArrayLike

from hip_mri.config import ReleaseSettings
from hip_mri.errors import ReleaseError, list_offenders
from hip_mri.evaluation.metrics.confidence_intervals import Interval
from hip_mri.evaluation.metrics.delong import compare_auc
from hip_mri.evaluation.metrics.subgroups import MINIMUM_SIZE
from hip_mri.evaluation.metrics.validation import check_predictions, number_labels, validate_scores
from hip_mri.promotion.error_budget import Look
from hip_mri.promotion.sensitivity_requirements import Floor, measure_floors, tell_floors

GATE_COLUMNS: Final = ("image_id", "label", "score", "group")
"""Columns of a table of scores: pseudonym, one of `LABELS`, probability of a lesion 0-1, name of the group."""


@dataclass(frozen=True)
class Difference:
    """How much better the challenger is on the test images.

    Attributes:
        champion_auc: AUC of the champion.
        challenger_auc: AUC of the challenger.
        value: Second less first.
        interval: Bounds of the difference; each is passed by chance with the error of the look at most.
        p_value: One-sided, of the hypothesis that the challenger is no better; `None` where the difference does not
            vary between groups, for then the images say nothing about chance.
    """

    champion_auc: float
    challenger_auc: float
    value: float
    interval: Interval
    p_value: float | None


@dataclass(frozen=True)
class Decision:
    """What the gate says.

    Attributes:
        promote: Whether the challenger becomes champion.
        reasons: Why, as sentences; those that speak against it included.
        floors: Every floor, of all test images first.
        difference: AUC of the challenger less that of the champion; like all below `None` for the first version,
            which is compared with none.
        interval: Bounds of the difference; each is passed by chance with probability `alpha_spent` at most.
        p_value: One-sided, of the hypothesis that the challenger is no better.
        alpha_spent: Error that this look spent, one-sided.
        look: Number of the look at this test set.
    """

    promote: bool
    reasons: tuple[str, ...]
    floors: tuple[Floor, ...]
    difference: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    alpha_spent: float | None = None
    look: int | None = None


def compare_versions(
    champion_scores: pd.DataFrame,
    challenger_scores: pd.DataFrame,
    settings: ReleaseSettings,
    look: Look,
    threshold: float,
    attributes: pd.DataFrame | None = None,
    minimum_size: int = MINIMUM_SIZE,
) -> Decision:
    """Decide whether a challenger takes the champion's place.

    Args:
        champion_scores: Columns of `GATE_COLUMNS`, one row per image of the locked test set.
        challenger_scores: The same images, scored by the challenger.
        settings: The rule, its margin and the floors.
        look: By `hip_mri.promotion.error_budget.record_look`.
        threshold: The challenger's own, 0-1; scores at or above it are called a lesion.
        attributes: Column image_id and those that describe subgroups, as text; `None` without any.
        minimum_size: Groups with lesions that a subgroup needs to be judged, and groups below which its name is
            withheld.

    Returns:
        The decision and its reasons.

    Raises:
        ReleaseError: The tables do not speak of the same images, labels and groups.
        EvaluationError: They cannot be measured: a class is missing, or fewer than two groups have lesions.
    """
    champion, challenger = _align(champion_scores, challenger_scores)
    difference = bound_difference(
        number_labels(challenger), champion["score"], challenger["score"], challenger["group"], look.alpha
    )
    floors = measure_floors(challenger, settings, threshold, attributes, minimum_size)
    is_shown, reasons = _judge(difference, settings, look)
    return Decision(
        promote=is_shown and all(floor.is_met for floor in floors),
        reasons=(*reasons, *tell_floors(floors)),
        floors=floors,
        difference=difference.value,
        interval=difference.interval,
        p_value=difference.p_value,
        alpha_spent=look.alpha,
        look=look.number,
    )


def judge_first_version(
    scores: pd.DataFrame,
    settings: ReleaseSettings,
    threshold: float,
    attributes: pd.DataFrame | None = None,
    minimum_size: int = MINIMUM_SIZE,
) -> Decision:
    """Decide whether a version becomes the first champion: only the floors count. Arguments as `compare_versions`."""
    _check_scores("first version", scores)
    floors = measure_floors(scores, settings, threshold, attributes, minimum_size)
    reasons = ("There is no champion to compare with: only the floors count.", *tell_floors(floors))
    return Decision(promote=all(floor.is_met for floor in floors), reasons=reasons, floors=floors)


def bound_difference(
    labels: ArrayLike, champion: ArrayLike, challenger: ArrayLike, groups: ArrayLike, alpha: float
) -> Difference:
    """Bound the difference of two AUCs on the same images, by groups.

    The error is Obuchowski's for clustered images, the distribution normal. In simulations (`tests/benchmarks/gate.py`)
    this holds far into the tail that a small alpha asks for, from 8 groups with lesions on; Student's quantiles would
    lose half of the power.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        champion: The champion's scores, 0-1, shape (num_images,).
        challenger: The challenger's, the same shape.
        groups: Names of groups within which images resemble each other, shape (num_images,).
        alpha: Probability that chance passes either bound, 0-0.5; with 0 the bounds are -1 and 1.

    Raises:
        EvaluationError: The images cannot be measured, or fewer than two groups have lesions, or normal images.
    """
    from scipy.special import ndtr, ndtri  # noqa: PLC0415 - a tenth of a second to import

    compared = compare_auc(labels, challenger, champion, groups)
    value, error = compared.difference, compared.standard_error
    certain = 0.5 if value == 0 else None  # where nothing varies
    half = -float(ndtri(alpha)) * error if alpha > 0 else 2.0
    return Difference(
        champion_auc=compared.second_auc,
        challenger_auc=compared.first_auc,
        value=value,
        interval=(max(value - half, -1.0), min(value + half, 1.0)),
        p_value=float(ndtr(-value / error)) if error > 0 else certain,
    )


def _align(champion: pd.DataFrame, challenger: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables in the order of their images, which must be the same."""
    _check_scores("champion", champion)
    _check_scores("challenger", challenger)
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


def _check_scores(whose: str, scores: pd.DataFrame) -> None:
    missing = [column for column in GATE_COLUMNS if column not in scores.columns]
    if missing:
        raise ReleaseError(
            f"release: the {whose}'s scores have no column {list_offenders(missing)}, only "
            f"{list_offenders(list(map(str, scores.columns)))}. Score the test images again."
        )
    check_predictions(scores.assign(split="test"))
    validate_scores(number_labels(scores), scores["score"], scores["group"])


def _judge(difference: Difference, settings: ReleaseSettings, look: Look) -> tuple[bool, list[str]]:
    """Whether the rule is met, and what there is to say about it."""
    lower, upper = difference.interval
    margin = settings.non_inferiority_margin
    reasons = [
        f"AUC {difference.challenger_auc:.3f} against {difference.champion_auc:.3f} of the champion: difference "
        f"{difference.value:+.3f}, bounds {lower:+.3f} and {upper:+.3f} at the error of look {look.number}, "
        f"{100 * look.alpha:.3g} %."
    ]
    if look.alpha == 0:
        reasons.append(
            f"The error budget of this test set, {settings.error_budget:g}, is spent: nothing can be shown on it any "
            "more. Start a workspace with new test images."
        )
        return False, reasons
    if difference.p_value is None:
        reasons.append("The difference does not vary between groups, so the images say nothing about chance.")
        return False, reasons
    is_superior, is_non_inferior = lower > 0, lower > -margin
    reasons.append("It is shown to be better." if is_superior else "It is not shown to be better.")
    reasons.append(
        f"A loss of {margin:g}, the margin, is ruled out."
        if is_non_inferior
        else f"A loss of {margin:g}, the margin, is not ruled out."
    )
    return is_superior or (is_non_inferior and settings.rule == "non_inferior"), reasons
