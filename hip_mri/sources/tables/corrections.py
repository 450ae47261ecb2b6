"""Reads a table of label corrections and finds the images that its lines mean."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import pandas as pd

from hip_mri.config import LABELS
from hip_mri.errors import SettingsError, list_offenders
from hip_mri.sources.class_names import ClassNames
from hip_mri.sources.entry_names import compose_accents
from hip_mri.sources.tables.text import read_lines

EXCLUDE: Final = "exclude"
"""Decision: the image is not used."""

UNSURE: Final = "unsure"
"""Decision: nothing is changed."""

ID_LENGTH: Final = 16
"""Digits of an image id that tell the pixels; copies have a number behind them."""

_HEADINGS: Final = {"imageid": "image_id", "sourcename": "source_name", "name": "source_name", "label": "label"}
"""Columns by their headings without whitespace, dashes and underscores, in lower case; others are ignored."""

_SETTING: Final = "data.corrections_file"
_NEEDED: Final = f"the column label ({', '.join(LABELS)}, {EXCLUDE} or {UNSURE}) and the column image_id or source_name"


@dataclass(frozen=True)
class Corrections:
    """Label corrections.

    Attributes:
        rows: Columns image_id, source_name (one of both can be empty) and label (of `LABELS`, `EXCLUDE` or `UNSURE`);
            the index is the number of the line.
        sha256: Of the file.
    """

    rows: pd.DataFrame
    sha256: str


def read_corrections(file: Path, class_names: Mapping[str, str] | None = None) -> Corrections:
    """Read a table of label corrections; see `parse_corrections`."""
    try:
        content = file.expanduser().read_bytes()
    except (OSError, RuntimeError) as error:  # the latter if the home folder does not exist
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(
            f"{_SETTING}: the file cannot be read ({reason}). Give the path of a CSV file with {_NEEDED}."
        ) from None  # its cause contains the path, which should not reach logs
    return parse_corrections(content, ClassNames(class_names))


def parse_corrections(content: bytes, class_names: ClassNames) -> Corrections:
    """Read a table of label corrections.

    Args:
        content: A CSV file (see `hip_mri.sources.tables.text`) with the columns image_id or source_name, and label.
        class_names: Maps values of the column label to labels.

    Raises:
        SettingsError: A column is missing, there is no line, or lines cannot be used. Messages name lines, since
            names of files can identify patients.
    """
    lines = read_lines(content, _SETTING)
    columns = [_HEADINGS.get(re.sub(r"[\s_-]", "", heading.casefold()), "") for heading in (lines[0] if lines else [])]
    used = [column for column in columns if column]
    if "label" not in used or len(used) < 2 or len(set(used)) < len(used):
        raise SettingsError(
            f"{_SETTING} has the columns {', '.join(used) or 'of another table'}. Its first line must have {_NEEDED}, "
            "each once."
        )
    rows = pd.DataFrame(lines[1:], columns=range(len(columns)), dtype="str").set_axis(columns, axis="columns")
    rows = rows[used].reindex(columns=["image_id", "source_name", "label"], fill_value="").astype("str")
    if rows.empty:
        raise SettingsError(f"{_SETTING} has no line with a correction. Add one, or leave the setting out.")
    rows.index += 2
    known = {value: _find_decision(value, class_names) for value in rows["label"].unique()}
    rows = rows.assign(
        image_id=rows["image_id"].str.casefold(),
        source_name=rows["source_name"].map(_normalize_path),
        label=rows["label"].map(known),
    )
    _report(
        {
            f"the label is not {', '.join(LABELS)}, {EXCLUDE} or {UNSURE}": rows.index[rows["label"].isna()],
            "there is neither an image id nor a name": rows.index[
                (rows[["image_id", "source_name"]] == "").all(axis=1)
            ],
            "an image has two labels": _list_contradictory(rows.dropna()),
        }
    )
    return Corrections(rows.astype("str"), sha256(content).hexdigest())


def find_corrected(images: pd.DataFrame, corrections: Corrections, earlier: Collection[str]) -> pd.Series:
    """Find which images a table of corrections means.

    Args:
        images: Columns content (hash of the pixels, whose first digits are the image id), delivery and source_name.
        corrections: The table. A name is a path in the source or the last parts of it, and means all slices of the
            file; beside an image id it is only checked.
        earlier: Hashes of images of earlier runs, which the source need not hold any more.

    Returns:
        Decision by content: one for all copies of an image.

    Raises:
        SettingsError: An image id or name is not known, a name matches several files, or an image has two labels.
    """
    rows = corrections.rows
    has_id, has_name = rows["image_id"] != "", rows["source_name"] != ""
    keys = rows["image_id"].str.extract(rf"^([0-9a-f]{{{ID_LENGTH}}})(?:-[0-9]+)?$")[0]
    by_id = _match(keys.dropna(), images["content"].str[:ID_LENGTH], images)
    by_name = _match_names(rows.loc[has_name, "source_name"], images)
    num_files = by_name.groupby("line")["file"].nunique().reindex(rows.index, fill_value=0)
    is_earlier = keys.isin({content[:ID_LENGTH] for content in earlier})
    agreed = by_id.merge(by_name, on=["line", "content"])["line"]
    is_matched = rows.index.isin(by_id["line"])
    meant = pd.concat([by_id, by_name[~by_name["line"].isin(rows.index[has_id])]])
    meant = meant.assign(label=rows["label"].loc[meant["line"]].to_numpy())
    has_two = meant.groupby("content")["label"].transform("nunique") > 1
    _report(
        {
            "the image id is not known": rows.index[has_id & ~is_matched & ~is_earlier],
            "no file has the name": rows.index[has_name & (num_files == 0) & ~is_earlier],
            "several files have the name": rows.index[num_files > 1],
            "image id and name are of different images": rows.index[
                is_matched & (num_files == 1) & ~rows.index.isin(agreed)
            ],
            "an image has two labels": meant.loc[has_two, "line"],
        }
    )
    return meant.drop_duplicates("content").set_index("content")["label"].sort_index()


def _match_names(names: pd.Series, images: pd.DataFrame) -> pd.DataFrame:
    """Find the files of names, which are paths or the last parts of them; see `_match`."""
    paths = images["source_name"].map(_normalize_path)
    num_parts = names.str.count("/") + 1
    found = [_match(names.iloc[:0], paths, images)]
    for count in num_parts.unique():
        ends = paths.map(lambda path, count=count: "/".join(path.rsplit("/", count)[-count:]))
        found.append(_match(names[num_parts == count], ends, images))
    matches = pd.concat(found, ignore_index=True)
    is_whole = matches["file"].str[1].map(_normalize_path).eq(matches["key"])
    return matches[is_whole | ~is_whole.groupby(matches["line"]).transform("any")]


def _match(wanted: pd.Series, keys: pd.Series, images: pd.DataFrame) -> pd.DataFrame:
    """Find the images with a key; columns line, key, content, and file: delivery and name."""
    lines = pd.DataFrame({"line": wanted.index, "key": wanted.to_numpy()})
    files = pd.Series(list(zip(images["delivery"], images["source_name"], strict=True)), index=images.index)
    known = pd.DataFrame({"key": keys, "content": images["content"], "file": files}).drop_duplicates()
    return lines.merge(known, on="key")


def _find_decision(value: str, class_names: ClassNames) -> str | None:
    return value.casefold() if value.casefold() in (EXCLUDE, UNSURE) else class_names.find_label(value)


def _normalize_path(name: str) -> str:
    """Compose accents, replace backslashes in a path, and remove a leading `./`."""
    return re.sub(r"^(\./)+", "", compose_accents(name).replace("\\", "/"))


def _list_contradictory(rows: pd.DataFrame) -> list[int]:
    """List the lines with another label than a line with the same image id or name."""
    lines: set[int] = set()
    for column in ("image_id", "source_name"):
        named = rows[rows[column] != ""]
        has_two = named.groupby(column)["label"].transform("nunique") > 1
        lines |= set(named.index[has_two])
    return sorted(lines)


def _report(faults: Mapping[str, Iterable[int]]) -> None:
    """Raise an error that lists the lines of each fault, if there is any."""
    listed = {fault: sorted(set(lines)) for fault, lines in faults.items()}
    found = [
        f"{fault} ({'lines' if len(lines) > 1 else 'line'} {list_offenders([str(line) for line in lines])})"
        for fault, lines in listed.items()
        if lines
    ]
    if found:
        raise SettingsError(
            f"{_SETTING}: {'; '.join(found)}. Correct these lines. Image ids are those of manifest.csv or "
            "label_review.csv; Excel changes some of them unless the column is imported as text."
        )
