"""Finds names of an archive that are equal on some system, and files that are also folders."""

from collections.abc import Sequence

from hip_mri.sources.entry_names import fold_name
from hip_mri.sources.zip_files.faults import ZipFaults


def find_clashes(names: Sequence[str], max_folders: int, faults: ZipFaults) -> None:
    """Find names that occur twice, on some system at least, and files that are folders as well.

    Args:
        names: Paths; those of folders end in a slash.
        max_folders: Maximum number of different folders, those above them included.
        faults: Receives what is found.
    """
    first_of: dict[str, int] = {}
    for at, name in enumerate(names):
        first = first_of.setdefault(fold_name(name.removesuffix("/")), at)
        if first != at:
            faults.add(_classify_clash(names[first], name), at + 1)
    folders = _hash_folders(names, max_folders, faults)
    for folded, at in first_of.items():
        if hash(folded) in folders and not names[at].endswith("/"):
            faults.add("file_and_folder", at + 1)


def _classify_clash(first: str, second: str) -> str:
    if first.endswith("/") != second.endswith("/"):
        return "file_and_folder"
    return "duplicate" if first == second else "same_name_elsewhere"


def _hash_folders(names: Sequence[str], max_folders: int, faults: ZipFaults) -> set[int]:
    """Hashes of the folded paths of all folders, up to `max_folders`; the paths themselves would fill the memory."""
    seen: set[int] = set()
    folded: set[int] = set()
    for position, name in enumerate(names, start=1):
        folder = name.removesuffix("/").rpartition("/")[0]
        while folder and hash(folder) not in seen:
            if len(seen) == max_folders:
                faults.add("too_many_folders", position)
                return folded
            seen.add(hash(folder))
            folded.add(hash(fold_name(folder)))
            folder = folder.rpartition("/")[0]
    return folded
