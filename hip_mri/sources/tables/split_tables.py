"""Reads the split that the publisher of a collection gives: for each split a table of file names and labels."""

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from hip_mri.errors import SettingsError, SplitError, list_offenders
from hip_mri.sources.class_names import ClassNames
from hip_mri.sources.entry_names import compose_accents
from hip_mri.sources.split_folders import choose_open_split
from hip_mri.sources.tables.text import read_lines

logger = logging.getLogger(__name__)

COLUMNS: Final = ("filename", "label")
"""Required columns, as in the tables of RadImageNet."""


@dataclass(frozen=True)
class SplitTables:
    """The tables of a publisher's split.

    Attributes:
        rows: Columns filename (in lower case, with forward slashes), label, split and line (its place, such as
            `test line 3`); each file once.
        hashes: SHA-256 of the table of each split.
    """

    rows: pd.DataFrame
    hashes: Mapping[str, str]


def read_split_tables(files: Mapping[str, Path]) -> SplitTables:
    """Read the tables of a publisher's split.

    Args:
        files: CSV file with the columns `COLUMNS` of each split; see `hip_mri.sources.tables.text`.

    Raises:
        SettingsError: A table cannot be read, is empty, lacks a column or a name, or a file is in two splits or has two
            labels. Messages name lines and no files.
    """
    contents = {split: _read(file, f"data.{split}_file") for split, file in files.items()}
    rows = pd.concat([_parse(content, split) for split, content in contents.items()], ignore_index=True)
    rows = rows.drop_duplicates(["filename", "label", "split"], ignore_index=True)
    for column, what in (("split", "several splits"), ("label", "several labels")):
        is_repeated = rows.groupby("filename")[column].transform("nunique") > 1
        if is_repeated.any():
            raise SettingsError(
                f"data.test_file: {rows.loc[is_repeated, 'filename'].nunique()} files have {what}, in "
                f"{list_offenders(list(rows.loc[is_repeated, 'line']))} of the tables. Keep one line for each file."
            )
    return SplitTables(rows, {split: hashlib.sha256(content).hexdigest() for split, content in contents.items()})


def _read(file: Path, setting: str) -> bytes:
    try:
        return file.expanduser().read_bytes()
    except (OSError, RuntimeError) as error:  # the latter if the home folder does not exist
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(
            f"{setting}: the file cannot be read ({reason}). Give the path of a CSV file with the columns "
            f"{' and '.join(COLUMNS)}."
        ) from None  # its cause contains the path, which should not reach logs


def _parse(content: bytes, split: str) -> pd.DataFrame:
    setting = f"data.{split}_file"
    headings, *lines = read_lines(content, setting) or [[]]
    columns = [re.sub(r"[\s_-]", "", heading.casefold()) for heading in headings]
    if missing := [column for column in COLUMNS if columns.count(column) != 1]:
        raise SettingsError(
            f"{setting}: its first line needs one column {' and one column '.join(missing)}, it has {len(columns)} "
            "columns. Add it, or give the table that the publisher hands out."
        )
    if not lines:
        raise SettingsError(f"{setting}: the table has no line with a file. Give the table of the split {split}.")
    rows = pd.DataFrame(lines, columns=columns, dtype="str").loc[:, list(COLUMNS)]
    rows = rows.assign(split=split, line=[f"{split} line {number}" for number in range(2, len(rows) + 2)])
    if (is_nameless := rows["filename"] == "").any():
        raise SettingsError(
            f"{setting}: no filename in {list_offenders(list(rows.loc[is_nameless, 'line']))}. Add the names, or "
            "remove the lines."
        )
    return rows.assign(filename=_normalize(rows["filename"]))


def _normalize(names: pd.Series) -> pd.Series:
    """Normalize paths so that they compare equal on all systems: slashes, case and accents."""
    return names.map(lambda name: re.sub(r"^(\./|/)+", "", compose_accents(name).replace("\\", "/").casefold()))


