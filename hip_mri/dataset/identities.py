"""What is known of the images beside their pixels: whose they are, by keyed hash, and the user's columns on them.

Each delivery may bring a table; DICOM files name patients by themselves. What they told is kept with the delivery, for
runs to which it is not delivered again.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from hip_mri.config import SPLITS
from hip_mri.dataset.deliveries import Delivery, delete_damaged, name_delivery_in_errors
from hip_mri.dataset.entries import list_entries
from hip_mri.dataset.manifest import UNREADABLE, digest_table
from hip_mri.dataset.pseudonyms import hash_identities, hide_names, remember_names, reveal_names
from hip_mri.errors import SplitError, WorkspaceError
from hip_mri.sources.class_names import ClassNames
from hip_mri.sources.split_folders import choose_open_split, find_given_splits
from hip_mri.sources.tables.delivered_table import read_patients_table
from hip_mri.sources.tables.patient_table import (
    PatientTable,
    check_patient_splits,
    find_in_names,
    match_rows,
    parse_patient_table,
    read_patient_file,
)
from hip_mri.storage import replace_file
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

IDENTITY_COLUMNS: Final = ("sha256", "patient_id", "patient_pattern", "series", "patient", "split", "split_by")
"""Image, its patient by table or file and by the pattern of names, its series, its patient by either (all hashed), the
given split, and whether `folders` or the `table` gave it. The split is `train`, `val`, `test`, one of
`split_folders.UNDECIDED`, or empty."""

TABLE: Final = "table"
FOLDERS: Final = "folders"

_DELIVERED: Final = "source: its table of patients"
"""What errors call a table that a source holds."""

ATTRIBUTE_PREFIX: Final = "attribute: "
"""Begins the name of each column of the user's, so that none is taken for one of the program's."""


@dataclass(frozen=True)
class Identities:
    """What is known of the images of all deliveries.

    Attributes:
        images: The columns of `IDENTITY_COLUMNS`, one row per file.
        attributes: Name of the table in the workspace that holds further columns of the user's; `None` without any.
    """

    images: pd.DataFrame
    attributes: str | None


def check_patient_tables(
    deliveries: Sequence[Delivery],
    file: Path | None,
    class_names: Mapping[str, str] | None = None,
    *,
    keep_given_split: bool = True,
) -> None:
    """Complain of a table of patients that cannot be used, before any image is read; see `identify_images`.

    Args:
        deliveries: Those of this run.
        file: The user's table; without it, each delivery may hold one.
        class_names: Other names of the classes, which are checked as well.
        keep_given_split: Whether the table's splits count.
    """
    ClassNames(class_names)
    check = check_patient_splits if keep_given_split else lambda table, name: None
    if file is not None:
        check(read_patient_file(file), "data.patients_file")
        return
    for delivery in deliveries:
        with name_delivery_in_errors(delivery, deliveries):
            table = read_delivered_table(delivery)
            if table is not None:
                check(table, _DELIVERED)


def identify_images(
    deliveries: Sequence[Delivery],
    names: Collection[str],
    file: Path | None,
    pattern: str | None,
    workspace: Workspace,
    class_names: Mapping[str, str] | None = None,
    *,
    keep_given_split: bool = True,
) -> Identities:
    """Find out whose the images are, and which split they were given.

    Args:
        deliveries: Those of this run, whose entries were read.
        names: Names of all deliveries in use; what earlier runs learned of the others is taken.
        file: The user's table of patients; without it, each delivery may hold one, `patients.csv` beside its class
            folders.
            Where it is silent, the patient that a DICOM file names counts.
        pattern: Regular expression that finds the patient in a file's path.
        workspace: Its `identities` are kept, and its `attributes` written.
        class_names: Other names of the classes, to the labels that they stand for.
        keep_given_split: Whether the splits of tables and folders count.

    Raises:
        SettingsError: A table cannot be used, or table or pattern fit no image.
        SplitError: Table and folders give images different splits.
    """
    listed = list_entries([delivery.name for delivery in deliveries], workspace)
    listed = listed[listed["reason"] == ""]
    if file is not None:
        parts = [(listed, read_patient_file(file))]
    else:
        parts = [(listed[listed["delivery"] == it.name], read_delivered_table(it)) for it in deliveries]
    for entries, table in parts:
        if len(entries):
            source_names = reveal_names(entries["entry"], workspace)
            known = _identify(entries, source_names, table, pattern, workspace, ClassNames(class_names))
            if not keep_given_split:
                known = known.assign(split="", split_by="")
            for name, rows in known.groupby(entries["delivery"]):
                named = source_names[rows.index] if keep_given_split else source_names[:0]
                _keep(str(name), rows, _find_folder_splits(named, rows["sha256"][named.index]), workspace)
    known = pd.concat([_read(name, workspace) for name in sorted(names)], ignore_index=True).fillna("")
    if not keep_given_split:
        known = known.assign(split="", split_by="")
    return Identities(known.loc[:, list(IDENTITY_COLUMNS)], _keep_attributes(known, workspace))


def _identify(
    entries: pd.DataFrame,
    source_names: pd.Series,
    table: PatientTable | None,
    pattern: str | None,
    workspace: Workspace,
    class_names: ClassNames,
) -> pd.DataFrame:
    """Columns of `IDENTITY_COLUMNS`, as far as folders do not tell, and the user's own, with the index of `entries`."""
    known = entries[["sha256"]].assign(patient_id="", patient_pattern="", split="", split_by="")
    is_stack = (entries["num_slices"] > 1) & (entries["series"] == "")
    known["series"] = entries["series"].where(~is_stack, entries["entry"])  # slices of one file are one series
    if table is not None:
        matched = match_rows(table, source_names)
        known["patient_id"] = hash_identities(matched["patient_id"], workspace)
        known["split"] = _complete_splits(matched["split"])
        known["split_by"] = known["split"].map(lambda split: TABLE if split else "")
        known = known.join(_hide_attributes(matched.loc[:, list(table.attributes)], workspace))
    if pattern is not None:
        known["patient_pattern"] = hash_identities(find_in_names(source_names, pattern, class_names), workspace)
    known["patient_id"] = known["patient_id"].where(known["patient_id"] != "", entries["patient"])
    known["patient"] = known["patient_id"].where(known["patient_id"] != "", known["patient_pattern"])
    return known


