"""Reads and writes the tables of a run folder, which have no source names and no patient identities."""

from pathlib import Path
from typing import Final

import pandas as pd

from hip_mri.dataset.pseudonyms import resolve_pseudonyms
from hip_mri.dataset.tables import UNREADABLE
from hip_mri.errors import EvaluationError, WorkspaceError
from hip_mri.evaluation.metrics.results import Scores
from hip_mri.hashes import HASHES
from hip_mri.workspace import Workspace

MANIFEST_COLUMNS: Final = ("image_id", "sha256", "label", "split", "state", "reason", "group", "patient", "evidence")
"""Columns of `manifest.csv`; `sha256` is of the decoded pixels, of quarantined files of the file."""

NUMBERS: Final = {"score": "float64", "distance": "float64", "seed": "int64", "fold": "int64"}
"""Columns with numbers; read as text first, since CSV readers can lose the last digit of a float."""


class RunFiles:
    """Names the files of a run folder.

    Attributes:
        folder: The run folder.
        metrics: All metrics and the records that they are based on.
        predictions: image_id, split, label and score of every image.
        manifest: Every file of the source by pseudonym; see `MANIFEST_COLUMNS`.
        neighbors: Nearest training images, of the leakage audit.
        folds: Scores of cross-validation; missing if it was left out.
        history: One row per epoch.
        config: Every setting.
        model: The complete network.
        novelty: Out-of-distribution detector.
        figures_folder: The figures.
        hashes: SHA-256 of every other file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = folder / "metrics.json"
        self.predictions = folder / "predictions.csv"
        self.manifest = folder / "manifest.csv"
        self.neighbors = folder / "neighbours.csv"
        self.folds = folder / "folds.csv"
        self.history = folder / "history.csv"
        self.config = folder / "config.yaml"
        self.model = folder / "model.keras"
        self.novelty = folder / "novelty.npz"
        self.figures_folder = folder / "figures"
        self.hashes = folder / HASHES


def describe_manifest(manifest: pd.DataFrame) -> pd.DataFrame:
    """Select the columns of a manifest that a run contains.

    The patient is replaced by the smallest image id of the patient, which does not identify them.
    """
    shown = manifest.loc[:, list(MANIFEST_COLUMNS)].sort_values("image_id", ignore_index=True)
    shown["patient"] = shown.groupby("patient")["image_id"].transform("min").where(shown["patient"] != "", "")
    return shown


def read_scores(files: RunFiles, workspace: Workspace, attributes: str | None) -> Scores:
    """Read the tables of a run.

    Args:
        files: The run.
        workspace: Has the attributes for subgroups, which can identify people and are not copied to the run folder.
        attributes: Name of the table of attributes; `None` without any.

    Raises:
        EvaluationError: Predictions and manifest have different images, splits or labels.
        WorkspaceError: A file is missing or damaged.
    """
    manifest, predictions = read_table(files.manifest), read_table(files.predictions)
    joined = predictions.merge(
        manifest[["image_id", "sha256", "group", "patient"]], on="image_id", how="left", validate="one_to_one"
    )
    columns = ["image_id", "split", "label"]
    listed = manifest.loc[manifest["split"] != "", columns].sort_values("image_id", ignore_index=True)
    if not listed.equals(joined[columns].sort_values("image_id", ignore_index=True)):
        raise EvaluationError(
            f"{files.predictions.name} and {files.manifest.name} differ in their images, splits or labels. "
            "Run the pipeline again, which writes both."
        )
    folds = read_table(files.folds) if files.folds.exists() else None
    attribute_table = None if attributes is None else read_attributes(joined, workspace, attributes)
    return Scores(joined.drop(columns="sha256"), read_table(files.neighbors), folds, attribute_table)


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
