"""Who trains, who validates, who tests: whole groups, and for good.

The first split is drawn, or given by the folders or the table of a source; `splits.parquet` keeps it. Whatever comes
later, no image of it changes its place: new images join the split of their group, new groups are drawn, and a new image
that ties two splits together is held out of all. Where a given split divides a group, its test images stay, else its
validation images, and the others are held out. Once a test set has been used, it is locked: nothing joins it any more.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd

from hip_mri.config import LABELS, SPLITS
from hip_mri.dataset.manifest import read_manifest, select_ready, write_manifest
from hip_mri.dataset.split_registry import check_test_set, extend_split_registry, read_split_registry
from hip_mri.errors import SplitError, list_offenders
from hip_mri.grouping.allocation import allocate_groups
from hip_mri.sources.split_folders import UNDECIDED
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

HELD_OUT: Final = "held_out"
"""State of an image that would tie two splits together, or join a locked test set."""


@dataclass(frozen=True)
class GivenSplit:
    """What became of a split that the source gives.

    Attributes:
        num_images: Images by the split that they are given, those held out included.
        num_held_out: Those that are held out, likewise.
        num_divided_groups: Groups of related images that the source puts into more than one split.
        num_drawn: Images that the source gives to training and that are drawn for a part that it lacks, by this part.
    """

    num_images: Mapping[str, int] = field(default_factory=dict)
    num_held_out: Mapping[str, int] = field(default_factory=dict)
    num_divided_groups: int = 0
    num_drawn: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitReport:
    """What came of splitting.

    Attributes:
        counts: Images by split and label.
        num_groups: Groups by split.
        num_kept: Images whose split an earlier run settled.
        num_prescribed: Images whose split the folders or the table of the source give.
        num_held_out: Images that are used in no split.
        largest_deviation: Largest difference, over splits and classes, between the share of a class that a split
            holds and the share that was asked for; 0-1.
        given: What became of a split that the source gives.
    """

    counts: dict[str, dict[str, int]]
    num_groups: dict[str, int]
    num_kept: int
    num_prescribed: int
    num_held_out: int
    largest_deviation: float
    given: GivenSplit = field(default_factory=GivenSplit)


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
        SplitError: A class has too few groups for three splits, the fractions leave nothing to train, related images
            had different splits before this was known, or the source gives images another split than they had.
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
    ledger, ties = read_split_registry(workspace), _read_ties(workspace)
    given = images["split"]
    settled = _find_settled(images, ledger, is_locked=is_locked)
    absent = ledger[~ledger["sha256"].isin(images["sha256"])].set_index("sha256")["split"]
    is_kept = images["sha256"].isin(ledger["sha256"])
    _refuse_torn(pd.concat([settled[is_kept].set_axis(images.loc[is_kept, "sha256"]), absent]), ties)
    kin = _find_kin(images, absent, ties)
    settled = _hold_out_divided(images, settled, kin, is_kept)
    num_divided = int((given[given != ""].groupby(images["group"]).nunique() > 1).sum())
    shares = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
    if is_locked:
        shares = _share_out(shares, ("train", "val"))
    images["split"] = _extend(images, settled, kin, is_locked=is_locked)
    _draw(images, given, shares, seed, is_locked=is_locked)
    used = images[images["split"] != HELD_OUT].copy()
    # Without the images that are held out, what they tied together is no group any more.
    used["group"] = used.groupby(["group", "split"])["image_id"].transform("min")
    check_classes(used, num_held_out=len(images) - len(used), is_given=bool((given != "").any()))
    extend_split_registry(images, workspace)  # what is held out stays held out
    splits = images.set_index("image_id")["split"].reindex(manifest["image_id"], fill_value="").to_numpy()
    groups_used = used.set_index("image_id")["group"].reindex(manifest["image_id"], fill_value="").to_numpy()
    manifest["group"] = np.where(groups_used == "", manifest["group"], groups_used)
    manifest.loc[splits == HELD_OUT, "state"] = HELD_OUT
    manifest["split"] = np.where(splits == HELD_OUT, "", splits)
    write_manifest(workspace.manifest_file, manifest)
    report = SplitReport(
        counts=count_images(used),
        num_groups={split: int(used.loc[used["split"] == split, "group"].nunique()) for split in SPLITS},
        num_kept=int(is_kept.sum()),
        num_prescribed=int((given != "").sum()),
        num_held_out=len(images) - len(used),
        largest_deviation=_measure_deviation(used, shares, is_locked=is_locked),
        given=_count_given(given, images["split"], num_divided),
    )
    _tell(report)
    return report


def _read_ties(workspace: Workspace) -> pd.DataFrame:
    if not workspace.ties_file.exists():
        return pd.DataFrame({"sha256": [], "kind": [], "key": [], "group": []}, dtype="str")
    return pd.read_parquet(workspace.ties_file)


def check_classes(images: pd.DataFrame, *, num_held_out: int = 0, is_given: bool = False) -> None:
    """See that each class stands in every split.

    Args:
        images: Columns label, group and split.
        num_held_out: Further images, which are in no split.
        is_given: Whether the source gives a split.

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
        held_out = (
            f" {num_held_out} further images are held out, since they are related to images of another split."
            if num_held_out
            else ""
        )
        given = (
            " The source gives a split, by its folders or its table: let each class stand in every part that it gives, "
            "or draw a new split with --data.given-split ignore."
            if is_given
            else ""
        )
        raise SplitError(
            f"data: too few groups for a split into {', '.join(SPLITS)}: no {', no '.join(lacking)} ({groups})."
            f"{held_out}{given}{_describe_largest(images)} Each class needs at least {len(SPLITS)} groups that are not "
            "tied together; add patients, or look into quarantine.csv for refused images."
        )