def _complete_splits(splits: pd.Series) -> pd.Series:
    """Where a table gives every image a split, and none is for validation or none for the test, divide its training."""
    given = set(splits)
    if "" in given or "train" not in given or given in ({"train"}, set(SPLITS)):
        return splits
    return splits.replace("train", choose_open_split(given))


def _find_folder_splits(source_names: pd.Series, hashes: pd.Series) -> pd.DataFrame:
    """Image (column sha256) and the split that a folder of its delivery gives it, where any does; a row per file."""
    found = pd.DataFrame({"sha256": hashes, "folder_split": find_given_splits(list(source_names))}, dtype="str")
    return found[found["folder_split"] != ""]


def _hide_attributes(columns: pd.DataFrame, workspace: Workspace) -> pd.DataFrame:
    """The user's columns with pseudonyms for their values, which may name people or be theirs alone."""
    values = pd.unique(columns.to_numpy().ravel())
    pseudonyms = dict(zip(values, hide_names(values, workspace), strict=True))
    remember_names({pseudonym: value for value, pseudonym in pseudonyms.items()}, workspace)
    return columns.apply(lambda column: column.map(pseudonyms)).rename(columns=lambda name: ATTRIBUTE_PREFIX + name)


def _keep(name: str, known: pd.DataFrame, folder_splits: pd.DataFrame, workspace: Workspace) -> None:
    """Keep what is known of a delivery's images; of what is not told again, what was told before."""
    earlier = _read(name, workspace)
    earlier = _take_out_folder_splits(earlier)
    is_silent = (known.drop(columns=["sha256", "series"]) == "").all(axis="columns")
    is_silent &= known["sha256"].isin(earlier["sha256"])
    remembered = earlier[earlier["sha256"].isin(known.loc[is_silent, "sha256"])]
    rows = pd.concat([known[~is_silent], remembered], ignore_index=True).fillna("")
    rows = _add_folder_splits(rows, folder_splits)
    with replace_file(workspace.identities_folder / f"{name}.parquet", is_private=True) as temporary:
        rows.to_parquet(temporary, index=False)


def _take_out_folder_splits(rows: pd.DataFrame) -> pd.DataFrame:
    """What was told of images apart from their folders, which are looked at again."""
    return rows.assign(
        **{column: rows[column].where(rows["split_by"] == TABLE, "") for column in ("split", "split_by")}
    )


def _add_folder_splits(rows: pd.DataFrame, folder_splits: pd.DataFrame) -> pd.DataFrame:
    """Give images the split of their folder, a row for each where copies of a file lie in several.

    Raises:
        SplitError: The table gives another one.
    """
    merged = rows.merge(folder_splits.drop_duplicates(), on="sha256", how="left").fillna("")
    is_torn = merged["split"].isin(SPLITS) & merged["folder_split"].isin(SPLITS)
    is_torn &= merged["split"] != merged["folder_split"]
    if is_torn.any():
        raise SplitError(
            f"data: {merged.loc[is_torn, 'sha256'].nunique()} images have another split in the table of patients than "
            "their folder gives them. Correct one of both, or draw a new split with --data.given-split ignore."
        )
    is_by_folder = (merged["split"] == "") & (merged["folder_split"] != "")
    merged["split"] = merged["split"].mask(is_by_folder, merged["folder_split"])
    merged["split_by"] = merged["split_by"].mask(is_by_folder, FOLDERS)
    return merged.drop(columns="folder_split")


def _read(name: str, workspace: Workspace) -> pd.DataFrame:
    file = workspace.identities_folder / f"{name}.parquet"
    if not file.exists():
        return pd.DataFrame({column: [] for column in IDENTITY_COLUMNS}, dtype="str")
    try:
        rows = pd.read_parquet(file)
        return rows if "split_by" in rows.columns else rows.assign(split_by=rows["split"].map(_guess_origin))
    except UNREADABLE as error:
        raise WorkspaceError(
            f"{file} cannot be read. Restore it from a backup, or remove it and deliver its images again with their "
            "table of patients."
        ) from error


def _guess_origin(split: str) -> str:
    """What gave the splits that earlier versions kept: the table, since they did not look at folders."""
    return TABLE if split else ""


def read_table(delivery: Delivery, file: Path | None) -> PatientTable | None:
    """Read the table of patients of a delivery: the user's where there is one, else that which it holds, if any."""
    return read_delivered_table(delivery) if file is None else read_patient_file(file)


def read_delivered_table(delivery: Delivery) -> PatientTable | None:
    """Read the table of patients beside the class folders of a delivery; `None` where there is none."""
    with delete_damaged(delivery):
        found = read_patients_table(delivery.path, delivery.limits)
    return None if found is None else parse_patient_table(found, _DELIVERED)


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
