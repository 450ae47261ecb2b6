"""Who trains, who validates, who tests: whole groups, and for good.

The first split is drawn; `splits.parquet` keeps it. Whatever comes later, no image of it changes its place: new images
join the split of their group, new groups are drawn, and a new image that ties two splits together is held out of all.
Once a test set has been used, it is locked: nothing joins it any more.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from hip_mri.config import LABELS, SPLITS
from hip_mri.data.allocation import allocate_groups
from hip_mri.data.manifest import UNREADABLE, read_manifest, select_ready, write_manifest
from hip_mri.errors import SplitError, WorkspaceError, list_offenders
from hip_mri.workspace import Workspace, digest, read_json, replace_file, write_json

logger = logging.getLogger(__name__)

HELD_OUT: Final = "held_out"
"""State of an image that would tie two splits together, or join a locked test set."""


@dataclass(frozen=True)
class SplitReport:
    """What came of splitting.

    Attributes:
        counts: Images by split and label.
        num_groups: Groups by split.
        num_kept: Images whose split was settled before: by an earlier run, or by the user's table.
        num_held_out: Images that are used in no split.
        largest_deviation: Largest difference, over splits and classes, between the share of a class that a split
            holds and the share that was asked for; 0-1.
    """

    counts: dict[str, dict[str, int]]
    num_groups: dict[str, int]
    num_kept: int
    num_held_out: int
    largest_deviation: float


def split_manifest(workspace: Workspace, val_fraction: float, test_fraction: float, seed: int) -> SplitReport:
    """Divide the groups of a manifest into train, val and test, and write it back.

    Args:
        workspace: Its manifest gets the column `split` filled, where it is empty; images that must be held out get
            the state `held_out`. Its `splits.parquet` remembers.
        val_fraction: Share of each class for validation, above 0.
        test_fraction: Share of each class for the test, above 0; once the test set is locked, what would have gone
            there is shared by the others.
        seed: Start of the random choice.

    Returns:
        The counts.

    Raises:
        SplitError: A class has too few groups for three splits, the fractions leave nothing to train, or related
            images were given different splits.
    """
    if val_fraction + test_fraction >= 1:
        raise SplitError(
            f"data: val_fraction {val_fraction} and test_fraction {test_fraction} leave nothing to train. "
            "Together they must stay below 1."
        )
    manifest = read_manifest(workspace.manifest_file)
    images = select_ready(manifest)
    is_locked = workspace.test_set_file.exists()
    settled = _find_settled(images, workspace)
    _refuse_torn_pairs(images["sha256"], settled, workspace)
    images["split"] = _extend(images, settled, is_locked=is_locked)
    drawn = images["split"] == ""
    shares = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
    if is_locked:
        shares = {"train": 1 - val_fraction / (1 - test_fraction), "val": val_fraction / (1 - test_fraction), "test": 0}
    groups = allocate_groups(
        _count_by_group(images[drawn]), shares, seed, _count_by_split(images[images["split"].isin(SPLITS)], is_locked)
    )
    images.loc[drawn, "split"] = images.loc[drawn, "group"].map(groups)
    used = images[images["split"] != HELD_OUT].copy()
    # Without the images that are held out, what they tied together is no group any more.
    used["group"] = used.groupby(["group", "split"])["image_id"].transform("min")
    check_classes(used)
    _remember(used, workspace)
    splits = images.set_index("image_id")["split"].reindex(manifest["image_id"], fill_value="").to_numpy()
    groups_used = used.set_index("image_id")["group"].reindex(manifest["image_id"], fill_value="").to_numpy()
    manifest["group"] = np.where(groups_used == "", manifest["group"], groups_used)
    manifest.loc[splits == HELD_OUT, "state"] = HELD_OUT
    manifest["split"] = np.where(splits == HELD_OUT, "", splits)
    write_manifest(workspace.manifest_file, manifest)
    report = SplitReport(
        counts=count_images(used),
        num_groups={split: int(used.loc[used["split"] == split, "group"].nunique()) for split in SPLITS},
        num_kept=int((settled != "").sum()),
        num_held_out=len(images) - len(used),
        largest_deviation=_measure_deviation(used, shares, is_locked=is_locked),
    )
    _tell(report)
    return report


def lock_test_set(workspace: Workspace) -> dict[str, int | str]:
    """Lock the test set at its first use, so that nothing joins or leaves it unnoticed.

    Returns:
        `sha256` of the sorted list of its images' SHA-256, `num_images`, and `num_missing`: images of the locked set
        that the source no longer holds.

    Raises:
        WorkspaceError: The list is not the one that was locked.
    """
    splits = _read_splits(workspace)
    listed = sorted(splits.index[splits == "test"])
    found = {"sha256": digest(listed), "num_images": len(listed)}
    if not workspace.test_set_file.exists():
        write_json(workspace.test_set_file, found)
    if read_json(workspace.test_set_file) != found:
        raise WorkspaceError(
            f"{workspace.splits_file} no longer holds the test set that was locked in {workspace.test_set_file.name}. "
            "Restore both from a backup, or start in an empty workspace."
        )
    ready = select_ready(read_manifest(workspace.manifest_file))
    return {**found, "num_missing": len(listed) - int((ready["split"] == "test").sum())}


def check_classes(images: pd.DataFrame) -> None:
    """See that each class stands in every split.

    Args:
        images: Columns label, group and split.

    Raises:
        SplitError: A class has no image in a split, with the number of its images and groups.
    """
    counts = count_images(images)
    lacking = [f"{label} in {split}" for split in SPLITS for label in LABELS if not counts[split][label]]
    if lacking:
        groups = ", ".join(
            f"{label} {len(rows)} images in {rows['group'].nunique()} groups"
            for label in LABELS
            for rows in [images[images["label"] == label]]
        )
        raise SplitError(
            f"data: too few groups for a split into {', '.join(SPLITS)}: no {', no '.join(lacking)} ({groups}). "
            f"Each class needs at least {len(SPLITS)} groups that are not tied together; add patients, or look into "
            "quarantine.csv for refused images."
        )


def count_images(images: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count images (columns split and label) by split and label, zeros included."""
    counts = Counter(zip(images["split"], images["label"], strict=True))
    return {split: {label: counts[split, label] for label in LABELS} for split in SPLITS}


