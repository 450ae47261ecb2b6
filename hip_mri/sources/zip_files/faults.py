"""Faults for which a zip file is rejected, reported for all of its entries at once."""

from collections import defaultdict
from typing import Final

from hip_mri.errors import ArchiveError, LimitError, list_offenders

_DESCRIPTIONS: Final = {
    "nul_in_name": "names with a NUL",
    "name_not_utf8": "names that are marked as UTF-8 and are not",
    "unsafe_path": "paths that are absolute, contain a drive or contain '.' or '..'",
    "too_deep": "paths of more than 16 parts",
    "too_many_folders": "more folders than entries are allowed",
    "special_file": "links, pipes or devices",
    "folder_with_content": "folders with content",
    "duplicate": "duplicate names",
    "same_name_elsewhere": "names that differ only in case, in the encoding of accents or in trailing dots",
    "file_and_folder": "files with the name of a folder",
    "encrypted": "encrypted entries",
    "unsupported_version": "entries that need a later version of the zip format, or with patch data",
    "wrong_size": "uncompressed entries with two different sizes",
    "too_tight": "entries that decompress to more than --limits.max-compression-ratio times their size",
    "too_loose": "entries that are much larger compressed than uncompressed",
    "headers_differ": "entries that differ between the directory and their local header",
    "overlapping": "overlapping entries",
    "gap": "bytes of no entry before the entry, as in a zip file after or inside another file",
    "broken_record": "damaged records in the directory",
}

_METHODS: Final = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ"}
"""Source: PKWARE, APPNOTE.TXT 6.3.10, 4.4.5."""

METHOD: Final = "method "
"""Prefix of the code for an unsupported compression method; its number follows."""

_ADVICE: Final = {
    "encrypted": "Unpack it with the password, and give the folder.",
    "too_tight": "Pack the folders again, or allow more with --limits.max-compression-ratio.",
    METHOD: "Unpack it and give the folder, or pack the folders again with the method Deflate, such as by `zip -r`.",
}
_DEFAULT_ADVICE: Final = "Pack the folders again, with plain names and without these entries."


class ZipFaults:
    """Collects faults by code and position of the entry. Messages omit names, which can identify patients.

    Args:
        name: Name of the zip file for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._positions: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, fault: str | None, position: int) -> None:
        """Add a fault of the entry at a position, counted from 1; `None` is ignored."""
        if fault is not None:
            self._positions[fault].append(str(position))

    def raise_error(self) -> None:
        """Raise `ArchiveError` if there is any fault; `LimitError` if a setting would allow them all."""
        if not self._positions:
            return
        found = [f"{_describe_fault(fault)} (entry {list_offenders(at)})" for fault, at in self._positions.items()]
        keys = [METHOD if fault.startswith(METHOD) else fault for fault in self._positions]
        advice = dict.fromkeys(_ADVICE.get(key, _DEFAULT_ADVICE) for key in keys)
        error = LimitError if self._positions.keys() == {"too_tight"} else ArchiveError
        raise error(
            f"source: {self._name} is rejected. It has {'; '.join(found)}. Entries are counted in the order in which "
            f"`zipinfo -1` lists them. {' '.join(advice)}"
        )


def _describe_fault(fault: str) -> str:
    if not fault.startswith(METHOD):
        return _DESCRIPTIONS[fault]
    name = _METHODS.get(int(fault.removeprefix(METHOD)))
    return f"entries packed by another method than Deflate: {fault}{f' ({name})' if name else ''}"
