"""Computes the results of a comparison from the scores of all candidates; `verify` computes them again."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from hip_mri.evaluation.metrics.confidence_intervals import (
    MIN_DEVIATION,
    compute_t_quantile,
    compute_wilson_intervals,
)
from hip_mri.model_comparison.differences import (
    MIN_NUM_GROUPS,
    CrossValidatedAucs,
    PairedDifferences,
    compare_candidates,
    measure_aucs,
)

SCORE_COLUMNS: Final = ("candidate", "seed", "fold", "image_id", "group", "label", "score")
"""Columns of the scores: number of the repetition and of the fold, image and its group, probability of a lesion."""


def compute_results(scores: pd.DataFrame, candidates: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Compute AUCs, paired differences, the best candidate and the simplest within one standard error of it.

    Args:
        scores: Columns of `SCORE_COLUMNS`; the same images and folds for all candidates.
        candidates: Name, `num_bytes`, `is_fine_tuned`, `mirror_averaging` and `has_clahe` of each; the first one is
            the reference.
        seed: Seed of the resamples.

    Returns:
        For each candidate AUC, its standard error and interval, AUC of each repetition, and the differences to the
        best and to the reference; names of the best and the simplest; and whether any difference is shown.
    """
    names = [candidate["name"] for candidate in candidates]
    aucs = measure_aucs(scores, names)
    differences = compare_candidates(aucs, seed)
    values, errors = aucs.values, aucs.standard_errors
    best = int(np.argmax(values))
    limit = values[best] - _compute_best_error(aucs, best)
    eligible = [place for place in range(len(names)) if values[place] >= limit]
    simplest = min(eligible, key=lambda place: _rank_simplicity(candidates[place], place))
    first = scores[scores["candidate"] == names[0]]
    images = first.drop_duplicates("image_id")
    return {
        "num_images": len(images),
        "num_lesions": int((images["label"] != "normal").sum()),
        "num_groups": int(images["group"].nunique()),
        "num_folds": int(first["fold"].nunique()),
        "num_seeds": int(first["seed"].nunique()),
        "min_num_groups": MIN_NUM_GROUPS,
        "best": names[best],
        "simplest": names[simplest],
        "reference": names[0],
        "one_standard_error_limit": float(limit),
        "is_any_difference_shown": differences is not None and bool(differences.are_shown.any()),
        "shown_better_than": {
            name: [] if differences is None else _list_shown(differences, place, names)
            for place, name in enumerate(names)
        },
        "candidates": [
            {
                "name": name,
                "auc": float(values[place]),
                "standard_error": float(errors[place]),
                "interval": _compute_interval(aucs, place),
                "auc_by_seed": aucs.by_seed[place].tolist(),
                "is_within_one_standard_error": place in eligible,
                "difference_to_best": _describe_difference(aucs, differences, place, best),
                "difference_to_reference": _describe_difference(aucs, differences, place, 0),
            }
            for place, name in enumerate(names)
        ],
    }


def _rank_simplicity(candidate: Mapping[str, Any], place: int) -> tuple[Any, ...]:
    """Order candidates by simplicity: training of the head alone, size, a single view, no CLAHE, place in the list."""
    return (
        candidate["is_fine_tuned"],
        candidate["num_bytes"],
        candidate["mirror_averaging"],
        candidate["has_clahe"],
        place,
    )


def _compute_best_error(aucs: CrossValidatedAucs, best: int) -> float:
    """Return the standard error of the best AUC; where it is 1 and does not vary, that of its Wilson interval."""
    error, interval = float(aucs.standard_errors[best]), _compute_interval(aucs, best)
    if error > MIN_DEVIATION or interval is None:
        return error
    return float(aucs.values[best] - interval[0]) / compute_t_quantile(aucs.num_rarer_groups)


def _compute_interval(aucs: CrossValidatedAucs, place: int) -> list[float] | None:
    """Compute Wilson's score interval with the effective sample size of the standard error, as for test metrics."""
    if aucs.num_rarer_groups < MIN_NUM_GROUPS:
        return None
    quantile = compute_t_quantile(aucs.num_rarer_groups)
    limits = compute_wilson_intervals(
        aucs.values[place], aucs.standard_errors[place], quantile, aucs.influences.shape[1]
    )
    return limits.tolist()


def _describe_difference(
    aucs: CrossValidatedAucs, differences: PairedDifferences | None, place: int, other: int
) -> dict[str, Any] | None:
    """Describe the difference of a candidate to another one; `None` to itself."""
    if place == other:
        return None
    value = float(aucs.values[place] - aucs.values[other])
    if differences is None:
        return {"value": value, "interval": None, "simultaneous_interval": None, "is_shown": False}
    half, simultaneous = (float(it[place, other]) for it in (differences.halves, differences.simultaneous_halves))
    return {
        "value": value,
        "interval": [value - half, value + half],
        "simultaneous_interval": [value - simultaneous, value + simultaneous],
        "is_shown": bool(differences.are_shown[place, other]),
    }


def _list_shown(differences: PairedDifferences, place: int, names: Sequence[str]) -> list[str]:
    """Name the candidates that a candidate is shown to be better than."""
    is_better = differences.are_shown[place] & (differences.values[place] > 0)
    return [name for name, shown in zip(names, is_better, strict=True) if shown]