def match_split_tables(
    tables: SplitTables, source_names: pd.Series, labels: pd.Series, class_names: ClassNames
) -> pd.Series:
    """Find the split of each file of a source, by as many of the last parts of its path as possible.

    A table may list more than the source, such as a whole collection. If the split has no table for training, or none
    of the files of the source is in a table, the files that no table names are divided between training and
    validation, and never tested.

    Args:
        tables: The publisher's split.
        source_names: Path of each file in the source.
        labels: Label of each file, with the same index.
        class_names: Maps values of the column label to labels.

    Returns:
        `train`, `val`, `test` or one of `split_folders.UNDECIDED`, with the index of `source_names`.

    Raises:
        SplitError: A name matches several files, a file several names, a file has another label in the table, or the
            tables name some of the files only. All are counted in one message.
    """
    names = _normalize(source_names)
    ends = tables.rows["filename"].str.rpartition("/")[2]
    rows = tables.rows[ends.isin(set(names.str.rpartition("/")[2]))].reset_index(drop=True)
    place, is_ambiguous = _match(names, rows["filename"])
    is_found = place >= 0
    found = rows.iloc[place[is_found]].set_axis(source_names.index[is_found])
    by_table = found["label"].map({value: class_names.find_label(value) for value in found["label"].unique()})
    is_wrong = by_table != labels[is_found]
    is_complete = "train" in tables.hashes and is_found.any()
    is_unnamed = ~is_found & ~is_ambiguous
    problems = {
        f"{is_ambiguous.sum()} files of the source match several names, or share one": is_ambiguous.any(),
        f"{is_wrong.sum()} files have another label than their class, or one that is no class, in "
        f"{list_offenders(list(found.loc[is_wrong, 'line']))}": is_wrong.any(),
        f"{is_unnamed.sum()} of {len(names)} files are in no table": is_complete and is_unnamed.any(),
    }
    if given := [text for text, is_given in problems.items() if is_given]:
        raise SplitError(
            f"data.test_file: the tables of the split do not fit the source: {'; '.join(given)}. Name the folders of "
            "the source as in the tables, map labels with --data.class-names, and remove files that the publisher "
            "does not list."
        )
    logger.info("The tables of the split name %d of %d files of the source", is_found.sum(), len(names))
    _warn_of_other_folders(names[is_found], found["filename"])
    _warn_of_missing(tables, found)
    return _complete(found["split"].reindex(source_names.index), set(tables.hashes)).astype("str")


def _complete(splits: pd.Series, given: set[str]) -> pd.Series:
    """Divide files without a table between training and the missing part, and draw a missing part from training."""
    others = "train" if given == {"val", "test"} else choose_open_split(given)
    if given == {"train", "test"}:
        splits = splits.replace("train", others)
    return splits.fillna(others)


def _match(names: pd.Series, rows: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Find the row of each name by their longest common end.

    Returns:
        Position of the row, or -1; and whether the longest common end fits several rows or names.
    """
    place, is_ambiguous = np.full(len(names), -1), np.zeros(len(names), bool)
    if rows.empty:
        return place, is_ambiguous
    max_parts = int(max(names.str.count("/").max(), rows.str.count("/").max())) + 1
    for count in range(max_parts, 0, -1):
        free = np.setdiff1d(np.arange(len(rows)), place)  # a row with a longer match fits no other file
        ends = pd.Series(free, index=_take_end(rows.iloc[free], count).to_numpy())
        first = ends[ends.index != ""].groupby(level=0).agg(["min", "size"])
        is_open = (place < 0) & ~is_ambiguous
        keys = _take_end(names, count).where(is_open, "")
        at = first.index.get_indexer(pd.Index(keys))
        hits = np.flatnonzero(at >= 0)
        is_single = ~keys.iloc[hits].duplicated(keep=False).to_numpy() & (first["size"].to_numpy()[at[hits]] == 1)
        place[hits[is_single]] = first["min"].to_numpy()[at[hits[is_single]]]
        is_ambiguous[hits[~is_single]] = True
    return place, is_ambiguous


def _take_end(paths: pd.Series, count: int) -> pd.Series:
    """Return the last `count` parts of each path; empty if it has fewer."""
    return paths.map(lambda path: "/".join(path.rsplit("/", count)[-count:]) if path.count("/") >= count - 1 else "")


def _warn_of_other_folders(names: pd.Series, rows: pd.Series) -> None:
    """Warn of files that match by their name alone, although they are in different folders."""
    folders = [paths.str.rsplit("/", n=2).str[-2].where(paths.str.contains("/")) for paths in (names, rows)]
    is_other = (folders[0] != folders[1]) & folders[0].notna() & folders[1].notna()
    if is_other.any():
        logger.warning(
            "%d of the files match a row of the tables by their file name alone; their folders differ. Check that they "
            "are the same images",
            is_other.sum(),
        )


def _warn_of_missing(tables: SplitTables, found: pd.DataFrame) -> None:
    """Warn of files that the tables list in the folders of matched files, and that the source does not hold."""
    rows = tables.rows
    folders = rows["filename"].str.rpartition("/")[0]
    is_matched = rows["line"].isin(found["line"])
    is_missing = folders.isin(set(folders[is_matched])) & ~is_matched
    for split, count in rows.loc[is_missing, "split"].value_counts().items():
        logger.warning("%d files that the table of %s lists are not in the source, or cannot be used", count, split)
