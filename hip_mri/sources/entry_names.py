"""Decodes, checks, compares and displays the names of the entries of a source.

Names never become paths: images are stored under the SHA-256 of their pixels. Names are checked nevertheless, because
programs differ in how they resolve a name such as `normal/../osseous_lesion/x.png`, and the class is part of it.
"""

import re
import unicodedata
import zlib
from typing import Final

MAX_LEVELS: Final = 16
"""Parts of a path, the file's own name included."""

TOP_FOLDER: Final = "./"
"""Name of the entry for the top folder of an archive, which some programs write."""

MAX_NAME_BYTES: Final = 255
"""Maximum length of a part of a path, in bytes of UTF-8: the limit of common file systems."""

_MAX_SHOWN: Final = 60
"""Characters of a folder's name that a message shows."""

_PLAIN: Final = re.compile(r"(?:\w[\w +,=@()-]{0,99}/){0,9}\w[\w +,=@().-]{0,99}/?", re.ASCII)
"""Plain names skip the detailed checks; nearly all names are plain."""

_DRIVE: Final = re.compile(r"[A-Za-z]:")
_ONLY_DOTS: Final = re.compile(r"[. ]*")
"""A part that means the same or the parent folder, also in programs that drop trailing spaces and dots."""

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that move the cursor, color the terminal or change the direction of text."""

_TRAILING: Final = ". "
"""Characters that Windows drops at the end of a part."""

_MAX_MARKS: Final = 30
"""Maximum number of accents on one letter; no language uses more.

Source: Unicode Standard Annex 15, Stream-Safe Text Format.
"""

_JAPANESE_RUN: Final = re.compile("[\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uff66-\uff9f]{2,}")
_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f]+")


def decode_name(raw: bytes, *, is_utf8: bool) -> str:
    """Decode a name of a zip file.

    Without the flag for UTF-8 the format specifies cp437, but programs use the encoding of their system. UTF-8 and
    Shift-JIS are recognized, everything else is decoded as cp437, which accepts any byte. A wrong guess changes only
    the spelling of a name.

    Args:
        raw: The bytes of the name.
        is_utf8: Whether the flag for UTF-8 is set.

    Raises:
        UnicodeDecodeError: The flag is set, and the bytes are not UTF-8.
    """
    if is_utf8 or raw.isascii():
        return raw.decode()
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return _decode_shift_jis(raw) or raw.decode("cp437")


def _decode_shift_jis(raw: bytes) -> str:
    """Decode a name whose characters outside ASCII are runs of two or more Japanese letters; otherwise empty.

    A single letter is not enough: the bytes of `Köln` in cp437 are valid Shift-JIS with one Japanese letter.
    """
    try:
        name = raw.decode("cp932")
    except UnicodeDecodeError:
        return ""
    return name if all(_JAPANESE_RUN.fullmatch(run) for run in _BEYOND_ASCII.findall(name)) else ""


def read_unicode_path(raw: bytes, field: bytes) -> str | None:
    """Read the extra field 0x7075 of Info-ZIP, which contains the name in UTF-8.

    Args:
        raw: The bytes of the name of the entry. The field contains their CRC-32, unless it is out of date.
        field: Its content: version 1, CRC-32, name in UTF-8.

    Returns:
        The name, or `None` if the field is missing or out of date.

    Raises:
        UnicodeDecodeError: The name is not UTF-8.
    """
    is_valid = len(field) > 5 and field[0] == 1 and int.from_bytes(field[1:5], "little") == zlib.crc32(raw)
    return field[5:].decode() if is_valid else None


def normalize_path(name: str) -> str:
    """Replace backslashes, which some programs on Windows write, and remove a leading `./`, which bsdtar writes.

    Unsafe paths stay unsafe; see `find_path_fault`. The folder `./`, the top of the archive, is not changed.
    """
    if "\\" not in name and not name.startswith("./"):
        return name
    name = name.replace("\\", "/")
    return name if name == TOP_FOLDER else name.removeprefix(TOP_FOLDER)


def find_path_fault(name: str) -> str | None:
    """Return the fault of a path that makes an archive untrustworthy.

    Args:
        name: Path inside an archive; one of a folder ends in a slash.

    Returns:
        `nul_in_name`, `unsafe_path` or `too_deep`; `None` for a valid path.
    """
    if name == TOP_FOLDER or _PLAIN.fullmatch(name):
        return None
    if "\0" in name:
        return "nul_in_name"
    parts = name.removesuffix("/").split("/")
    if "\\" in name or _DRIVE.match(name) or any(_ONLY_DOTS.fullmatch(part) for part in parts):
        return "unsafe_path"
    return "too_deep" if len(parts) > MAX_LEVELS else None


def find_name_fault(name: str) -> str | None:
    """Return the reason code for which a file with such a name is quarantined, or `None`."""
    if _PLAIN.fullmatch(name):
        return None
    if _CONTROL.search(name):
        return "control_characters_in_name"
    longest = max(len(part.encode("utf-8", "surrogateescape")) for part in name.split("/"))
    return "name_too_long" if longest > MAX_NAME_BYTES else None


def fold_name(name: str) -> str:
    """Return a form that is equal for names that some system does not distinguish.

    Case, composition of accents, and dots and spaces at the end of a part make no difference.
    """
    folded = name.lower() if name.isascii() else compose_accents(compose_accents(name).casefold())
    if "." not in folded and " " not in folded:
        return folded
    return "/".join(part.rstrip(_TRAILING) for part in folded.split("/"))


def compose_accents(text: str) -> str:
    """Return the composed form (NFC) of a text, in which each letter has one encoding.

    A text with more than 30 accents on a letter is returned unchanged: Python sorts them in time that grows with the
    square of their number, minutes for a name and days for a table.
    """
    return text if _has_many_accents(text) else unicodedata.normalize("NFC", text)


def _has_many_accents(text: str) -> bool:
    if text.isascii() or len(text) <= _MAX_MARKS:
        return False
    num_marks = 0
    for character in text:
        num_marks = num_marks + 1 if unicodedata.category(character).startswith("M") else 0
        if num_marks > _MAX_MARKS:
            return True
    return False


def escape_name(name: str) -> str:
    """Replace characters that cannot be stored or shown by escapes."""
    encodable = name.encode("utf-8", "backslashreplace").decode()
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), encodable)


def show_name(name: str) -> str:
    """Escape and shorten a name for a message."""
    shown = escape_name(name)
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."
