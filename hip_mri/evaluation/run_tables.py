"""Reads and writes the tables of a run folder, which have no source names and no patient identities."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hip_mri.dataset.pseudonyms import resolve_pseudonyms
from hip_mri.dataset.table_files import UNREADABLE
from hip_mri.errors import EvaluationError, WorkspaceError
from hip_mri.evaluation.conformal import decide, read_image_rule
from hip_mri.evaluation.metrics.results import Scores
from hip_mri.images.shortcut_statistics import NUMBERS as SHORTCUT_NUMBERS
from hip_mri.run_files import (
    BORDERS_FILE,
    FOLDS_FILE,
    LABEL_REVIEW_FILE,
    LEAKAGE_FILE,
    MANIFEST_FILE,
    NEIGHBORS_FILE,
    PREDICTIONS_FILE,
    SHORTCUTS_FILE,
    TRAINING_SIZES_FILE,
)
from hip_mri.workspace import Workspace

MANIFEST_COLUMNS: Final = ("image_id", "sha256", "label", "split", "state", "reason", "group", "patient", "evidence")
"""Columns of `manifest.csv`; `sha256` is of the decoded pixels, of quarantined files of the file."""

NUMBERS: Final = {
    **dict.fromkeys(("score", "distance", "auc", "fraction", "certainty", *SHORTCUT_NUMBERS), "float64"),
    **dict.fromkeys(
        ("seed", "fold", "length", "num_images", "num_groups", "num_blocks", "draw", "number", "rank"), "int64"
    ),
}
"""Columns with numbers; read as text first, since CSV readers can lose the last digit of a float."""


def describe_manifest(manifest: pd.DataFrame) -> pd.DataFrame:
    """Select the columns of a manifest that a run contains.

    The patient is replaced by the smallest image id of the patient, which does not identify them.
    """
    shown = manifest.loc[:, list(MANIFEST_COLUMNS)].sort_values("image_id", ignore_index=True)
    shown["patient"] = shown.groupby("patient")["image_id"].transform("min").where(shown["patient"] != "", "")
    return shown


def read_scores(run_folder: Path, workspace: Workspace, attributes: str | None) -> Scores:
    """Read the tables of a run.

    Args:
        run_folder: The run.
        workspace: Has the attributes for subgroups, which can identify people and are not copied to the run folder.
        attributes: Name of the table of attributes; `None` without any.

    Raises:
        EvaluationError: Predictions and manifest have different images, splits or labels.
        WorkspaceError: A file is missing or damaged.
    """
    manifest, predictions = read_table(run_folder / MANIFEST_FILE), read_table(run_folder / PREDICTIONS_FILE)
    joined = predictions.merge(
        manifest[["image_id", "sha256", "group", "patient"]], on="image_id", how="left", validate="one_to_one"
    )
    columns = ["image_id", "split", "label"]
    listed = manifest.loc[manifest["split"] != "", columns].sort_values("image_id", ignore_index=True)
    if not listed.equals(joined[columns].sort_values("image_id", ignore_index=True)):
        raise EvaluationError(
            f"{PREDICTIONS_FILE} and {MANIFEST_FILE} differ in their images, splits or labels. "
            "Run the pipeline again, which writes both."
        )
    optional = (FOLDS_FILE, LEAKAGE_FILE, SHORTCUTS_FILE, TRAINING_SIZES_FILE, LABEL_REVIEW_FILE)
    folds, leakage, shortcuts, training_sizes, label_review = (
        read_table(run_folder / name) if (run_folder / name).exists() else None for name in optional
    )
    attribute_table = None if attributes is None else read_attributes(joined, workspace, attributes)
    neighbors = read_table(run_folder / NEIGHBORS_FILE)
    predictions = joined.drop(columns="sha256")
    return Scores(predictions, neighbors, folds, leakage, attribute_table, shortcuts, training_sizes, label_review)


def write_decisions(predictions_file: Path, metrics: Mapping[str, Any]) -> None:
    """Add the column `decision` to the predictions of a run."""
    predictions = read_table(predictions_file)
    decisions = decide(predictions["score"], read_image_rule(metrics))
    predictions.assign(decision=decisions).to_csv(predictions_file, index=False)


def read_borders(run_folder: Path) -> pd.DataFrame:
    """Read the doubtful borders between inferred groups; without rows if nothing was inferred."""
    if (run_folder / BORDERS_FILE).exists():
        return read_table(run_folder / BORDERS_FILE)
    return pd.DataFrame(columns=["first_id", "second_id", "kind", "certainty", "is_joined"])


def read_attributes(images: pd.DataFrame, workspace: Workspace, name: str) -> pd.DataFrame:
    """Read the attributes for subgroups.

    Args:
        images: Columns image_id and sha256.
        workspace: Has the table.
        name: Name of the table.

    Returns:
        Column image_id and the attributes, one row per image.

    Raises:
        WorkspaceError: The table is missing or damaged.
    """
    file = workspace.attributes_folder / f"{name}.parquet"
    try:
        columns = pd.read_parquet(file)
    except UNREADABLE as error:
        raise WorkspaceError(
            f"{file} cannot be read: the subgroups cannot be computed without it. Keep runs in their workspace."
        ) from error
    revealed = columns.set_index("sha256").apply(lambda column: resolve_pseudonyms(column, workspace))
    return images[["image_id", "sha256"]].merge(revealed, on="sha256", how="left").drop(columns="sha256")


def read_table(file: Path) -> pd.DataFrame:
    """Read a CSV file of a run without changing text or the last digit of numbers.

    Raises:
        WorkspaceError: The file is missing or damaged.
    """
    try:
        table = pd.read_csv(file, dtype="str", keep_default_na=False)
        return table.astype({name: kind for name, kind in NUMBERS.items() if name in table})
    except (*UNREADABLE, pd.errors.ParserError) as error:
        raise WorkspaceError(f"{file.name} of the run cannot be read. Run the pipeline again.") from error
