"""Which paths of a source are images, and of which class: the folders `normal` and `osseous_lesion`, at any depth."""

import re
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import Final

from hip_mri.config import LABELS
from hip_mri.data.entry_names import show_name
from hip_mri.errors import SourceError, list_offenders

NEEDED: Final = (
    f"Needed are two class folders with images, {LABELS[0]} and {LABELS[1]}, at the same depth, and no third."
)

NEEDED_WITHOUT_LABELS: Final = "Needed are images, in folders of any kind, in a zip file, or a single one."

_HIDDEN: Final = "Names of other folders are not shown, since they can identify patients: look at them in the source."

_LITTER: Final = re.compile(r"(^|/)(__MACOSX/|\._|\.DS_Store$|Thumbs\.db$|desktop\.ini$)", re.IGNORECASE)
"""What operating systems leave in archives and folders."""


def list_names(names: Sequence[str]) -> tuple[list[tuple[str, str]], int]:
    """Take all paths of a source but litter; see `label_names`, whose form this has with empty labels.

    Raises:
        SourceError: There are no files.
    """
    kept = [name for name in names if not _LITTER.search(name)]
    if not kept:
        raise SourceError(f"source: it holds no files. {NEEDED_WITHOUT_LABELS}")
    return [(name, "") for name in kept], len(names) - len(kept)


def label_names(names: Sequence[str], *, needs_all_classes: bool = True) -> tuple[list[tuple[str, str]], int]:
    """Find the class folders among the paths of a source.

    The class folders may stand at any depth that is the same for both. Every folder at that depth must be one.

    Args:
        names: Paths with forward slashes.
        needs_all_classes: Whether one class folder is too few.

    Returns:
        Path and label of each file below a class folder, and the number of files that were ignored: litter of
        operating systems and files above the class folders.

    Raises:
        SourceError: A class folder is missing or unknown, or there are no files.
    """
    kept = [name for name in names if not _LITTER.search(name)]
    if not kept:
        raise SourceError(f"source: it holds no images. {NEEDED}")
    parts = [PurePosixPath(name).parts for name in kept]
    depth = _find_depth(parts)
    below = [(name, part[depth]) for name, part in zip(kept, parts, strict=True) if len(part) > depth + 1]
    unknown = {label for _, label in below} - set(LABELS)
    missing = [label for label in LABELS if label not in {label for _, label in below}]
    if unknown or (missing and needs_all_classes) or not below:
        raise SourceError(
            f"source: found the folders {_show_folders({label for _, label in below})}"
            + (f"; unknown: {_show_folders(unknown)}" if unknown else "")
            + (f"; missing or empty: {', '.join(missing)}" if missing else "")
            + f". {NEEDED}"
            + (f" {_HIDDEN}" if not all(map(_looks_like_label, unknown)) else "")
        )
    return below, len(names) - len(below)


def _find_depth(parts: Sequence[tuple[str, ...]]) -> int:
    """Depth at which class folders stand; the shallowest where any stands."""
    depths = [part[:-1].index(label) for part in parts for label in LABELS if label in part[:-1]]
    if depths:
        return min(depths)
    folders = {part[:-1] for part in parts}
    is_all_shown = all(_looks_like_label(name) for folder in folders for name in folder)
    raise SourceError(
        f"source: found no class folder, but {_describe_folders(folders)}. {NEEDED}"
        + ("" if is_all_shown else f" {_HIDDEN}")
    )


def _describe_folders(folders: Collection[tuple[str, ...]]) -> str:
    """Tell of folders without class folders how many there are and how deep, and which look like misspelt ones."""
    levels = sorted({len(folder) for folder in folders if folder})
    span = f"level {levels[0]}" if len(levels) == 1 else f"levels {levels[0]} to {levels[-1]}" if levels else ""
    number = len(folders) - (() in folders)
    misspelt = {part for folder in folders for part in folder if _looks_like_label(part)}
    told = ["files at the top"] if () in folders else []
    told += [f"files in {number} {'folder' if number == 1 else 'folders'} at {span}"] if number else []
    told += [f"folders named {_show_folders(misspelt)}"] if misspelt else []
    return " and ".join(told)


def _show_folders(names: Collection[str]) -> str:
    """Those that are meant for class folders by their names, which differ in spelling alone, and the others' number."""
    shown = sorted(filter(_looks_like_label, names))
    num_others = len(names) - len(shown)
    others = [f"{num_others} of {'another name' if num_others == 1 else 'other names'}"] if num_others else []
    return " and ".join([part for part in (list_offenders([show_name(name) for name in shown]),) if part] + others)


def _looks_like_label(name: str) -> bool:
    """Whether a name is a label but for its spelling; one with a digit more can be a patient's."""
    return _spell_plainly(name) in map(_spell_plainly, LABELS)


def _spell_plainly(name: str) -> str:
    return re.sub("[ _.-]", "", name.lower()).removesuffix("s")
