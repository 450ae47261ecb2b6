"""Records which labels a table of corrections changed, by split."""

from typing import Any, Final

import pandas as pd

from hip_mri.config import SPLITS
from hip_mri.dataset.split_registry import read_split_registry
from hip_mri.evaluation.run_tables import read_table
from hip_mri.sources.tables.corrections import EXCLUDE, ID_LENGTH, UNSURE
from hip_mri.workspace import Workspace

NO_SPLIT: Final = "none"
"""Split of images that are in none: held out, quarantined, or excluded before they were split."""


def describe_corrections(workspace: Workspace) -> pd.DataFrame:
    """List the images of the table of corrections that the manifest was made with.

    Returns:
        Columns image_id, label (`normal`, `osseous_lesion`, `exclude` or `unsure`), split and source_label, sorted by
        image id. As a table of corrections it has the same effect. Excluded images have the split of earlier runs.
    """
    corrected, registry = read_table(workspace.corrections_file), read_split_registry(workspace)
    placed = registry[registry["split"].isin(SPLITS)]
    split_of_image = placed["split"].set_axis(placed["sha256"].str[:ID_LENGTH])
    split = corrected["image_id"].map(split_of_image).fillna(NO_SPLIT)
    return corrected.assign(split=split)[["image_id", "label", "split", "source_label"]].sort_values("image_id")


def summarize_corrections(corrected: pd.DataFrame) -> dict[str, Any]:
    """Count corrections.

    Args:
        corrected: Result of `describe_corrections`.

    Returns:
        `num_images`; `num_unsure`; `num_unchanged`: images that have the label of the table in the source already; and
        `changes`: for each split with any, and `NO_SPLIT`, the number of images by new label or `exclude`.
    """
    is_unsure = corrected["label"] == UNSURE
    is_unchanged = corrected["label"] == corrected["source_label"]
    changed = corrected[~is_unsure & ~is_unchanged]
    changes = {
        split: {str(label): int(count) for label, count in rows["label"].value_counts().sort_index().items()}
        for split in (*SPLITS, NO_SPLIT)
        if len(rows := changed[changed["split"] == split])
    }
    return {
        "num_images": len(corrected),
        "num_unsure": int(is_unsure.sum()),
        "num_unchanged": int(is_unchanged.sum()),
        "changes": changes,
    }


def count_excluded_test_images(corrections: dict[str, Any] | None) -> int:
    """Count the test images that corrections exclude; `corrections` as in `metrics.json`."""
    return 0 if corrections is None else corrections["changes"].get("test", {}).get(EXCLUDE, 0)
