"""Parses CSV tables in any usual encoding and with any usual separator; empty columns and rows are dropped."""

import csv
import io
import re
from typing import Final

from hip_mri.errors import SettingsError, list_offenders
from hip_mri.images.file_kinds import LFS_ADVICE, is_lfs_pointer, is_web_page, is_zip
from hip_mri.sources.entry_names import compose_accents

_SEPARATORS: Final = ",;\t"
_SEPARATOR_LINE: Final = re.compile(r'"?sep=(.)"?\r?\n')
"""First line that declares the separator for Excel."""

_ADVICE: Final = "Save it as CSV (in Excel: 'CSV UTF-8') with a heading for each column."


def read_lines(content: bytes, name: str) -> list[list[str]]:
    """Read the fields of a CSV file.

    Separators are commas, semicolons and tabs; encodings UTF-8, UTF-16 and otherwise Windows-1252. Whitespace around
    fields is removed, accents are composed (NFC), and empty lines and columns are dropped.

    Args:
        content: The file.
        name: Name for messages.

    Returns:
        The lines, the heading first, each with as many fields as the heading.

    Raises:
        SettingsError: The file is no table, a column with values has no heading, or lines have more or fewer fields
            than the heading.
    """
    text = _decode(content, name)
    separator = None
    if match := _SEPARATOR_LINE.match(text):
        separator, text = match[1], text[match.end() :]
    heading = text.lstrip().partition("\n")[0]
    try:
        reader = csv.reader(
            io.StringIO(text, newline=""),
            delimiter=separator or max(_SEPARATORS, key=heading.count),
            strict=True,
        )
        lines = [[compose_accents(field.strip()) for field in line] for line in reader]
    except csv.Error as error:
        raise SettingsError(f"{name} is no valid CSV file ({error}). {_ADVICE}") from error
    return _drop_empty(lines, name)


def _decode(content: bytes, name: str) -> str:
    if is_lfs_pointer(content):
        raise SettingsError(f"{name} is a Git LFS pointer, not the table itself. {LFS_ADVICE}")
    if is_web_page(content):
        raise SettingsError(f"{name} is a web page, not a table. Download the table itself.")
    if is_zip(content):
        raise SettingsError(f"{name} is an Excel workbook or a zip file. {_ADVICE}")
    for encoding in _list_encodings(content):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text.removeprefix("\ufeff")
    raise SettingsError(f"{name} is no CSV file in UTF-8, UTF-16 or Windows-1252. {_ADVICE}")


def _list_encodings(content: bytes) -> tuple[str, ...]:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ("utf-16",)
    if content[:1] == b"\0":
        return ("utf-16-be",)
    return ("utf-16-le",) if content[1:2] == b"\0" else ("utf-8", "cp1252", "latin-1")


def _drop_empty(lines: list[list[str]], name: str) -> list[list[str]]:
    """Drop empty lines, empty fields after the last heading, and columns without heading and values."""
    numbered = [(number, line) for number, line in enumerate(lines, 1) if any(line)]
    if not numbered:
        return []
    headings = numbered[0][1]
    unnamed = [at for at, heading in enumerate(headings) if not heading]
    if filled := [str(at + 1) for at in unnamed if any(any(line[at : at + 1]) for _, line in numbered)]:
        raise SettingsError(
            f"{name} has values in column {list_offenders(filled)}, which has no heading. "
            "Add one, or remove the column."
        )
    width = _count_fields(headings)
    rows = [(number, line[: max(width, _count_fields(line))]) for number, line in numbered]
    uneven = [str(number) for number, row in rows if len(row) != width]
    if uneven:
        raise SettingsError(
            f"{name} has lines with more or fewer than {width} fields: {list_offenders(uneven)}. "
            "Write as many fields as the first line has."
        )
    named = [at for at, heading in enumerate(headings) if heading]
    return [[row[at] for at in named] for _, row in rows]


def _count_fields(line: list[str]) -> int:
    """Number of fields up to the last one that is not empty."""
    return max((at + 1 for at, field in enumerate(line) if field), default=0)
