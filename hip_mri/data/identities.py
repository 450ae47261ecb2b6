"""What is known of the images beside their pixels: whose they are, by keyed hash, and the user's columns on them.

Each delivery may bring a table; DICOM files name patients by themselves. What they told is kept with the delivery, for
runs to which it is not delivered again.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from hip_mri.data.delivered_table import read_patients_table
from hip_mri.data.delivery import Delivery, drop_damaged, tell_which
from hip_mri.data.entries import list_entries
from hip_mri.data.manifest import UNREADABLE, digest_table
from hip_mri.data.names import hide_names, remember_names, reveal_names
from hip_mri.data.patients import (
    PatientTable,
    find_in_names,
    hash_identities,
    match_rows,
    parse_patient_table,
    read_patient_file,
)
from hip_mri.errors import WorkspaceError
from hip_mri.storage import replace_file
from hip_mri.workspace import Workspace

COLUMNS: Final = ("sha256", "patient_id", "patient_pattern", "series", "patient", "split")
"""Image, its patient by table or file and by the pattern of names, its series, its patient by either (all hashed), and
the prescribed split."""

ATTRIBUTE_PREFIX: Final = "attribute: "
"""Begins the name of each column of the user's, so that none is taken for one of the program's."""


@dataclass(frozen=True)
class Identities:
    """What is known of the images of all deliveries.

    Attributes:
        images: The columns of `COLUMNS`, one row per file.
        attributes: Name of the table in the workspace that holds further columns of the user's; `None` without any.
    """

    images: pd.DataFrame
    attributes: str | None


def check_patient_tables(deliveries: Sequence[Delivery], file: Path | None) -> None:
    """Complain of a table of patients that cannot be used, before any image is read; see `identify_images`."""
    if file is not None:
        read_patient_file(file)
        return
    for delivery in deliveries:
        with tell_which(delivery, deliveries):
            read_delivered_table(delivery)


def identify_images(
    deliveries: Sequence[Delivery], names: Collection[str], file: Path | None, pattern: str | None, workspace: Workspace
) -> Identities:
    """Find out whose the images are.

    Args:
        deliveries: Those of this run, whose entries were read.
        names: Names of all deliveries in use; what earlier runs learned of the others is taken.
        file: The user's table of patients; without it, each delivery may hold one, `patients.csv` beside its class
            folders.
            Where it is silent, the patient that a DICOM file names counts.
        pattern: Regular expression that finds the patient in a file's path.
        workspace: Its `identities` are kept, and its `attributes` written.

    Raises:
        SettingsError: A table cannot be used, or table or pattern fit no image.
    """
    listed = list_entries([delivery.name for delivery in deliveries], workspace)
    listed = listed[listed["reason"] == ""]
    if file is not None:
        parts = [(listed, read_patient_file(file))]
    else:
        parts = [(listed[listed["delivery"] == it.name], read_delivered_table(it)) for it in deliveries]
    for entries, table in parts:
        if len(entries):
            known = _identify(entries, table, pattern, workspace)
            for name, rows in known.groupby(entries["delivery"]):
                _keep(str(name), rows, workspace)
    known = pd.concat([_read(name, workspace) for name in sorted(names)], ignore_index=True).fillna("")
    return Identities(known.loc[:, list(COLUMNS)], _keep_attributes(known, workspace))


def _identify(
    entries: pd.DataFrame, table: PatientTable | None, pattern: str | None, workspace: Workspace
) -> pd.DataFrame:
    """Columns of `COLUMNS` and the user's own, with the index of `entries`."""
    known = entries[["sha256"]].assign(patient_id="", patient_pattern="", split="")
    is_stack = (entries["num_slices"] > 1) & (entries["series"] == "")
    known["series"] = entries["series"].where(~is_stack, entries["entry"])  # slices of one file are one series
    names = reveal_names(entries["entry"], workspace)
    if table is not None:
        matched = match_rows(table, names)
        known["patient_id"] = hash_identities(matched["patient_id"], workspace)
        known["split"] = matched["split"]
        known = known.join(_hide_attributes(matched.loc[:, list(table.attributes)], workspace))
    if pattern is not None:
        known["patient_pattern"] = hash_identities(find_in_names(names, pattern), workspace)
    known["patient_id"] = known["patient_id"].where(known["patient_id"] != "", entries["patient"])
    known["patient"] = known["patient_id"].where(known["patient_id"] != "", known["patient_pattern"])
    return known


def _hide_attributes(columns: pd.DataFrame, workspace: Workspace) -> pd.DataFrame:
    """The user's columns with pseudonyms for their values, which may name people or be theirs alone."""
    values = pd.unique(columns.to_numpy().ravel())
    pseudonyms = dict(zip(values, hide_names(values, workspace), strict=True))
    remember_names({pseudonym: value for value, pseudonym in pseudonyms.items()}, workspace)
    return columns.apply(lambda column: column.map(pseudonyms)).rename(columns=lambda name: ATTRIBUTE_PREFIX + name)


def _keep(name: str, known: pd.DataFrame, workspace: Workspace) -> None:
    """Keep what is known of a delivery's images; of what is not told again, what was told before."""
    earlier = _read(name, workspace)
    is_silent = (known.drop(columns=["sha256", "series"]) == "").all(axis="columns")
    is_silent &= known["sha256"].isin(earlier["sha256"])
    remembered = earlier[earlier["sha256"].isin(known.loc[is_silent, "sha256"])]
    rows = pd.concat([known[~is_silent], remembered], ignore_index=True).fillna("")
    with replace_file(workspace.identities_folder / f"{name}.parquet", is_private=True) as temporary:
        rows.to_parquet(temporary, index=False)


def _read(name: str, workspace: Workspace) -> pd.DataFrame:
    file = workspace.identities_folder / f"{name}.parquet"
    if not file.exists():
        return pd.DataFrame({column: [] for column in COLUMNS}, dtype="str")
    try:
        return pd.read_parquet(file)
    except UNREADABLE as error:
        raise WorkspaceError(
            f"{file} cannot be read. Restore it from a backup, or remove it and deliver its images again with their "
            "table of patients."
        ) from error


def read_delivered_table(delivery: Delivery) -> PatientTable | None:
    """Read the table of patients beside the class folders of a delivery; `None` where there is none."""
    with drop_damaged(delivery):
        found = read_patients_table(delivery.path, delivery.limits)
    return None if found is None else parse_patient_table(found, "source: its table of patients")


def _keep_attributes(known: pd.DataFrame, workspace: Workspace) -> str | None:
    """Write the columns that describe subgroups, under a name of their content; pseudonyms stand for their values."""
    columns = [column for column in known.columns if column.startswith(ATTRIBUTE_PREFIX)]
    if not columns:
        return None
    told = known[["sha256", *columns]].replace("", pd.NA)
    values = told.groupby("sha256").first().fillna("").rename_axis("sha256").reset_index().astype("str")
    name = digest_table(values)[:16]
    with replace_file(workspace.attributes_folder / f"{name}.parquet", is_private=True) as temporary:
        values.to_parquet(temporary, index=False)
    return name
