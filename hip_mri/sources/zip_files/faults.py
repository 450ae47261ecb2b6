"""Faults for which a zip file is rejected, reported for all of its entries at once."""

from collections import defaultdict
from typing import Final

from hip_mri.errors import ArchiveError, LimitError, list_offenders

_MEANINGS: Final = {
    "nul_in_name": "names with a NUL",
    "name_not_utf8": "names that are said to be UTF-8 and are not",
    "unsafe_path": "paths that are absolute, hold a drive, or climb with dots",
    "too_deep": "paths of more than 16 parts",
    "too_many_folders": "more folders than entries are allowed",
    "special_file": "links, pipes or devices",
    "folder_with_content": "folders that hold bytes of their own",
    "duplicate": "names that occur twice",
    "same_name_elsewhere": "names that differ only in case, in how accents are written or in dots at the end",
    "file_and_folder": "files that share their name with a folder",
    "encrypted": "encrypted entries",
    "unsupported_version": "entries that need a later version of the zip format, or that change another file",
    "wrong_size": "entries whose size is not the declared one",
    "too_tight": "entries that unpack to more than --limits.max-compression-ratio times their size",
    "too_loose": "entries that take far more room packed than unpacked, as no program packs them",
    "headers_differ": "entries that differ between the directory and their local header",
    "overlapping": "entries that share bytes with another",
    "gap": "bytes of no entry before the entry, as in a zip file behind or inside another file",
    "broken_record": "damaged records in the directory",
}

_METHODS: Final = {
    1: "Shrink",
    6: "Implode",
    9: "Deflate64, as Windows Explorer packs large files",
    12: "bzip2",
    14: "LZMA",
    93: "Zstandard",
    95: "XZ",
    96: "JPEG",
    97: "WavPack",
    98: "PPMd",
}
"""Source: PKWARE, APPNOTE.TXT 6.3.10, 4.4.5."""

_METHOD: Final = "method "
"""Begins the codes of entries that are packed by a method which is not read."""

_TIGHT: Final = "too_tight"

_ADVICE: Final = {
    "encrypted": "Unpack with the password, then give the folder.",
    _TIGHT: "Pack the folders again, or allow more with --limits.max-compression-ratio.",
}
_METHOD_ADVICE: Final = (
    "Unpack it and give the folder, or pack the folders again with the method Deflate (7-Zip: 'Compression method: "
    "Deflate'; or `zip -r`)."
)
_ADVICE_ELSE: Final = "Pack the folders again, with plain names and without these entries."


_AES: Final = 99
"""Method of WinZip's encrypted entries."""


def name_method_fault(method: int) -> str:
    """Code of the fault of an entry that is packed by a method which is not read."""
    return "encrypted" if method == _AES else f"{_METHOD}{method}"


def _describe_fault(fault: str) -> str:
    if not fault.startswith(_METHOD):
        return _MEANINGS[fault]
    number = int(fault.removeprefix(_METHOD))
    name = _METHODS.get(number, "")
    return f"entries packed by another method than Deflate: method {number}{f' ({name})' if name else ''}"


def _advise(fault: str) -> str:
    return _METHOD_ADVICE if fault.startswith(_METHOD) else _ADVICE.get(fault, _ADVICE_ELSE)


class ZipFaults:
    """Collects faults by their code and the position of the entry.

    Names are left out of the messages: they can identify patients, and messages reach logs.

    Args:
        name: Name for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, fault: str | None, position: int) -> None:
        """Add a fault of the entry at a position, counted from 1; `None` is ignored."""
        if fault is not None:
            self._found[fault].append(str(position))

    def refuse(self) -> None:
        """Raise `ArchiveError` if there is any fault, or `LimitError` where a setting would allow them all."""
        if not self._found:
            return
        found = [
            f"{_describe_fault(fault)} (entry {list_offenders(entries)})" for fault, entries in self._found.items()
        ]
        advice = dict.fromkeys(map(_advise, self._found))
        kind = LimitError if self._found.keys() == {_TIGHT} else ArchiveError
        raise kind(
            f"source: {self._name} is refused. It has {'; '.join(found)}. Entries are counted in the order in which "
            f"`zipinfo -1` lists them. {' '.join(advice)}"
        )
