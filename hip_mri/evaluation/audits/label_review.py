"""Counts the labels that are suspected to be wrong; see `hip_mri.monitoring.label_review`."""

from typing import Any

import pandas as pd

from hip_mri.config import LABELS, SPLITS


def summarize_label_review(review: pd.DataFrame) -> dict[str, Any]:
    """Count the suspected labels.

    Args:
        review: See `hip_mri.monitoring.label_review.review_labels`.

    Returns:
        `num_images`; `num_suspected` and `fraction_suspected`; `reasons`: number of labels suspected for each reason;
        `splits`: `num_images` and `num_suspected` of each split and label; and `num_unscored`: images that were not
        judged by a score, since there was no cross-validation or no fold scored them.
    """
    suspected = review[is_suspected(review)]
    reasons = suspected["reason"].str.split("+").explode().value_counts()
    return {
        "num_images": len(review),
        "num_unscored": int(review["score"].isna().sum()),
        "num_suspected": len(suspected),
        "fraction_suspected": len(suspected) / len(review),
        "reasons": {str(reason): int(count) for reason, count in sorted(reasons.items())},
        "splits": {split: {label: _count(review, split, label) for label in LABELS} for split in SPLITS},
    }


def _count(review: pd.DataFrame, split: str, label: str) -> dict[str, int]:
    rows = review[(review["split"] == split) & (review["label"] == label)]
    return {"num_images": len(rows), "num_suspected": int(is_suspected(rows).sum())}


def is_suspected(review: pd.DataFrame) -> pd.Series:
    """Whether each label is suspected; the column is text, as it is read from the file."""
    return review["is_suspected"] == "True"
