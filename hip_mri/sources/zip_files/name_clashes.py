"""Finds names of an archive that are equal on some system, and files that are also folders."""

from collections.abc import Sequence

import numpy as np

from hip_mri.sources.entry_names import fold_name
from hip_mri.sources.zip_files.faults import ZipFaults


def find_clashes(names: Sequence[str], max_folders: int, faults: ZipFaults) -> None:
    """Find names that occur twice, on some system at least, and files that are folders as well.

    Hashes are compared first: they take a tenth of the memory, and few names are left to compare in full.

    Args:
        names: Paths; those of folders end in a slash.
        max_folders: Different folders that may be named, with those in which they stand.
        faults: Receives what is found.
    """
    hashes = np.fromiter((hash(fold_name(name.removesuffix("/"))) for name in names), np.int64, len(names))
    values, counts = np.unique(hashes, return_counts=True)
    seen: dict[str, str] = {}
    for position in np.flatnonzero(np.isin(hashes, values[counts > 1])).tolist():
        name = names[position]
        folded = fold_name(name.removesuffix("/"))
        if folded in seen:
            faults.add(_name_clash(seen[folded], name), position + 1)
        seen.setdefault(folded, name)
    folders = _hash_folders(names, max_folders, faults)
    suspects = np.flatnonzero(np.isin(hashes, np.fromiter(folders, np.int64, len(folders)))).tolist()
    for position in suspects:
        if not names[position].endswith("/"):
            faults.add("file_and_folder", position + 1)


def _name_clash(first: str, second: str) -> str:
    if first.endswith("/") != second.endswith("/"):
        return "file_and_folder"
    return "duplicate" if first == second else "same_name_elsewhere"


def _hash_folders(names: Sequence[str], max_folders: int, faults: ZipFaults) -> set[int]:
    """Hashes of every folder that a name stands in, folded, until there are more than `max_folders`.

    No folder's own name is kept: a long path has as many of its length as it has levels.
    """
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
