"""What makes a zip file one that is refused, told for all of its entries at once."""

from collections import defaultdict
from typing import Final

from hip_mri.errors import ArchiveError, LimitError, list_offenders

_MEANINGS: Final = {
    "nul_in_name": "names with a NUL",
    "name_not_utf8": "names that are said to be UTF-8 and are not",
    "unsafe_path": "paths that are absolute, hold a backslash or a drive, or climb with dots",
    "too_deep": "paths of more than 16 parts",
    "too_many_folders": "more folders than entries are allowed",
    "special_file": "links, pipes or devices",
    "folder_with_content": "folders that hold bytes of their own",
    "duplicate": "names that occur twice",
    "same_name_elsewhere": "names that differ only in case, in how accents are written or in dots at the end",
    "file_and_folder": "files that share their name with a folder",
    "encrypted": "encrypted entries",
    "unsupported_compression": "entries packed in another way than deflate",
    "wrong_size": "entries whose size is not the one that is told",
    "too_tight": "entries that unpack to more than --limits.most-ratio times their size",
    "too_loose": "entries that take far more room packed than unpacked, as no program packs them",
    "headers_differ": "entries that tell one thing in the directory and another where they stand",
    "overlapping": "entries that share bytes with another",
    "gap": "bytes of no entry before the entry, as in a zip file behind or inside another file",
    "broken_record": "damaged records in the directory",
}

_TIGHT: Final = "too_tight"

_ADVICE: Final = {
    "encrypted": "Unpack with the password, then give the folder.",
    _TIGHT: "Pack the folders again, or allow more with --limits.most-ratio.",
}
_ADVICE_ELSE: Final = "Pack the folders again, with plain names and without these entries."


class ZipFaults:
    """Collects faults by their code and the position of the entry.

    Names are left out of the messages: they can identify patients, and messages reach logs.

    Args:
        name: What the user knows the zip file by.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, fault: str | None, position: int) -> None:
        """Note a fault of the entry at a position, counted from 1; `None` is none."""
        if fault is not None:
            self._found[fault].append(str(position))

    def refuse(self) -> None:
        """Raise `ArchiveError` if there is any fault, or `LimitError` where a setting would allow them all."""
        if not self._found:
            return
        told = [f"{_MEANINGS[fault]} (entry {list_offenders(entries)})" for fault, entries in self._found.items()]
        advice = dict.fromkeys(_ADVICE.get(fault, _ADVICE_ELSE) for fault in self._found)
        kind = LimitError if self._found.keys() == {_TIGHT} else ArchiveError
        raise kind(
            f"source: {self._name} is refused. It has {'; '.join(told)}. Entries are counted in the order in which "
            f"`zipinfo -1` lists them. {' '.join(advice)}"
        )