def _find_settled(images: pd.DataFrame, workspace: Workspace) -> pd.Series:
    """The split that an earlier run or the user's table gave to each image, or empty."""
    earlier = _read_splits(workspace).reindex(images["sha256"], fill_value="").set_axis(images.index)
    changed = (earlier != "") & (images["split"] != "") & (earlier != images["split"])
    if changed.any():
        raise SplitError(
            f"data.patients_file: it moves {int(changed.sum())} images to another split than they had: "
            f"{list_offenders(list(images.loc[changed, 'image_id']))}. Keep them, or start in an empty workspace."
        )
    settled = earlier.where(earlier != "", images["split"])
    _refuse_torn_patients(images.assign(split=settled))
    return settled


def _refuse_torn_patients(images: pd.DataFrame) -> None:
    placed = images[(images["split"] != "") & (images["patient"] != "")]
    torn = placed[placed.groupby("patient")["split"].transform("nunique") > 1]
    if len(torn):
        raise SplitError(
            f"data: {torn['patient'].nunique()} patients stand in two splits, for instance by the images "
            f"{list_offenders(list(torn['image_id']))}. Give each patient one split in the table of patients; if the "
            "splits were drawn before the patients were known, start in an empty workspace."
        )


def _refuse_torn_pairs(hashes: pd.Series, settled: pd.Series, workspace: Workspace) -> None:
    if not workspace.similar_file.exists():
        return
    split = settled[settled != ""].set_axis(hashes[settled != ""])
    pairs = pd.read_parquet(workspace.similar_file)
    pairs = pairs[pairs["first"].isin(split.index) & pairs["second"].isin(split.index)]
    torn = pairs[pairs["first"].map(split) != pairs["second"].map(split)]
    if len(torn):
        named = [f"{row['first'][:16]} and {row['second'][:16]}" for row in torn.to_dict("records")]
        raise SplitError(
            f"data: {len(torn)} pairs of equal or nearly equal images stand in two splits: {list_offenders(named)}. "
            "Give both of a pair one split in the table of patients, or accept it with --data.group-similar false; if "
            "the splits were drawn before images were compared, start in an empty workspace."
        )


def _extend(images: pd.DataFrame, settled: pd.Series, *, is_locked: bool) -> pd.Series:
    """Give new images the split of their group; empty for groups that are new as a whole."""
    placed = settled.where(settled != "")
    num_splits = placed.groupby(images["group"]).transform("nunique")
    split_of_group = placed.groupby(images["group"]).transform("first").fillna("")
    if is_locked:
        split_of_group = split_of_group.where(split_of_group != "test", HELD_OUT)
    joined = split_of_group.where(num_splits <= 1, HELD_OUT)
    return settled.where(settled != "", joined).astype("str")


def _count_by_group(images: pd.DataFrame) -> pd.DataFrame:
    return pd.crosstab(images["group"], images["label"]).reindex(columns=list(LABELS), fill_value=0)


def _count_by_split(images: pd.DataFrame, is_locked: bool) -> pd.DataFrame:
    """What each split has; a locked test set takes no part in the shares."""
    counted = images[images["split"] != "test"] if is_locked else images
    return pd.crosstab(counted["split"], counted["label"])


def _measure_deviation(used: pd.DataFrame, shares: dict[str, float], *, is_locked: bool) -> float:
    counted = used[used["split"] != "test"] if is_locked else used
    found = pd.crosstab(counted["split"], counted["label"], normalize="columns").reindex(list(SPLITS), fill_value=0)
    return float(found.sub(pd.Series(shares), axis="index").abs().to_numpy().max())


def _read_splits(workspace: Workspace) -> pd.Series:
    """Splits that were given before, by SHA-256."""
    if not workspace.splits_file.exists():
        return pd.Series(dtype="str")
    try:
        return pd.read_parquet(workspace.splits_file).set_index("sha256")["split"]
    except UNREADABLE as error:
        raise WorkspaceError(
            f"{workspace.splits_file} cannot be read. Restore it from a backup; without it images would change their "
            "split. To draw all splits anew, start in an empty workspace."
        ) from error


def _remember(used: pd.DataFrame, workspace: Workspace) -> None:
    """Keep the splits of these images, and of earlier ones that the source no longer holds."""
    splits = pd.concat([_read_splits(workspace), used.set_index("sha256")["split"]])
    splits = splits[~splits.index.duplicated(keep="last")].sort_index()
    with replace_file(workspace.splits_file, is_private=True) as temporary:
        splits.rename("split").rename_axis("sha256").reset_index().to_parquet(temporary, index=False)


def _tell(report: SplitReport) -> None:
    for split, by_label in report.counts.items():
        told = ", ".join(f"{count} {label}" for label, count in by_label.items())
        logger.info("  %-5s %s in %d groups", split, told, report.num_groups[split])
    logger.info(
        "Largest deviation from the shares asked for: %.2f %% of a class; %d images kept the split they had",
        100 * report.largest_deviation,
        report.num_kept,
    )
    if report.num_held_out:
        logger.warning(
            "%d images are held out: they would tie two splits together, or join the locked test set",
            report.num_held_out,
        )
