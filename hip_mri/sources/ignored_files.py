"""Recognizes files that are not data: of operating systems, file servers and version control, and workspaces."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from hip_mri.config import LABELS, SPLITS
from hip_mri.workspace import TOP_LEVEL_NAMES

_SYSTEM_FOLDERS: Final = frozenset(
    {
        *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder"),  # macOS
        *("$recycle.bin", "recycler", "recycled", "system volume information"),  # Windows
        *("lost+found", "cvs", "__pycache__"),  # Linux, development
        *("@eadir", "#recycle", "#snapshot", "@tmp", "@sharesnap", "~snapshot"),  # Synology, NetApp
        *("@recycle", "@recently-snapshot", "@__thumb", ".@__thumb"),  # QNAP
        *("_thumb", "_thumbs", "_thumbnails", "thumbs", "thumbnails", "_vti_cnf"),  # picture viewers, web servers
    }
)
"""Ignored folders, in lower case, in addition to those whose names begin with a dot."""

_SYSTEM_FILES: Final = re.compile(r"\._.*|(eh)?thumbs\.db|desktop\.ini|icon\r|~\$.*|picasa\.ini", re.IGNORECASE)
_PICTURE_SUFFIX: Final = re.compile(
    r"\.(png|apng|jpe?g|jpe|tiff?|bmp|dib|gif|webp|jp2|j2k|jpx|dcm|dicom|ima|nii|gz|nrrd|mha)", re.IGNORECASE
)
"""Suffixes of hidden files that are not ignored, because they may be images."""

_WORKSPACE_MARKS: Final = re.compile(
    rf"(?P<folder>.+)/(?:DATA/(?:{'|'.join(SPLITS)})/(?:{'|'.join(LABELS)})/[0-9a-f]{{16}}(?:-[0-9]+)?\.png"
    r"|images/[0-9a-f]{2}/[0-9a-f]{64}|pseudonyms\.key|(?:names|splits|ties)\.parquet)"
)
"""Files that are typical of a workspace of this program."""

_MIN_WORKSPACE_PARTS: Final = 2
"""Minimum number of `TOP_LEVEL_NAMES` in a workspace, so that a copy of `DATA` alone can be a source."""


def is_ignored_folder(name: str) -> bool:
    """Whether a folder of this name, without those above it, is ignored with all its content."""
    return (name.startswith(".") and name.strip(".") != "") or name.lower() in _SYSTEM_FOLDERS


def is_ignored_file(name: str) -> bool:
    """Whether a file of this name, without its folder, is ignored: a system file, or a hidden file that is no image."""
    if _SYSTEM_FILES.fullmatch(name):
        return True
    is_hidden = name.startswith(".") and not name.startswith("..")
    return is_hidden and not _PICTURE_SUFFIX.fullmatch(name[name.rfind(".") :])


def select_data_files(names: Sequence[str]) -> list[str]:
    """Select the files that are not ignored, nor in ignored folders or workspaces of this program.

    Args:
        names: Paths in a source, with forward slashes.

    Returns:
        Their paths, in the same order.
    """
    workspaces = find_workspaces(names)
    return [name for name in names if not _is_ignored(name) and not is_below(name, workspaces)]


def is_below(name: str, folders: Iterable[str]) -> bool:
    """Whether a path is below one of the folders."""
    return any(name.startswith(f"{folder}/") for folder in folders)


def find_workspaces(names: Sequence[str]) -> set[str]:
    """Find workspaces of this program among the folders of a source by their content.

    The source itself never counts as one, nor does a folder that contains only `DATA`.
    """
    marked = {match["folder"] for name in names if (match := _WORKSPACE_MARKS.fullmatch(name))}
    if not marked:
        return set()
    parts: Counter[str] = Counter()
    for folder in marked:
        below = (name[len(folder) + 1 :] for name in names if name.startswith(f"{folder}/"))
        parts[folder] = len({name.partition("/")[0] for name in below} & TOP_LEVEL_NAMES)
    return {folder for folder, count in parts.items() if count >= _MIN_WORKSPACE_PARTS}


def _is_ignored(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return is_ignored_file(file) or _is_in_ignored_folder(folder)


@lru_cache(2**16)
def _is_in_ignored_folder(folder: str) -> bool:
    return any(map(is_ignored_folder, folder.split("/")))
