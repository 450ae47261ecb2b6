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
"""First line by which Excel is told the separator."""

_ADVICE: Final = "Save it as CSV (in Excel: 'CSV UTF-8') with a heading for each column."


def read_lines(content: bytes, name: str) -> list[list[str]]:
    """Read the fields of a CSV file.

    Commas, semicolons and tabs separate them; UTF-8, UTF-16 and, where the bytes are neither, Windows-1252 are read.
    Blanks around fields are removed, accents composed (NFC), and lines and columns that hold nothing dropped.

    Args:
        content: The file.
        name: What an error calls it.

    Returns:
        The lines, the heading first, each with as many fields as the heading.

    Raises:
        SettingsError: It is no table, a column with values has no heading, or lines have more or fewer fields than the
            heading.
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
        raise SettingsError(f"{name} is no CSV file ({error}). {_ADVICE}") from error
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
    """Leave out empty lines, empty fields behind the last heading, and columns without heading and values."""
    numbered = [(number, line) for number, line in enumerate(lines, 1) if any(line)]
    if not numbered:
        return []
    columns = numbered[0][1]
    width = len(columns) - next((at for at, column in enumerate(reversed(columns)) if column), 0)
    rows = [
        (number, line if len(line) <= width else line[: max(width, len(line) - _count_empty_end(line))])
        for number, line in numbered
    ]
    named = max(len(line) for _, line in rows)
    if width < named <= len(columns):
        raise SettingsError(f"{name} has values in column {named}, which has no heading. Give it one, or remove it.")
    uneven = [str(number) for number, line in rows if len(line) != width]
    if uneven:
        raise SettingsError(
            f"{name} has lines with more or fewer than {width} fields: {list_offenders(uneven)}. "
            "Write as many fields as the first line has."
        )
    unnamed = [at for at, column in enumerate(columns[:width]) if not column]
    empty = {at for at in unnamed if not any(line[at] for _, line in rows)}
    if filled := [str(at + 1) for at in unnamed if at not in empty]:
        raise SettingsError(
            f"{name} has values in column {list_offenders(filled)}, which has no heading. Give it one, or remove it."
        )
    if not empty:
        return [line for _, line in rows]
    return [[field for at, field in enumerate(line) if at not in empty] for _, line in rows]


def _count_empty_end(line: list[str]) -> int:
    return next((at for at, field in enumerate(reversed(line)) if field), len(line))
