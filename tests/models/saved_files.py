"""Copies of saved networks with other members, for tests."""

import json
import zipfile
from pathlib import Path


def change(saved: Path, file: Path, compression: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    """A copy with some members replaced or added; `__` in a name stands for a dot."""
    with zipfile.ZipFile(saved) as original, zipfile.ZipFile(file, "w", compression) as changed:
        contents = {name: original.read(name) for name in original.namelist()}
        for name, content in (contents | {key.replace("__", "."): value for key, value in members.items()}).items():
            changed.writestr(name, content)
    return file


def change_description(saved: Path, file: Path, place: tuple[str | int, ...], value: object) -> Path:
    """A copy with another value at one place of its description."""
    with zipfile.ZipFile(saved) as archive:
        description = json.loads(archive.read("config.json"))
    inner = description
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return change(saved, file, config__json=json.dumps(description).encode())
