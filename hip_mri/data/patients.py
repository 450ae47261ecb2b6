"""Who is in the images: identities from the user's table or from file names, kept as keyed hashes only."""

import csv
import hashlib
import hmac
import io
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from hip_mri.config import LABELS, SPLITS
from hip_mri.data.entry_names import compose_accents
from hip_mri.data.names import read_key
from hip_mri.errors import SettingsError, list_offenders
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

NEEDED: Final = ("source_name", "patient_id")
"""Columns that a table of patients must have."""


@dataclass(frozen=True)
class PatientTable:
    """What a user knows of the images.

    Attributes:
        rows: Columns source_name, patient_id, `split` (empty where none is given) and any further ones, all text.
    """

    rows: pd.DataFrame

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the further columns: age group, scanner, sequence and so on."""
        return tuple(name for name in self.rows.columns if name not in (*NEEDED, "split"))


def read_patient_file(file: Path) -> PatientTable:
    """Read the table of patients that the user gives; see `parse_patient_table`."""
    try:
        content = file.expanduser().read_bytes()
    except (OSError, RuntimeError) as error:  # the latter where nobody has the home folder
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(
            f"data.patients_file: the file cannot be read ({reason}). Give the path of a CSV file with the "
            f"columns {', '.join(NEEDED)}."
        ) from None  # the error names the file, which is in the settings and need not be in a log
    return parse_patient_table(content, "data.patients_file")


def parse_patient_table(content: bytes, name: str) -> PatientTable:
    """Read a table of patients.

    Args:
        content: A CSV file in UTF-8 with the columns source_name and patient_id; optionally `split` (`train`, `val` or
            `test`) and further columns, which describe subgroups.
        name: What an error calls it.

    Raises:
        SettingsError: The file cannot be read, a column is missing, or values contradict each other. No message
            repeats a patient's identity.
    """
    try:
        text = content.decode("utf-8-sig")
        heading = text.partition("\n")[0]
        delimiter = ";" if heading.count(";") > heading.count(",") else ","
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except (ValueError, csv.Error) as error:
        raise SettingsError(
            f"{name} is no CSV file in UTF-8. Save it as one with a heading for each column."
        ) from error
    lines = [
        [compose_accents(field.strip()) for field in line] for line in lines if any(field.strip() for field in line)
    ]
    columns = lines[0] if lines else []
    missing = [column for column in NEEDED if column not in columns]
    if missing:
        raise SettingsError(
            f"{name} has no column {' and no column '.join(missing)} among its {len(columns)} columns. Its first "
            f"line must have {', '.join(NEEDED)}, and may have split and columns for subgroups."
        )
    if len(set(columns)) < len(columns):
        raise SettingsError(f"{name} has two columns of one name. Give each column a name of its own.")
    uneven = [str(number) for number, line in enumerate(lines, 1) if len(line) != len(columns)]
    if uneven:
        raise SettingsError(
            f"{name} has lines with more or fewer than {len(columns)} fields: {list_offenders(uneven)}. "
            "Write as many fields as the first line has."
        )
    rows = pd.DataFrame(lines[1:], columns=columns, dtype="str")
    if "split" not in rows.columns:
        rows["split"] = ""
    _check(rows, name)
    return PatientTable(rows.drop_duplicates("source_name", ignore_index=True))


def _check(rows: pd.DataFrame, name: str) -> None:
    unknown = [str(line + 2) for line in rows.index[~rows["split"].isin(["", *SPLITS])]]
    if unknown:
        raise SettingsError(
            f"{name} has another split than {', '.join(SPLITS)} in the lines {list_offenders(unknown)}. "
            "Write one of these, or leave the field empty."
        )
    nameless = int((rows["source_name"] == "").sum())
    if nameless:
        raise SettingsError(f"{name} has {nameless} lines without source_name. Fill them in or remove the lines.")
    distinct = rows[["source_name", "patient_id", "split"]].drop_duplicates()
    repeated = sorted({line + 2 for line in distinct.index[distinct["source_name"].duplicated()]})
    if repeated:
        raise SettingsError(
            f"{name} names files twice with different patients or splits, in the lines "
            f"{list_offenders([str(line) for line in repeated])}. Keep one line for each file."
        )


def match_rows(table: PatientTable, source_names: pd.Series) -> pd.DataFrame:
    """Find the table's row of each image.

    Args:
        table: Names files by their path in the source, or by their path from the class folder on.
        source_names: Path of each image in the source.

    Returns:
        The table's columns, one row per image in the order and with the index of `source_names`; `patient_id` is
        empty where the table has no row for it.

    Raises:
        SettingsError: No row fits any image, or one fits several.
    """
    source_names = source_names.map(compose_accents)
    rows = table.rows.set_index("source_name", drop=False)
    exact = rows.reindex(source_names).set_axis(source_names.index)
    short_names = source_names.map(_cut_above_class)
    short = rows.reindex(short_names).set_axis(source_names.index)
    is_ambiguous = short_names.duplicated(keep=False) & exact["source_name"].isna() & short["source_name"].notna()
    if is_ambiguous.any():
        raise SettingsError(
            f"data.patients_file: {short_names[is_ambiguous].nunique()} of its names fit several files of the source, "
            "in folders above the class folders. Write the whole path in the source."
        )
    matched = exact.where(exact["source_name"].notna(), short)
    num_found = int(matched["source_name"].notna().sum())
    if not num_found:
        raise SettingsError(
            f"data.patients_file: none of its {len(rows)} names is a file of the source. Write source_name as the "
            f"path in the source, or from the class folder on, such as {LABELS[0]}/image1.png."
        )
    if num_found < len(source_names):
        logger.warning(
            "The table of patients has no row for %d of %d files", len(source_names) - num_found, len(source_names)
        )
    return matched.fillna("")


def _cut_above_class(source_name: str) -> str:
    parts = source_name.split("/")
    depths = [parts.index(label) for label in LABELS if label in parts[:-1]]
    return "/".join(parts[min(depths, default=0) :])


def find_in_names(source_names: pd.Series, pattern: str) -> pd.Series:
    """Read patients out of file names.

    Args:
        source_names: Path of each image in the source.
        pattern: Regular expression, searched in the path below the class folder; its group `patient`, or else its
            first group, is the id.

    Returns:
        The ids; empty where the pattern is not found.

    Raises:
        SettingsError: The pattern has no group, or is found in no name.
    """
    expression = re.compile(pattern)
    group: str | int = "patient" if "patient" in expression.groupindex else 1
    below = source_names.map(lambda name: _cut_above_class(name).partition("/")[2])
    found = [(match := expression.search(name)) and match.group(group) for name in below]
    ids = pd.Series([patient or "" for patient in found], index=source_names.index, dtype="str")
    num_found = int((ids != "").sum())
    if num_found and num_found < len(ids):
        logger.warning("The pattern of patients is found in %d of %d file names", num_found, len(ids))
    if not num_found:
        raise SettingsError(
            f"data.patient_pattern: it is found in none of the {len(ids)} file names of the source. "
            "Try it on one of them, and mark the patient's part by brackets."
        )
    return ids


def hash_identities(identities: pd.Series, workspace: Workspace) -> pd.Series:
    """Replace identities by keyed hashes (HMAC-SHA-256, 16 hexadecimal digits); empty ones stay empty.

    The key is drawn once for a workspace and lies there, readable by its owner alone. Without it, hashes of a
    hospital's few million numbers could be reversed by trying all.
    """
    key = read_key(workspace)
    known = {
        identity: hmac.new(key, identity.encode(), hashlib.sha256).hexdigest()[:16] if identity else ""
        for identity in identities.unique()
    }
    return identities.map(known).astype("str")
