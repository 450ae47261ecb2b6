"""Parses the table of patients, and finds patients in file names."""

import contextlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from hip_mri.config import SPLITS
from hip_mri.errors import SettingsError, list_offenders
from hip_mri.sources.class_names import ClassNames
from hip_mri.sources.entry_names import compose_accents
from hip_mri.sources.split_folders import find_split_name
from hip_mri.sources.tables.text import read_lines

logger = logging.getLogger(__name__)

SOURCE_NAME: Final = "source_name"
"""Required column of a table."""

FACTS: Final = ("patient_id", "label", "split")
"""Columns of which at least one is required."""

DRAFT_NOTES: Final = ("evidence", "certainty")
"""Columns of a draft that a run wrote, which are no subgroups."""

_HEADINGS: Final = {name.replace("_", ""): name for name in (SOURCE_NAME, *FACTS)}
"""Columns by their headings without whitespace, dashes and underscores, in lower case."""

NEEDED_COLUMNS: Final = f"the column {SOURCE_NAME} and at least one of {', '.join(FACTS)}"


@dataclass(frozen=True)
class PatientTable:
    """Patients, labels, splits and subgroups of images.

    Attributes:
        rows: Columns source_name, patient_id, label and split (empty if not given) and any further ones, all
            text.
    """

    rows: pd.DataFrame

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the further columns: age group, scanner, sequence and so on."""
        return tuple(name for name in self.rows.columns if name not in (SOURCE_NAME, *FACTS, *DRAFT_NOTES))

    @property
    def has_labels(self) -> bool:
        """Whether the table has a label for any image."""
        return bool((self.rows["label"] != "").any())


def read_patient_file(file: Path) -> PatientTable:
    """Read the table of patients that the user gives; see `parse_patient_table`."""
    try:
        content = file.expanduser().read_bytes()
    except (OSError, RuntimeError) as error:  # the latter if the home folder does not exist
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(
            f"data.patients_file: the file cannot be read ({reason}). Give the path of a CSV file with "
            f"{NEEDED_COLUMNS}."
        ) from None  # its cause contains the path, which should not reach logs
    return parse_patient_table(content, "data.patients_file")


def parse_patient_table(content: bytes, name: str) -> PatientTable:
    """Read a table of patients, labels and splits.

    Args:
        content: A CSV file (see `hip_mri.sources.tables.text`) with the column source_name and at least one of
            patient_id, label and split (`train`, `val` or `test`, also training, validation and so on), in any case.
            Further columns describe subgroups.
        name: Name for messages.

    Raises:
        SettingsError: The file cannot be read, a column is missing, or values contradict each other. Messages do
            not contain patient ids.
    """
    lines = read_lines(content, name)
    columns = _name_columns(lines[0] if lines else [])
    if missing := _find_missing(columns):
        raise SettingsError(
            f"{name} has no column {' and no column '.join(missing)} among its {len(columns)} columns. Its first "
            f"line must have {NEEDED_COLUMNS}, and may have columns for subgroups."
        )
    if len(set(columns)) < len(columns):
        raise SettingsError(f"{name} has two columns with the same name. Rename one of them.")
    rows = pd.DataFrame(lines[1:], columns=columns, dtype="str")
    rows[SOURCE_NAME] = rows[SOURCE_NAME].map(_normalize_path).astype("str")
    for column in FACTS:
        if column not in rows.columns:
            rows[column] = ""
    rows["split"] = _read_splits(rows["split"], name)
    _check(rows, name)
    return PatientTable(rows.drop_duplicates(SOURCE_NAME, ignore_index=True))


def has_needed_columns(content: bytes) -> bool:
    """Whether a file is a table with the columns that `parse_patient_table` needs."""
    with contextlib.suppress(SettingsError):
        lines = read_lines(content, "")
        return bool(lines) and not _find_missing(_name_columns(lines[0]))
    return False


def has_labels(content: bytes) -> bool:
    """Whether a file is a table with labels."""
    with contextlib.suppress(SettingsError):
        return parse_patient_table(content, "").has_labels
    return False


def _find_missing(columns: Sequence[str]) -> list[str]:
    missing = [] if SOURCE_NAME in columns else [SOURCE_NAME]
    return missing if set(FACTS) & set(columns) else [*missing, " or ".join(FACTS)]


def _name_columns(headings: Sequence[str]) -> list[str]:
    """Normalize the headings of the columns that this program uses."""
    return [_HEADINGS.get(re.sub(r"[\s_-]", "", heading.casefold()), heading) for heading in headings]


def _normalize_path(name: str) -> str:
    """Replace backslashes in a path, and remove a leading `./`."""
    return re.sub(r"^(\./)+", "", name.replace("\\", "/"))


def _read_splits(values: pd.Series, name: str) -> pd.Series:
    splits = values.map({value: find_split_name(value) if value else "" for value in values.unique()})
    unknown = [str(line + 2) for line in splits.index[splits.isna()]]
    if unknown:
        raise SettingsError(
            f"{name} has another split than {', '.join(SPLITS)} in line {list_offenders(unknown)}. "
            "Write one of these, or leave the field empty."
        )
    return splits.astype("str")


def _check(rows: pd.DataFrame, name: str) -> None:
    nameless = int((rows[SOURCE_NAME] == "").sum())
    if nameless:
        raise SettingsError(f"{name} has {nameless} lines without source_name. Add the names, or remove the lines.")
    distinct = rows[[SOURCE_NAME, *FACTS]].drop_duplicates()
    repeated = sorted({line + 2 for line in distinct.index[distinct[SOURCE_NAME].duplicated()]})
    if repeated:
        raise SettingsError(
            f"{name} names files twice with different patients, labels or splits, in the lines "
            f"{list_offenders([str(line) for line in repeated])}. Keep one line for each file."
        )


def check_patient_splits(table: PatientTable, name: str) -> None:
    """Check that all images of each patient have the same split.

    Args:
        table: The table.
        name: Name for messages.

    Raises:
        SettingsError: A patient has several splits. Training and testing on images of one patient would bias the
            metrics, and only the author of the table can correct it.
    """
    rows = table.rows[(table.rows["patient_id"] != "") & (table.rows["split"] != "")]
    has_several = rows.groupby("patient_id")["split"].transform("nunique") > 1
    if has_several.any():
        raise SettingsError(
            f"{name} gives {rows.loc[has_several, 'patient_id'].nunique()} patients more than one split, with the "
            f"images of its rows {list_offenders([str(row + 1) for row in rows.index[has_several]])}. Give all images "
            "of a patient one split, or draw a new split with --data.given-split ignore."
        )


def find_rows(table: PatientTable, source_names: pd.Series) -> pd.DataFrame:
    """Find the table's row of each file, by its path or by the last parts of it.

    Args:
        table: Its names are paths in the source, or any number of the last parts of paths that match one file only.
        source_names: Path of each file in the source.

    Returns:
        The table's columns, one row per file in the order and with the index of `source_names`; missing values for
        files without a row.

    Raises:
        SettingsError: A row matches several files, or different rows match one file.
    """
    names = source_names.map(compose_accents).map(_normalize_path)
    num_parts = names.str.count("/") + 1
    numbers = pd.Series(np.arange(len(table.rows)), index=pd.Index(table.rows[SOURCE_NAME]))
    row_parts = numbers.index.str.count("/") + 1
    place = np.full(len(names), -1)
    num_ambiguous = num_contradictory = 0
    for count in sorted(set(row_parts), reverse=True):
        keys = names.map(lambda name, count=count: "/".join(name.rsplit("/", count)[-count:]))
        some = numbers[row_parts == count]
        at = some.index.get_indexer(pd.Index(keys))
        is_found = at >= 0
        found = np.where(is_found, some.to_numpy()[at], -1)
        is_new = is_found & (place < 0)
        is_ambiguous = is_new & (num_parts != count).to_numpy() & keys.duplicated(keep=False).to_numpy()
        num_ambiguous += keys[is_ambiguous].nunique()
        twice = is_found & (place >= 0)
        facts = table.rows[list(FACTS)]
        num_contradictory += int(
            (facts.iloc[found[twice]].to_numpy() != facts.iloc[place[twice]].to_numpy()).any(axis=1).sum()
        )
        place = np.where(is_new, found, place)
    if num_ambiguous:
        raise SettingsError(
            f"data.patients_file: {num_ambiguous} of its names match several files of the source, in different "
            "folders. Write the full path in the source."
        )
    if num_contradictory:
        raise SettingsError(
            f"data.patients_file: for {num_contradictory} files it has two rows that differ, one with more of the path "
            "than the other. Keep one row for each file."
        )
    return table.rows.reindex(place).set_axis(source_names.index)


def match_rows(table: PatientTable, source_names: pd.Series) -> pd.DataFrame:
    """Find the table's row of each file; see `find_rows`.

    Returns:
        As `find_rows`, with empty texts for files without a row.

    Raises:
        SettingsError: As `find_rows`, or no row matches any file.
    """
    matched = find_rows(table, source_names)
    is_found = matched[SOURCE_NAME].notna()
    if not is_found.any():
        raise explain_no_match(table)
    num_unmatched = len(table.rows) - matched[SOURCE_NAME].nunique()
    if num_unmatched:
        logger.warning("%d of %d rows of the table of patients match no usable file", num_unmatched, len(table.rows))
    if not is_found.all():
        logger.warning("The table of patients has no row for %d of %d files", (~is_found).sum(), len(is_found))
    return matched.fillna("")


def explain_no_match(table: PatientTable) -> SettingsError:
    """Return the error for a table that contains no file of the source."""
    return SettingsError(
        f"data.patients_file: none of its {len(table.rows)} names is a file of the source. Write source_name as the "
        "path in the source, or as the last parts of it, such as normal/image1.png."
    )


def find_in_names(source_names: pd.Series, pattern: str, class_names: ClassNames | None = None) -> pd.Series:
    """Extract patient ids from paths.

    Args:
        source_names: Path of each image in the source.
        pattern: Regular expression; its group `patient`, or else its first group, is the id. It is searched in the
            path below the class folder and in the whole path; the one with more matches is used.
        class_names: Identifies the class folder.

    Returns:
        The ids; empty for paths that do not match.

    Raises:
        SettingsError: The pattern has no group, or is found in no name.
    """
    expression = re.compile(pattern)
    column = expression.groupindex.get("patient", 1) - 1
    known = class_names or ClassNames()
    below = source_names.map(lambda name: _cut_class_folder(name, known))
    places = [names.astype("str").str.extract(expression).iloc[:, column].fillna("") for names in (below, source_names)]
    ids = max(places, key=lambda ids: (ids != "").sum()).astype("str")
    num_found = int((ids != "").sum())
    if num_found and num_found < len(ids):
        logger.warning("data.patient_pattern matches %d of %d file names", num_found, len(ids))
    if not num_found:
        raise SettingsError(
            f"data.patient_pattern: it matches none of the {len(ids)} file names and paths of the source. "
            "Test it with one of them, and put the part of the patient in parentheses."
        )
    return ids


def _cut_class_folder(source_name: str, class_names: ClassNames) -> str:
    """Return the path below the first class folder; the whole path if there is none."""
    parts = source_name.split("/")
    for at, part in enumerate(parts[:-1]):
        if class_names.find_label(part):
            return "/".join(parts[at + 1 :])
    return source_name
