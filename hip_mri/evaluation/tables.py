"""The tables of a run folder: what the figures are computed from, without a source name or a patient's identity."""

from dataclasses import dataclass
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
"""Columns of a run's `manifest.csv`."""

NUMBERS: Final = {"score": "float64", "distance": "float64", "seed": "int64", "fold": "int64"}
"""Columns that are no text; read as text first, since not every reader of CSV keeps the last digit."""


@dataclass(frozen=True)
class RunFiles:
    """Names the files of a run folder.

    Attributes:
        folder: The run folder.
    """

    folder: Path

    @property
    def metrics(self) -> Path:
        """Every figure, and what it rests on."""
        return self.folder / "metrics.json"

    @property
    def predictions(self) -> Path:
        """image_id, split, label and score of every image."""
        return self.folder / "predictions.csv"

    @property
    def manifest(self) -> Path:
        """Every file of the source by pseudonym; see `MANIFEST_COLUMNS`."""
        return self.folder / "manifest.csv"

    @property
    def neighbours(self) -> Path:
        """Nearest training images, of the leakage audit."""
        return self.folder / "neighbours.csv"

    @property
    def folds(self) -> Path:
        """Scores of cross-validation; not there where it was left out."""
        return self.folder / "folds.csv"

    @property
    def history(self) -> Path:
        """One row per epoch."""
        return self.folder / "history.csv"

    @property
    def config(self) -> Path:
        """Every setting."""
        return self.folder / "config.yaml"

    @property
    def model(self) -> Path:
        """The whole network."""
        return self.folder / "model.keras"

    @property
    def novelty(self) -> Path:
        """What tells images that the model knows from others."""
        return self.folder / "novelty.npz"

    @property
    def figures_folder(self) -> Path:
        """The pictures."""
        return self.folder / "figures"

    @property
    def hashes(self) -> Path:
        """SHA-256 of every other file."""
        return self.folder / HASHES


def describe_manifest(manifest: pd.DataFrame) -> pd.DataFrame:
    """Take from a manifest what a run may show.

    A patient is named by the smallest image id of theirs, which tells nothing of their identity.
    """
    shown = manifest.loc[:, list(MANIFEST_COLUMNS)].sort_values("image_id", ignore_index=True)
    shown["patient"] = shown.groupby("patient")["image_id"].transform("min").where(shown["patient"] != "", "")
    return shown


def read_scores(files: RunFiles, workspace: Workspace, attributes: str | None) -> Scores:
    """Read the tables of a run.

    Args:
        files: The run.
        workspace: Holds the columns that describe subgroups; they may identify people and stay out of the run folder.
        attributes: Name of the table of these columns; `None` without any.

    Raises:
        EvaluationError: Predictions and manifest do not speak of the same images.
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
            "Run the pipeline again: both are written anew."
        )
    folds = read_table(files.folds) if files.folds.exists() else None
    described = None if attributes is None else read_attributes(joined, workspace, attributes)
    return Scores(joined.drop(columns="sha256"), read_table(files.neighbours), folds, described)


def read_attributes(images: pd.DataFrame, workspace: Workspace, name: str) -> pd.DataFrame:
    """Read the columns that describe subgroups.

    Args:
        images: Columns image_id and sha256.
        workspace: Holds the columns.
        name: Of their table.

    Returns:
        Column image_id and the user's columns, a row for each of the images.

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
    told = columns.set_index("sha256").apply(lambda column: resolve_pseudonyms(column, workspace))
    return images[["image_id", "sha256"]].merge(told, on="sha256", how="left").drop(columns="sha256")


def read_table(file: Path) -> pd.DataFrame:
    """Read a CSV file of a run: text as it stands, numbers to the last digit.

    Raises:
        WorkspaceError: The file is missing or damaged.
    """
    try:
        table = pd.read_csv(file, dtype="str", keep_default_na=False)
        return table.astype({name: kind for name, kind in NUMBERS.items() if name in table})
    except (*UNREADABLE, pd.errors.ParserError) as error:
        raise WorkspaceError(f"{file.name} of the run cannot be read. Run the pipeline again.") from error
