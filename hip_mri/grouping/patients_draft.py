"""Writes the inferred groups as a table of patients, for a person to correct and to give back, and what is in doubt.

The table of patients holds names of files, which can identify people: only its owner may read it, and it is not part
of what a run records, registers or logs.
"""

import logging
from pathlib import Path
from typing import Final

import pandas as pd

from hip_mri.dataset.manifest import read_manifest
from hip_mri.dataset.pseudonyms import read_named_manifest
from hip_mri.dataset.split_registry import HELD_OUT
from hip_mri.dataset.table_files import read_table
from hip_mri.grouping.inferred_ties import BORDER_COLUMNS, read_examinations
from hip_mri.storage import replace_file
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

DRAFT_COLUMNS: Final = ("source_name", "patient_id", "evidence", "certainty")
"""Name of the file, its inferred group, the evidence that relates it to others, and the probability that this is right,
0-1. Tables of patients have the first two columns; the others are ignored when the file is given back."""

MAX_BORDERS: Final = 500
"""Joins, and cuts, that are listed as doubtful."""


def list_doubtful_borders(workspace: Workspace) -> pd.DataFrame:
    """List the least certain joins and cuts of the last inference, the least certain first.

    Returns:
        Columns first_id, second_id (image ids), kind, certainty and is_joined.
    """
    images = read_manifest(workspace.manifest_file)
    ids = images[images["state"].isin(["ready", HELD_OUT])].set_index("sha256")["image_id"]
    borders = read_table(workspace.borders_file, BORDER_COLUMNS, "Remove it and start again: it is written again.")
    borders = borders[borders["first"].isin(ids.index) & borders["second"].isin(ids.index)]
    borders = borders.assign(first_id=borders["first"].map(ids), second_id=borders["second"].map(ids))
    is_joined = borders["is_joined"].astype(bool)
    joins = borders[is_joined].sort_values(["certainty", "first_id"]).head(MAX_BORDERS)
    cuts = borders[~is_joined].sort_values(["certainty", "first_id"], ascending=[False, True]).head(MAX_BORDERS)
    return pd.concat([joins, cuts])[["first_id", "second_id", "kind", "certainty", "is_joined"]]


def write_patients_draft(file: Path, workspace: Workspace) -> None:
    """Write all images of the groups that hold an image without a named patient, sorted by group and name.

    Images that are held out are among them. Names that files of different groups share are left out.

    Args:
        file: CSV with the columns of `DRAFT_COLUMNS`.
        workspace: Its manifest, names and record of examinations are read.
    """
    images = read_named_manifest(workspace)
    images = images[images["state"].isin(["ready", HELD_OUT])]
    images = images[images["group"].isin(images.loc[images["patient"] == "", "group"])]
    is_ambiguous = images.groupby("source_name")["group"].transform("nunique") > 1
    if is_ambiguous.any():
        logger.warning(
            "%s leaves out %d files whose names occur in several deliveries", file.name, int(is_ambiguous.sum())
        )
    certainty = read_examinations(workspace).set_index("sha256")["certainty"].astype(float)
    draft = images[~is_ambiguous].assign(
        patient_id=lambda kept: "group-" + kept["group"],
        certainty=lambda kept: kept["sha256"].map(certainty).fillna(1.0).round(3),
    )
    draft = draft.drop_duplicates("source_name").sort_values(["patient_id", "source_name"])
    with replace_file(file, is_private=True) as temporary:
        draft.loc[:, list(DRAFT_COLUMNS)].to_csv(temporary, index=False)
