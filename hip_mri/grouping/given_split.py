"""Splits that the source gives by its folders or its table: merges them with earlier splits and keeps groups whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from hip_mri.config import SPLITS
from hip_mri.dataset.split_registry import HELD_OUT
from hip_mri.errors import SplitError, list_offenders
from hip_mri.sources.split_folders import UNDECIDED


@dataclass(frozen=True)
class GivenSplit:
    """Counts of the images whose split the source gives.

    Attributes:
        num_images: Images by the split that they are given, including those held out.
        num_held_out: Images that are held out, by the split that they are given.
        num_divided_groups: Groups of related images that the source puts into more than one split.
        num_drawn: Images that the source gives to training and that are drawn for a split without given images, by this
            split.
    """

    num_images: Mapping[str, int] = field(default_factory=dict)
    num_held_out: Mapping[str, int] = field(default_factory=dict)
    num_divided_groups: int = 0
    num_drawn: Mapping[str, int] = field(default_factory=dict)


def merge_given_split(images: pd.DataFrame, registry: pd.DataFrame, *, is_locked: bool) -> pd.Series:
    """Take the split of each image from an earlier run, else from the source.

    Args:
        images: Columns image_id, sha256, and split as the source gives it.
        registry: Splits of earlier runs, columns of `SPLIT_COLUMNS`.
        is_locked: Whether the test set is locked, so that images given to it are held out.

    Returns:
        The split of each image, `held_out`, or empty where it is to be drawn.

    Raises:
        SplitError: The source moves images to another split than they had.
    """
    earlier = registry.set_index("sha256")["split"].reindex(images["sha256"], fill_value="").set_axis(images.index)
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


def hold_out_divided_groups(
    images: pd.DataFrame, fixed: pd.Series, absent: pd.DataFrame, is_kept: pd.Series
) -> pd.Series:
    """Hold out images with a given split whose group also has images in a split of higher precedence.

    Splits of earlier runs come first; among new images, test comes before validation, and validation before training.

    Args:
        images: Column group, and split as the source gives it.
        fixed: Split of each image, or empty.
        absent: Columns group and split of related images that the source no longer holds.
        is_kept: Whether an earlier run fixed the split.

    Returns:
        `fixed` with `held_out` for these images.
    """
    earlier = pd.concat([images[["group"]].assign(split=fixed)[is_kept], absent], ignore_index=True)
    by_group = earlier[earlier["split"].isin(SPLITS)].groupby("group")["split"]
    before = by_group.first().astype("str").reindex(images["group"], fill_value="").to_numpy()
    num_before = by_group.nunique().reindex(images["group"], fill_value=0).to_numpy()
    is_allowed = [old in UNDECIDED.get(new, (new,)) for old, new in zip(before, images["split"], strict=True)]
    is_new = ~is_kept & (images["split"] != "") & (fixed != HELD_OUT)
    order = {split: number for number, split in enumerate(reversed(SPLITS))}
    rank = images["split"].map(lambda split: order.get(split, order["train"]))
    first = rank.where(is_new).groupby(images["group"]).transform("min")
    fits = np.where(num_before == 0, rank == first, (num_before == 1) & is_allowed)
    return fixed.mask(is_new & ~fits, HELD_OUT)


def count_given_split(given: pd.Series, groups: pd.Series, splits: pd.Series) -> GivenSplit:
    """Count the images by given and final split; images to be drawn from training and another split count as training.

    Args:
        given: Split of each image as the source gives it, or empty.
        groups: Group of each image.
        splits: Final split of each image, or `held_out`.
    """
    is_undecided = given.isin(list(UNDECIDED))
    by_source = given.where(~is_undecided, "train")

    def count(values: pd.Series) -> dict[str, int]:
        return {split: int((values == split).sum()) for split in SPLITS if (values == split).any()}

    return GivenSplit(
        num_images=count(by_source),
        num_held_out=count(by_source[splits == HELD_OUT]),
        num_divided_groups=int((given[given != ""].groupby(groups).nunique() > 1).sum()),
        num_drawn=count(splits[is_undecided & splits.isin(["val", "test"])]),
    )
