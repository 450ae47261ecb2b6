"""Who trains, who validates, who tests."""

import hashlib
import logging
from collections import Counter

import pandas as pd

from hip_mri.config import LABELS, SPLITS
from hip_mri.data.manifest import read_manifest, select_ready, write_manifest
from hip_mri.errors import SplitError
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)


def split_manifest(
    workspace: Workspace, val_fraction: float, test_fraction: float, seed: int
) -> dict[str, dict[str, int]]:
    """Divide the ready images of a manifest into train, val and test, class by class, and write it back.

    Each image gets a place from a hash of the seed and its id, so the split depends on the seed and the set of
    images, not on their order or names.

    Args:
        workspace: Its manifest gets the column `split` filled.
        val_fraction: Share of each class for validation, above 0.
        test_fraction: Share of each class for the test, above 0.
        seed: Start of the random choice.

    Returns:
        Number of images by split and label.

    Raises:
        SplitError: A class has too few images for three splits, or the fractions leave nothing to train.
    """
    if val_fraction + test_fraction >= 1:
        raise SplitError(
            f"data: val_fraction {val_fraction} and test_fraction {test_fraction} leave nothing to train. "
            "Together they must stay below 1."
        )
    manifest = read_manifest(workspace.manifest_file)
    ready = select_ready(manifest)
    check_classes(ready["label"])
    splits = [
        assign_splits(ready.loc[ready["label"] == label, "image_id"], val_fraction, test_fraction, seed)
        for label in LABELS
    ]
    manifest["split"] = pd.concat(splits).reindex(manifest["image_id"], fill_value="").to_numpy()
    write_manifest(workspace.manifest_file, manifest)
    counts = count_images(manifest)
    for split, by_label in counts.items():
        logger.info("  %-5s %s", split, ", ".join(f"{count} {label}" for label, count in by_label.items()))
    return counts


def assign_splits(image_ids: pd.Series, val_fraction: float, test_fraction: float, seed: int) -> pd.Series:
    """Draw the splits of the images of one class.

    Args:
        image_ids: At least three ids.
        val_fraction: Share for validation.
        test_fraction: Share for the test.
        seed: Start of the random choice.

    Returns:
        `train`, `val` or `test`, indexed by image id. The counts of `val` and `test` are the shares rounded; each of
        the three is at least one.
    """
    places = {image_id: hashlib.sha256(f"{seed}/{image_id}".encode()).digest() for image_id in image_ids}
    drawn = sorted(places, key=places.__getitem__)
    num_val, num_test = _count_held_out(len(drawn), val_fraction, test_fraction)
    num_train = len(drawn) - num_val - num_test
    return pd.Series(["train"] * num_train + ["val"] * num_val + ["test"] * num_test, index=drawn, dtype="str")


def count_images(manifest: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count the ready images by split and label, zeros included."""
    ready = select_ready(manifest)
    counts = Counter(zip(ready["split"], ready["label"], strict=True))
    return {split: {label: counts[split, label] for label in LABELS} for split in SPLITS}


def _count_held_out(num_images: int, val_fraction: float, test_fraction: float) -> tuple[int, int]:
    """Number of images for validation and test; where rounding leaves none to train, the larger gives one away."""
    num_val, num_test = (max(1, round(fraction * num_images)) for fraction in (val_fraction, test_fraction))
    while num_val + num_test >= num_images:
        num_val, num_test = (num_val - 1, num_test) if num_val >= num_test else (num_val, num_test - 1)
    return num_val, num_test


def check_classes(labels: pd.Series) -> None:
    """See that each class has an image for every split.

    Args:
        labels: Label of each ready image.

    Raises:
        SplitError: A class has too few, with the counts.
    """
    num_images = labels.value_counts().reindex(list(LABELS), fill_value=0)
    if (num_images < len(SPLITS)).any():
        raise SplitError(
            f"source: too few usable images for a split into {', '.join(SPLITS)}: "
            + ", ".join(f"{label} {count}" for label, count in num_images.items())
            + f". Each class needs at least {len(SPLITS)}; add images, or look into quarantine.csv for refused ones."
        )
