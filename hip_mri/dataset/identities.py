"""Patients, studies, series, given splits and user attributes of the images, as keyed hashes.

Each delivery may bring a table of patients, and DICOM files name their patient themselves. Both are stored with the
delivery, for runs to which it is not delivered again.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from hip_mri.config import SPLITS, DataSettings
from hip_mri.dataset.deliveries import Delivery, delete_damaged, name_delivery_in_errors
from hip_mri.dataset.entries import list_entries
from hip_mri.dataset.manifest import digest_table
from hip_mri.dataset.pseudonyms import hash_identities, make_pseudonyms, resolve_pseudonyms, store_names
from hip_mri.dataset.table_files import read_table, write_table
from hip_mri.errors import SplitError
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
from hip_mri.sources.tables.split_tables import SplitTables, match_split_tables, read_split_tables
from hip_mri.storage import write_json
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

IDENTITY_COLUMNS: Final = ("sha256", "patient_id", "patient_pattern", "study", "series", "patient", "split", "split_by")
"""Image, its patient by table or file and by the pattern of names, its study and series, its patient by either (all
hashed), the given split, and whether `folders` or the `table` gave it. The split is `train`, `val`, `test`, one of
`split_folders.UNDECIDED`, or empty."""

TABLE: Final = "table"
FOLDERS: Final = "folders"

_DELIVERED: Final = "source: its table of patients"
"""Name in errors of a table that a source holds."""

ATTRIBUTE_PREFIX: Final = "attribute: "
"""Prefix of the names of user columns, so that they cannot collide with those of the program."""


@dataclass(frozen=True)
class Identities:
    """Identities of the images of all deliveries.

    Attributes:
        images: The columns of `IDENTITY_COLUMNS`, one row per file.
        attributes: Name of the table in the workspace that holds the user's further columns; `None` without any.
    """

    images: pd.DataFrame
    attributes: str | None


def check_patient_tables(
    deliveries: Sequence[Delivery],
    file: Path | None,
    class_names: Mapping[str, str] | None = None,
    split_files: Mapping[str, Path] | None = None,
    *,
    keep_given_split: bool = True,
) -> None:
    """Check the tables of patients and of splits and the class names before any image is read; see `identify_images`.

    Raises:
        SettingsError: A table cannot be used.
    """
    ClassNames(class_names)
    if split_files:
        read_split_tables(split_files)
    check = check_patient_splits if keep_given_split else lambda table, name: None
    if file is not None:
        check(read_patient_file(file), "data.patients_file")
        return
    for delivery in deliveries:
        with name_delivery_in_errors(delivery, deliveries):
            table = read_delivered_table(delivery)
            if table is not None:
                check(table, _DELIVERED)


def identify_images(deliveries: Sequence[Delivery], workspace: Workspace, settings: DataSettings) -> None:
    """Find and store the patients, studies and series of the images, and the split that they were given.

    Args:
        deliveries: Those of this run, whose entries were read. Without `patients_file`, each may hold a table of
            patients, `patients.csv` beside its class folders. For images without a patient there, the patient that the
            DICOM file names counts.
        workspace: Its `identities` are written.
        settings: Table of patients, pattern of the patient in file names, names of the classes, and whether the splits
            of tables and folders count.

    Raises:
        SettingsError: A table cannot be used, or table or pattern match no image.
        SplitError: Table and folders give images different splits.
    """
    keep_given_split = settings.given_split == "keep"
    listed = list_entries([delivery.name for delivery in deliveries], workspace)
    listed = listed[listed["reason"] == ""]
    if settings.patients_file is not None:
        parts = [(listed, read_patient_file(settings.patients_file))]
    else:
        parts = [(listed[listed["delivery"] == it.name], read_delivered_table(it)) for it in deliveries]
    class_names = ClassNames(settings.class_names)
    split_tables = read_split_tables(settings.split_files) if settings.split_files else None
    write_json(workspace.split_tables_file, dict(split_tables.hashes) if split_tables else {})
    for entries, table in parts:
        if len(entries):
            source_names = resolve_pseudonyms(entries["entry"], workspace)
            known = _identify(entries, source_names, table, settings.patient_pattern, workspace, class_names)
            if split_tables is not None:
                known = _add_publisher_split(known, entries, source_names, split_tables, class_names)
            if not keep_given_split:
                known = known.assign(split="", split_by="")
            for name, rows in known.groupby(entries["delivery"]):
                named = source_names[rows.index] if keep_given_split else source_names[:0]
                _keep(str(name), rows, _find_folder_splits(named, rows["sha256"][named.index]), workspace)


def read_identities(names: Collection[str], workspace: Workspace, *, keep_given_split: bool = True) -> Identities:
    """Read the identities of the images of deliveries, as `identify_images` stored them in this run or earlier ones.

    Args:
        names: Names of the deliveries.
        workspace: Its `attributes` are written.
        keep_given_split: Whether the splits of tables and folders count.
    """
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
    """Columns of `IDENTITY_COLUMNS` without the splits of folders, and the user's own, with the index of `entries`."""
    known = entries[["sha256", "study"]].assign(patient_id="", patient_pattern="", split="", split_by="")
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