def _describe_largest(images: pd.DataFrame) -> str:
    """Tell of a group that holds most images what ties it."""
    sizes = images["group"].value_counts()
    if sizes.empty or 2 * sizes.iloc[0] <= len(images) or "evidence" not in images.columns:
        return ""
    evidence = images.loc[images["group"] == sizes.index[0], "evidence"]
    kinds = sorted({kind for found in evidence.unique() for kind in found.split("+") if kind})
    return f" The largest group holds {sizes.iloc[0]} of {len(images)} images, tied by {', '.join(kinds) or 'nothing'}."


def count_images(images: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count images (columns split and label) by split and label, zeros included."""
    counts = Counter(zip(images["split"], images["label"], strict=True))
    return {split: {label: counts[split, label] for label in LABELS} for split in SPLITS}


def _find_settled(images: pd.DataFrame, ledger: pd.DataFrame, *, is_locked: bool) -> pd.Series:
    """The split that an earlier run or the source gave to each image, `held_out`, or empty where it is to be drawn."""
    earlier = ledger.set_index("sha256")["split"].reindex(images["sha256"], fill_value="").set_axis(images.index)
    allowed = images["split"].map(lambda split: UNDECIDED.get(split, (split,)))
    has_changed = [
        before in SPLITS and now != ("",) and before not in now for before, now in zip(earlier, allowed, strict=True)
    ]
    if any(has_changed):
        raise SplitError(
            f"data: by its folders or its table of patients the source moves {sum(has_changed)} images to another "
            f"split than they had: {list_offenders(list(images.loc[has_changed, 'image_id']))}. Keep them where they "
            "were, keep all splits with --data.given-split ignore, or start in an empty workspace."
        )
    given = images["split"].where(images["split"].isin(SPLITS), "")
    if is_locked:
        given = given.where(given != "test", HELD_OUT)
    return earlier.where(earlier != "", given)


def _hold_out_divided(images: pd.DataFrame, settled: pd.Series, kin: pd.DataFrame, is_kept: pd.Series) -> pd.Series:
    """Hold out images that the source gives a split, where others of their group are in one that goes before.

    What an earlier run settled goes before all; of what is new, the test before validation, and this before training.

    Args:
        images: Column group, and split as the source gives it.
        settled: Split of each image, or empty.
        kin: Columns group and split, of images that the source no longer holds.
        is_kept: Whether an earlier run settled it.
    """
    earlier = pd.concat([images[["group"]].assign(split=settled)[is_kept], kin], ignore_index=True)
    by_group = earlier[earlier["split"].isin(SPLITS)].groupby("group")["split"]
    before = by_group.first().astype("str").reindex(images["group"], fill_value="").to_numpy()
    num_before = by_group.nunique().reindex(images["group"], fill_value=0).to_numpy()
    is_allowed = [old in UNDECIDED.get(new, (new,)) for old, new in zip(before, images["split"], strict=True)]
    is_new = ~is_kept & (images["split"] != "") & (settled != HELD_OUT)
    order = {split: number for number, split in enumerate(reversed(SPLITS))}
    rank = images["split"].map(lambda split: order.get(split, order["train"]))
    first = rank.where(is_new).groupby(images["group"]).transform("min")
    fits = np.where(num_before == 0, rank == first, (num_before == 1) & is_allowed)
    return settled.mask(is_new & ~fits, HELD_OUT)


def _refuse_torn(splits: pd.Series, ties: pd.DataFrame) -> None:
    """See that no tie connects images to which earlier runs gave different splits; `splits` by SHA-256."""
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
        f"They were divided before this was known: start in an empty workspace{accept}."
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


def _share_out(shares: Mapping[str, float], splits: tuple[str, ...]) -> dict[str, float]:
    """The shares of some splits, for images that go to these alone."""
    total = sum(shares[split] for split in splits)
    return {split: share / total if split in splits else 0 for split, share in shares.items()}


def _draw(images: pd.DataFrame, given: pd.Series, shares: Mapping[str, float], seed: int, *, is_locked: bool) -> None:
    """Draw the split of groups that have none, in place.

    Groups with images that the source gives to training, while it lacks another part, are drawn for these two alone.
    """
    kinds = given.where(given.isin(list(UNDECIDED)), "").groupby(images["group"]).transform("max")
    for kind in (*UNDECIDED, ""):
        is_drawn = (images["split"] == "") & (kinds == kind)
        if kind:
            allowed = tuple(split for split in UNDECIDED[kind] if shares[split])
            shares_here, fixed = _share_out(shares, allowed), None
        else:
            shares_here = dict(shares)
            fixed = _count_by_split(images[images["split"].isin(SPLITS)], is_locked)
        groups = allocate_groups(_count_by_group(images[is_drawn]), shares_here, seed, fixed)
        images.loc[is_drawn, "split"] = images.loc[is_drawn, "group"].map(groups)


def _count_given(given: pd.Series, splits: pd.Series, num_divided_groups: int) -> GivenSplit:
    """Count what became of a given split; images to be drawn from training and another part are given to training."""
    told = given.where(~given.isin(list(UNDECIDED)), "train")
    drawn = splits[given.isin(list(UNDECIDED)) & splits.isin(["val", "test"])]

    def count(values: pd.Series) -> dict[str, int]:
        return {split: int((values == split).sum()) for split in SPLITS if (values == split).any()}

    return GivenSplit(count(told), count(told[splits == HELD_OUT]), num_divided_groups, count(drawn))


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
    given = report.given
    if given.num_images:
        told = ", ".join(f"{count} {split}" for split, count in given.num_images.items())
        logger.info("The source gives a split, which is kept: %s", told)
    for split, count in given.num_drawn.items():
        logger.warning("The source gives no images for %s: %d of those for training are drawn for it", split, count)
    if given.num_held_out:
        logger.warning(
            "%s given images are held out: %d groups of related images stand in several parts of the given split, of "
            "which the test goes before validation, and this before training, or in splits of earlier runs",
            " and ".join(f"{count} {split}" for split, count in given.num_held_out.items()),
            given.num_divided_groups,
        )
    if report.num_held_out:
        logger.warning(
            "%d images are held out: they would tie two splits together, or join the locked test set",
            report.num_held_out,
        )
