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
from hip_mri.data.ledger import check_test_set, extend_ledger, read_ledger
from hip_mri.data.manifest import read_manifest, select_ready, write_manifest
from hip_mri.errors import SplitError, list_offenders
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

HELD_OUT: Final = "held_out"
"""State of an image that would tie two splits together, or join a locked test set."""


@dataclass(frozen=True)
class SplitReport:
    """What came of splitting.

    Attributes:
        counts: Images by split and label.
        num_groups: Groups by split.
        num_kept: Images whose split an earlier run settled.
        num_prescribed: Images whose split the user's table gives.
        num_held_out: Images that are used in no split.
        largest_deviation: Largest difference, over splits and classes, between the share of a class that a split
            holds and the share that was asked for; 0-1.
    """

    counts: dict[str, dict[str, int]]
    num_groups: dict[str, int]
    num_kept: int
    num_prescribed: int
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
    check_test_set(workspace)
    ledger, ties = read_ledger(workspace), _read_ties(workspace)
    settled = _find_settled(images, ledger, is_locked=is_locked)
    absent = ledger[~ledger["sha256"].isin(images["sha256"])].set_index("sha256")["split"]
    _refuse_torn(pd.concat([settled.set_axis(images["sha256"]), absent]), ties)
    num_kept, num_prescribed = int(images["sha256"].isin(ledger["sha256"]).sum()), int((images["split"] != "").sum())
    images["split"] = _extend(images, settled, _find_kin(images, absent, ties), is_locked=is_locked)
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
    extend_ledger(images, workspace)  # what is held out stays held out
    splits = images.set_index("image_id")["split"].reindex(manifest["image_id"], fill_value="").to_numpy()
    groups_used = used.set_index("image_id")["group"].reindex(manifest["image_id"], fill_value="").to_numpy()
    manifest["group"] = np.where(groups_used == "", manifest["group"], groups_used)
    manifest.loc[splits == HELD_OUT, "state"] = HELD_OUT
    manifest["split"] = np.where(splits == HELD_OUT, "", splits)
    write_manifest(workspace.manifest_file, manifest)
    report = SplitReport(
        counts=count_images(used),
        num_groups={split: int(used.loc[used["split"] == split, "group"].nunique()) for split in SPLITS},
        num_kept=num_kept,
        num_prescribed=num_prescribed,
        num_held_out=len(images) - len(used),
        largest_deviation=_measure_deviation(used, shares, is_locked=is_locked),
    )
    _tell(report)
    return report


def _read_ties(workspace: Workspace) -> pd.DataFrame:
    if not workspace.ties_file.exists():
        return pd.DataFrame({"sha256": [], "kind": [], "key": [], "group": []}, dtype="str")
    return pd.read_parquet(workspace.ties_file)


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
            f"Each class needs at least {len(SPLITS)} groups that are not tied together; add patients, look into "
            "quarantine.csv for refused images, or, where the table of patients prescribes splits, prescribe all three."
        )


def count_images(images: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count images (columns split and label) by split and label, zeros included."""
    counts = Counter(zip(images["split"], images["label"], strict=True))
    return {split: {label: counts[split, label] for label in LABELS} for split in SPLITS}


def _find_settled(images: pd.DataFrame, ledger: pd.DataFrame, *, is_locked: bool) -> pd.Series:
    """The split that an earlier run or the user's table gave to each image, `held_out`, or empty."""
    earlier = ledger.set_index("sha256")["split"].reindex(images["sha256"], fill_value="").set_axis(images.index)
    prescribed = images["split"]
    changed = earlier.isin(SPLITS) & (prescribed != "") & (earlier != prescribed)
    if changed.any():
        raise SplitError(
            f"data.patients_file: it moves {int(changed.sum())} images to another split than they had: "
            f"{list_offenders(list(images.loc[changed, 'image_id']))}. Keep them, or start in an empty workspace."
        )
    if is_locked:
        prescribed = prescribed.where(prescribed != "test", HELD_OUT)
    return earlier.where(earlier != "", prescribed)


def _refuse_torn(splits: pd.Series, ties: pd.DataFrame) -> None:
    """See that no tie connects images whose different splits are settled; `splits` by SHA-256."""
    placed = ties.assign(split=splits.reindex(ties["sha256"], fill_value="").to_numpy())
    placed = placed[placed["split"].isin(SPLITS)]
    torn = placed[placed.groupby("key")["split"].transform("nunique") > 1]
    if torn.empty:
        return
    is_patient = torn["kind"].isin(["patient_id", "patient_pattern"])
    patients = torn[is_patient] if is_patient.any() else torn
    what = "patients" if is_patient.any() else "pairs of equal or nearly equal images"
    accept = "" if is_patient.any() else ", or accept it with --data.group-similar false"
    raise SplitError(
        f"data: {patients['key'].nunique()} {what} stand in two splits, with the images "
        f"{list_offenders([sha256[:16] for sha256 in patients.sort_values(['key', 'sha256'])['sha256'].unique()])}. "
        f"Give related images one split in the table of patients{accept}; if the splits were drawn before this was "
        "known, start in an empty workspace."
    )


def _extend(images: pd.DataFrame, settled: pd.Series, kin: pd.DataFrame, *, is_locked: bool) -> pd.Series:
    """Give new images the split of their group; empty for groups that are new as a whole.

    Args:
        images: Column group.
        settled: Split of each image, or empty.
        kin: Columns group and split, of images that the source no longer holds.
        is_locked: Whether the test set takes no images any more.
    """
    known = pd.concat([images[["group"]].assign(split=settled), kin], ignore_index=True)
    known = known[known["split"].isin(SPLITS)]
    split_of_group = known.groupby("group")["split"].first()
    if is_locked:
        split_of_group = split_of_group.where(split_of_group != "test", HELD_OUT)
    split_of_group[known.groupby("group")["split"].nunique() > 1] = HELD_OUT
    joined = split_of_group.reindex(images["group"], fill_value="").set_axis(images.index)
    return settled.where(settled != "", joined).astype("str")


def _find_kin(images: pd.DataFrame, absent: pd.Series, ties: pd.DataFrame) -> pd.DataFrame:
    """Group and split of images that the source no longer holds and that evidence ties to present ones."""
    group_of_image = images.set_index("sha256")["group"]
    present = ties[ties["sha256"].isin(group_of_image.index)].drop_duplicates("group")
    name_of_group = pd.Series(group_of_image[present["sha256"]].to_numpy(), index=present["group"], dtype="str")
    gone = ties[ties["sha256"].isin(absent.index) & ties["group"].isin(name_of_group.index)].drop_duplicates("sha256")
    return pd.DataFrame(
        {"group": name_of_group[gone["group"]].to_numpy(), "split": absent[gone["sha256"]].to_numpy()}, dtype="str"
    )


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