def _add_publisher_split(
    known: pd.DataFrame,
    entries: pd.DataFrame,
    source_names: pd.Series,
    tables: SplitTables,
    class_names: ClassNames,
) -> pd.DataFrame:
    """Give images the split of the publisher's tables.

    Raises:
        SplitError: The tables do not fit the images, or the table of patients gives another split.
    """
    places = [names.index for _, names in source_names.groupby(entries["delivery"])]
    parts = [match_split_tables(tables, source_names[at], entries.loc[at, "label"], class_names) for at in places]
    split = pd.concat(parts).reindex(known.index)
    if not split.isin(SPLITS).any():
        raise SplitError(
            f"data.test_file: the tables of the split name none of the {len(split)} files of the source. Give the "
            "tables of this collection, with the file names as in the source."
        )
    is_conflict = known["split"].isin(SPLITS) & split.isin(SPLITS) & (known["split"] != split)
    if is_conflict.any():
        raise SplitError(
            f"data: {known.loc[is_conflict, 'sha256'].nunique()} images have another split in the table of patients "
            "than in the tables of the split. Remove the column split, or leave out --data.test-file."
        )
    return known.assign(split=split, split_by=TABLE)


def _complete_splits(splits: pd.Series) -> pd.Series:
    """If a table splits all images but has no validation or no test part, its training images are drawn for it."""
    given = set(splits)
    if "" in given or "train" not in given or given in ({"train"}, set(SPLITS)):
        return splits
    return splits.replace("train", choose_open_split(given))


def _find_folder_splits(source_names: pd.Series, hashes: pd.Series) -> pd.DataFrame:
    """The files whose folder gives a split: columns sha256 and folder_split."""
    found = pd.DataFrame({"sha256": hashes, "folder_split": find_given_splits(list(source_names))}, dtype="str")
    return found[found["folder_split"] != ""]


def _hide_attributes(columns: pd.DataFrame, workspace: Workspace) -> pd.DataFrame:
    """The user's columns with pseudonyms as values, which may name people or be unique to them."""
    values = pd.unique(columns.to_numpy().ravel())
    pseudonyms = dict(zip(values, make_pseudonyms(values, workspace), strict=True))
    store_names({pseudonym: value for value, pseudonym in pseudonyms.items()}, workspace)
    return columns.apply(lambda column: column.map(pseudonyms)).rename(columns=lambda name: ATTRIBUTE_PREFIX + name)


def _keep(name: str, known: pd.DataFrame, folder_splits: pd.DataFrame, workspace: Workspace) -> None:
    """Write the identities of a delivery's images; images without any keep those of an earlier run."""
    earlier = _read(name, workspace)
    is_by_table = earlier["split_by"] == TABLE  # the folders are read again
    earlier = earlier.assign(**{column: earlier[column].where(is_by_table, "") for column in ("split", "split_by")})
    is_empty = (known.drop(columns=["sha256", "study", "series"]) == "").all(axis="columns")
    is_empty &= known["sha256"].isin(earlier["sha256"])
    remembered = earlier[earlier["sha256"].isin(known.loc[is_empty, "sha256"])]
    studies = known.drop_duplicates("sha256").set_index("sha256")["study"]
    remembered = remembered.assign(study=studies[remembered["sha256"]].to_numpy())  # earlier versions did not read it
    rows = pd.concat([known[~is_empty], remembered], ignore_index=True).fillna("")
    write_table(_locate(name, workspace), _add_folder_splits(rows, folder_splits))


def _add_folder_splits(rows: pd.DataFrame, folder_splits: pd.DataFrame) -> pd.DataFrame:
    """Give images the split of their folder; an image with copies in several folders gets a row for each.

    Raises:
        SplitError: The table gives another split.
    """
    merged = rows.merge(folder_splits.drop_duplicates(), on="sha256", how="left").fillna("")
    is_conflict = merged["split"].isin(SPLITS) & merged["folder_split"].isin(SPLITS)
    is_conflict &= merged["split"] != merged["folder_split"]
    if is_conflict.any():
        raise SplitError(
            f"data: {merged.loc[is_conflict, 'sha256'].nunique()} images have another split in a table "
            "than by their folder. Correct either, or draw a new split with --data.given-split ignore."
        )
    is_by_folder = (merged["split"] == "") & (merged["folder_split"] != "")
    merged["split"] = merged["split"].mask(is_by_folder, merged["folder_split"])
    merged["split_by"] = merged["split_by"].mask(is_by_folder, FOLDERS)
    return merged.drop(columns="folder_split")


def _read(name: str, workspace: Workspace) -> pd.DataFrame:
    advice = "Restore it from a backup, or remove it and deliver its images again with their table of patients."
    return read_table(_locate(name, workspace), IDENTITY_COLUMNS, advice, added={"study": ""})


def _locate(name: str, workspace: Workspace) -> Path:
    return workspace.identities_folder / f"{name}.parquet"


def read_patient_table(delivery: Delivery, file: Path | None) -> PatientTable | None:
    """Read the table of patients of a delivery: the user's if given, else its own, if any."""
    return read_delivered_table(delivery) if file is None else read_patient_file(file)


def read_delivered_table(delivery: Delivery) -> PatientTable | None:
    """Read the table of patients beside the class folders of a delivery; `None` without one."""
    with delete_damaged(delivery):
        found = read_patients_table(delivery.path, delivery.limits)
    return None if found is None else parse_patient_table(found, _DELIVERED)


def _keep_attributes(known: pd.DataFrame, workspace: Workspace) -> str | None:
    """Write the user's columns, with pseudonyms as values, to a file that is named by their digest."""
    columns = [column for column in known.columns if column.startswith(ATTRIBUTE_PREFIX)]
    if not columns:
        return None
    given = known[["sha256", *columns]].replace("", pd.NA)
    values = given.groupby("sha256").first().fillna("").rename_axis("sha256").reset_index().astype("str")
    name = digest_table(values)[:16]
    write_table(workspace.attributes_folder / f"{name}.parquet", values)
    return name
