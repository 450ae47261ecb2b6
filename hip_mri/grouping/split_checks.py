"""Checks of a split: no patient in two splits, and images of each class in every split."""

from collections import Counter

import pandas as pd

from hip_mri.config import LABELS, SPLITS
from hip_mri.errors import SplitError, list_offenders


def count_images(images: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count images (columns split and label) by split and label, zeros included."""
    counts = Counter(zip(images["split"], images["label"], strict=True))
    return {split: {label: counts[split, label] for label in LABELS} for split in SPLITS}


def check_ties(splits: pd.Series, ties: pd.DataFrame) -> None:
    """Check that no evidence relates images of different splits of earlier runs; `splits` by SHA-256."""
    placed = ties.assign(split=splits.reindex(ties["sha256"], fill_value="").to_numpy())
    placed = placed[placed["split"].isin(SPLITS)]
    conflicts = placed[placed.groupby("key")["split"].transform("nunique") > 1]
    if conflicts.empty:
        return
    is_patient = conflicts["kind"].isin(["patient_id", "patient_pattern"])
    shown = conflicts[is_patient] if is_patient.any() else conflicts
    what = "patients" if is_patient.any() else "pairs of equal or nearly equal images"
    accept = "" if is_patient.any() else ", or accept it with --data.group-similar false"
    raise SplitError(
        f"data: {shown['key'].nunique()} {what} are in two splits, with the images "
        f"{list_offenders([sha256[:16] for sha256 in shown.sort_values(['key', 'sha256'])['sha256'].unique()])}. "
        f"They were split before this was known: start in an empty workspace{accept}."
    )


def check_classes(images: pd.DataFrame, *, num_held_out: int, is_given: bool) -> None:
    """Check that each class has images in every split.

    Args:
        images: Columns label, group, split and evidence.
        num_held_out: Further images, which are in no split.
        is_given: Whether the source gives a split.

    Raises:
        SplitError: A class has no image in a split, with the number of its images and groups.
    """
    counts = count_images(images)
    lacking = [f"{label} in {split}" for split in SPLITS for label in LABELS if not counts[split][label]]
    if not lacking:
        return
    by_label = [(label, images.loc[images["label"] == label, "group"]) for label in LABELS]
    groups = ", ".join(f"{label} {len(names)} images in {names.nunique()} groups" for label, names in by_label)
    held_out = (
        f" {num_held_out} images are held out, since they are related to another split; start in an empty workspace."
        if num_held_out
        else ""
    )
    given = (
        " The source gives a split, by its folders or its table: put each class into every split that it gives, or "
        "draw a new split with --data.given-split ignore."
    )
    raise SplitError(
        f"data: too few groups for a split into {', '.join(SPLITS)}: no {', no '.join(lacking)} ({groups})."
        f"{held_out}{given if is_given else ''}{_describe_largest_group(images)} Each class needs at least "
        f"{len(SPLITS)} unrelated groups; add patients, or look into quarantine.csv for refused images."
    )


def _describe_largest_group(images: pd.DataFrame) -> str:
    """Size of a group that holds most images, and the evidence for it; empty if there is no such group."""
    sizes = images["group"].value_counts()
    if sizes.empty or 2 * sizes.iloc[0] <= len(images):
        return ""
    evidence = images.loc[images["group"] == sizes.index[0], "evidence"]
    kinds = sorted({kind for found in evidence.unique() for kind in found.split("+") if kind})
    return (
        f" The largest group holds {sizes.iloc[0]} of {len(images)} images, related by "
        f"{', '.join(kinds) or 'nothing'}. If one patient id stands for several patients, give a table with "
        "--data.patients-file."
    )
