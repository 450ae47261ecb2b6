"""Persistent train/val/test split by group.

The first split is drawn, or given by the folders or the table of a source; `splits.parquet` stores it. Later runs never
move an image: new images join the split of their group, and new groups are drawn. A new image that relates two splits
is held out of all, and so is an earlier image that is found to be of one examination with images of another split.
Where a given split divides a group, its test images are kept, else its validation images, and the others are held out.
Once a test set has been used it is locked, and no image joins it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from hip_mri.config import LABELS, SPLITS
from hip_mri.dataset.manifest import read_manifest, select_ready, write_manifest
from hip_mri.dataset.split_registry import HELD_OUT, check_test_set, extend_split_registry, read_split_registry
from hip_mri.dataset.table_files import read_table
from hip_mri.errors import SplitError
from hip_mri.grouping.allocation import allocate_groups
from hip_mri.grouping.evidence import EXAMINATION_EVIDENCE, TIE_COLUMNS
from hip_mri.grouping.given_split import GivenSplit, count_given_split, hold_out_divided_groups, merge_given_split
from hip_mri.grouping.split_checks import check_classes, check_ties, count_images
from hip_mri.sources.split_folders import UNDECIDED
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitReport:
    """Counts of a split.

    Attributes:
        counts: Images by split and label.
        num_groups: Groups by split.
        num_kept: Images whose split an earlier run fixed.
        num_prescribed: Images whose split the folders or the table of the source give.
        num_held_out: Images that are in no split.
        largest_deviation: Largest absolute difference, over splits and classes, between the fraction of a class in a
            split and the requested fraction; 0-1.
        given: Counts of the split that the source gives.
        num_assigned: Images in use whose split neither an earlier run nor the source gives.
    """

    counts: dict[str, dict[str, int]]
    num_groups: dict[str, int]
    num_kept: int
    num_prescribed: int
    num_held_out: int
    largest_deviation: float
    given: GivenSplit = field(default_factory=GivenSplit)
    num_assigned: int = 0


def split_manifest(workspace: Workspace, val_fraction: float, test_fraction: float, seed: int) -> SplitReport:
    """Assign the groups of a manifest to train, val and test, and write it back.

    Args:
        workspace: In its manifest, empty values of `split` are filled; images that must be held out get the state
            `held_out`. Its `splits.parquet` is extended.
        val_fraction: Fraction of each class for validation, above 0.
        test_fraction: Fraction of each class for the test, above 0; once the test set is locked, its part of new images
            goes to training and validation.
        seed: Seed of the random choice.

    Returns:
        The counts.

    Raises:
        SplitError: A class has too few groups for three splits, the fractions leave nothing to train, images of
            different splits turn out to be related, or the source gives images another split than they had.
        WorkspaceError: The manifest, the splits or the ties of an earlier run are damaged.
    """
    if val_fraction + test_fraction >= 1:
        raise SplitError(
            f"data: val_fraction {val_fraction} and test_fraction {test_fraction} leave nothing to train. "
            "Together they must stay below 1."
        )
    manifest = read_manifest(workspace.manifest_file)
    images = select_ready(manifest)
    given = images["split"]
    is_locked = workspace.test_set_file.exists()
    check_test_set(workspace)
    registry = read_split_registry(workspace)
    ties = read_table(workspace.ties_file, (*TIE_COLUMNS, "group"), "Start again: it is made anew.")
    fixed = merge_given_split(images, registry, is_locked=is_locked)
    is_kept = images["sha256"].isin(registry["sha256"])
    absent = registry[~registry["sha256"].isin(images["sha256"])].set_index("sha256")["split"]
    splits = pd.concat([fixed[is_kept].set_axis(images.loc[is_kept, "sha256"]), absent])
    is_examination = ties["kind"].isin(EXAMINATION_EVIDENCE)
    check_ties(splits, ties[~is_examination])
    fixed = fixed.mask(images["sha256"].isin(_find_divided(splits, ties[is_examination])), HELD_OUT)
    related = _find_absent_members(images, absent, ties)
    fixed = hold_out_divided_groups(images, fixed, related, is_kept)
    fractions = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
    if is_locked:
        fractions = _rescale(fractions, ("train", "val"))
    images["split"] = _join_groups(images, fixed, related, is_locked=is_locked)
    _draw_new_groups(images, given, fractions, seed, is_locked=is_locked)
    used = images[images["split"] != HELD_OUT].copy()
    # Images that are held out no longer connect the others: a group is split where they did.
    used["group"] = used.groupby(["group", "split"])["image_id"].transform("min")
    check_classes(used, num_held_out=len(images) - len(used), is_given=bool((given != "").any()))
    extend_split_registry(images, workspace)  # including those held out, which stay so
    _write_splits(manifest, images, used, workspace)
    report = SplitReport(
        counts=count_images(used),
        num_groups={split: int(used.loc[used["split"] == split, "group"].nunique()) for split in SPLITS},
        num_kept=int(is_kept.sum()),
        num_prescribed=int((given != "").sum()),
        num_held_out=len(images) - len(used),
        largest_deviation=_measure_deviation(used, fractions, is_locked=is_locked),
        given=count_given_split(given, images["group"], images["split"]),
        num_assigned=int((~is_kept & (given == "") & (images["split"] != HELD_OUT)).sum()),
    )
    _log_report(report)
    return report


def _find_divided(splits: pd.Series, ties: pd.DataFrame) -> pd.Index:
    """SHA-256 of images that these ties relate to images of a split of higher precedence; `splits` by SHA-256.

    Test comes before validation, and validation before training.
    """
    placed = ties.assign(split=splits.reindex(ties["sha256"], fill_value="").to_numpy())
    placed = placed[placed["split"].isin(SPLITS)]
    rank = placed["split"].map(SPLITS.index)
    divided = pd.Index(placed.loc[rank < rank.groupby(placed["key"]).transform("max"), "sha256"]).unique()
    if len(divided):
        logger.warning(
            "%d images of earlier runs are held out: they are found to be of one examination with images of another "
            "split, of which test comes before validation and validation before training. To draw all splits anew, "
            "start in an empty workspace; to keep them as they are, use --data.infer-examinations false",
            len(divided),
        )
    return divided


def _find_absent_members(images: pd.DataFrame, absent: pd.Series, ties: pd.DataFrame) -> pd.DataFrame:
    """Group and split of images that the source no longer holds and that evidence relates to images of the source."""
    group_of_image = images.set_index("sha256")["group"]
    present = ties[ties["sha256"].isin(group_of_image.index)].drop_duplicates("group")
    name_of_group = pd.Series(group_of_image[present["sha256"]].to_numpy(), index=present["group"], dtype="str")
    gone = ties[ties["sha256"].isin(absent.index) & ties["group"].isin(name_of_group.index)].drop_duplicates("sha256")
    return pd.DataFrame(
        {"group": name_of_group[gone["group"]].to_numpy(), "split": absent[gone["sha256"]].to_numpy()}, dtype="str"
    )


def _join_groups(images: pd.DataFrame, fixed: pd.Series, absent: pd.DataFrame, *, is_locked: bool) -> pd.Series:
    """Give new images the split of their group; empty for groups that are new as a whole.

    Args:
        images: Column group.
        fixed: Split of each image, or empty.
        absent: Columns group and split of related images that the source no longer holds.
        is_locked: Whether the test set is locked.
    """
    known = pd.concat([images[["group"]].assign(split=fixed), absent], ignore_index=True)
    known = known[known["split"].isin(SPLITS)]
    split_of_group = known.groupby("group")["split"].first()
    if is_locked:
        split_of_group = split_of_group.where(split_of_group != "test", HELD_OUT)
    split_of_group[known.groupby("group")["split"].nunique() > 1] = HELD_OUT
    joined = split_of_group.reindex(images["group"], fill_value="").set_axis(images.index)
    return fixed.where(fixed != "", joined).astype("str")


def _draw_new_groups(
    images: pd.DataFrame, given: pd.Series, fractions: Mapping[str, float], seed: int, *, is_locked: bool
) -> None:
    """Draw the split of groups that have none, in place.

    Groups with images that the source gives to training, while it gives none to another split, are drawn for these two.
    """
    kinds = given.where(given.isin(list(UNDECIDED)), "").groupby(images["group"]).transform("max")
    for kind in (*UNDECIDED, ""):
        is_drawn = (images["split"] == "") & (kinds == kind)
        if kind:
            wanted, filled = _rescale(fractions, [split for split in UNDECIDED[kind] if fractions[split]]), None
        else:
            present = _select_counted(images[images["split"].isin(SPLITS)], is_locked=is_locked)
            wanted, filled = fractions, pd.crosstab(present["split"], present["label"])
        drawn = images[is_drawn]
        sizes = pd.crosstab(drawn["group"], drawn["label"]).reindex(columns=list(LABELS), fill_value=0)
        images.loc[is_drawn, "split"] = drawn["group"].map(allocate_groups(sizes, wanted, seed, filled))


def _rescale(fractions: Mapping[str, float], splits: Sequence[str]) -> dict[str, float]:
    """Fractions of some of the splits, rescaled to a sum of 1."""
    total = sum(fractions[split] for split in splits)
    return {split: fraction / total if split in splits else 0 for split, fraction in fractions.items()}


def _select_counted(images: pd.DataFrame, *, is_locked: bool) -> pd.DataFrame:
    """Images that count for the fractions: a locked test set does not."""
    return images[images["split"] != "test"] if is_locked else images


def _measure_deviation(used: pd.DataFrame, fractions: Mapping[str, float], *, is_locked: bool) -> float:
    counted = _select_counted(used, is_locked=is_locked)
    found = pd.crosstab(counted["split"], counted["label"], normalize="columns").reindex(list(SPLITS), fill_value=0)
    return float(found.sub(pd.Series(fractions), axis="index").abs().to_numpy().max())


def _write_splits(manifest: pd.DataFrame, images: pd.DataFrame, used: pd.DataFrame, workspace: Workspace) -> None:
    splits = images.set_index("image_id")["split"].reindex(manifest["image_id"], fill_value="").to_numpy()
    groups = used.set_index("image_id")["group"].reindex(manifest["image_id"], fill_value="").to_numpy()
    manifest["group"] = np.where(groups == "", manifest["group"], groups)
    manifest.loc[splits == HELD_OUT, "state"] = HELD_OUT
    manifest["split"] = np.where(splits == HELD_OUT, "", splits)
    write_manifest(workspace.manifest_file, manifest)


def _log_report(report: SplitReport) -> None:
    for split, by_label in report.counts.items():
        counts = ", ".join(f"{count} {label}" for label, count in by_label.items())
        logger.info("  %-5s %s in %d groups", split, counts, report.num_groups[split])
    logger.info(
        "Largest deviation from the requested fractions: %.2f %% of a class; %d images keep an earlier split",
        100 * report.largest_deviation,
        report.num_kept,
    )
    given = report.given
    if given.num_images:
        counts = ", ".join(f"{count} {split}" for split, count in given.num_images.items())
        logger.info("The source gives a split, which is kept: %s", counts)
    for split, count in given.num_drawn.items():
        logger.warning("The source gives no images for %s: %d of its training images are drawn for it", split, count)
    if given.num_held_out:
        logger.warning(
            "%s given images are held out: %d groups of related images are in several parts of the given split, of "
            "which test comes before validation and validation before training, or in splits of earlier runs",
            " and ".join(f"{count} {split}" for split, count in given.num_held_out.items()),
            given.num_divided_groups,
        )
    if report.num_held_out:
        logger.warning(
            "%d images are held out: they are related to two splits or to the locked test set", report.num_held_out
        )
