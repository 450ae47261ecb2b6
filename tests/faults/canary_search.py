"""Searches everything that a run writes for given words, in any packing and encoding."""

import base64
import contextlib
import gzip
import io
import json
import re
import sqlite3
import unicodedata
import urllib.parse
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import pandas as pd
from PIL import Image

_DATA_ADDRESS = re.compile(rb"data:[a-z]+/[a-z+]+;base64,([A-Za-z0-9+/=]+)")

Place = tuple[str, bytes]
"""Where something stands, and what."""


def spell(word: str) -> set[bytes]:
    """Every way in which a word may be written."""
    spellings: set[bytes] = set()
    for text in {unicodedata.normalize(form, word) for form in ("NFC", "NFD")} | {word.lower(), word.upper()}:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "latin-1", "cp437", "shift_jis", "gb18030"):
            spellings.add(text.encode(encoding, "ignore"))
        spellings |= {
            json.dumps(text)[1:-1].encode(),
            urllib.parse.quote(text).encode(),
            repr(text.encode())[2:-1].encode(),
        }
        spellings |= {text.encode("unicode_escape"), text.encode("ascii", "xmlcharrefreplace")}
    spellings |= {_write_base64(word.encode(), offset) for offset in range(3)}
    spellings.add(word.encode().hex().encode())
    return {spelling for spelling in spellings if len(spelling) >= 6}


def _write_base64(content: bytes, offset: int) -> bytes:
    """What of the Base64 form is the same whatever stands before and behind."""
    text = base64.b64encode(bytes(offset) + content)
    return text[-(-offset * 8 // 6) : (offset + len(content)) * 8 // 6]


def find_words(words: Iterable[str], places: Iterable[Place]) -> list[str]:
    """Name each place where any of the words stands, with its surroundings."""
    expression = re.compile(b"|".join(map(re.escape, sorted({s for word in words for s in spell(word)}))))
    found = []
    for place, content in places:
        if match := expression.search(content):
            around = content[max(0, match.start() - 60) : match.end() + 60]
            found.append(f"{place}: {around!r}")
    return found


def list_files(folder: Path, leave_out: Iterable[Path] = ()) -> Iterator[Place]:
    """Every file below a folder, its path first, then its content, then what is packed in it."""
    for path in sorted(folder.rglob("*")):
        if path in leave_out:
            continue
        yield f"path of {path}", str(path.relative_to(folder)).encode("utf-8", "surrogateescape")
        if path.is_file():
            yield from unpack(str(path), path.read_bytes())


def unpack(place: str, content: bytes) -> Iterator[Place]:
    """A file, and everything in it that is written in another way."""
    yield place, content
    if content.startswith((b"PK\3\4", b"PK\5\6")):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.namelist():
                yield from unpack(f"{place}!{entry}", archive.read(entry))
    elif content.startswith(b"\x1f\x8b"):
        yield from unpack(f"{place}!gzip", gzip.decompress(content))
    elif content.startswith(b"PAR1"):
        table = pd.read_parquet(io.BytesIO(content))
        yield f"{place}!table", (table.to_csv() + str(table.attrs)).encode()
    elif content.startswith(b"\x89HDF"):
        yield from _list_attributes(place, content)
    elif content.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        # Pages of a database hold parts of pictures, whose bytes were looked at all the same.
        with contextlib.suppress(OSError), Image.open(io.BytesIO(content)) as image:
            image.load()
            yield f"{place}!metadata", repr((image.info, dict(image.getexif()))).encode()
    for number, embedded in enumerate(_DATA_ADDRESS.findall(content)):
        yield from unpack(f"{place}!embedded {number}", base64.b64decode(embedded[: len(embedded) // 4 * 4]))


def _list_attributes(place: str, content: bytes) -> Iterator[Place]:
    written: list[str] = []
    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(lambda name, item: written.append(f"{name} {dict(item.attrs)}"))
        written.append(str(dict(file.attrs)))
    yield f"{place}!attributes", "\n".join(written).encode()


def list_rows(database: Path) -> Iterator[tuple[str, str, bytes]]:
    """Every value of a SQLite database: table, column, content."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        connection.text_factory = bytes
        names = [row[0].decode() for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in names:
            rows = connection.execute(f'SELECT * FROM "{table}"')
            columns = [column[0] for column in rows.description]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    yield table, column, value if isinstance(value, bytes) else str(value).encode()
    connection.close()
