"""Finds the images of a source and their labels, by class folders or by a table."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from hip_mri.config import LABELS
from hip_mri.errors import SourceError, list_offenders
from hip_mri.sources.class_names import ClassNames
from hip_mri.sources.entry_names import show_name
from hip_mri.sources.ignored_files import select_data_files

if TYPE_CHECKING:
    from hip_mri.sources.tables.patient_table import PatientTable

logger = logging.getLogger(__name__)

NEEDED: Final = (
    f"Needed are two class folders with images, {LABELS[0]} and {LABELS[1]}, at the same depth, and no third."
)

NEEDED_WITHOUT_LABELS: Final = "Needed are images, in folders of any kind, in a zip file, or a single one."

_HIDDEN: Final = (
    "Names of other folders are not shown, because they can identify patients. "
    "--data.class-names maps other names of the classes, and a table can give labels instead of folders."
)

_ARCHIVE_SUFFIXES: Final = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2", ".7z", ".rar")
_PICTURE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".nii", ".nii.gz", ".webp")

Labeled = tuple[list[tuple[str, str]], int]
"""Path and label of each image, and the number of other files."""


def list_names(names: Sequence[str]) -> Labeled:
    """Return all paths of a source except ignored files, with empty labels; see `label_names`.

    Raises:
        SourceError: There are no files.
    """
    kept = _select(names, "files", NEEDED_WITHOUT_LABELS)
    return [(name, "") for name in kept], len(names) - len(kept)


def label_names(
    names: Sequence[str],
    class_names: ClassNames | None = None,
    table: "PatientTable | None" = None,
    *,
    needs_all_classes: bool = True,
) -> Labeled:
    """Find the images among the paths of a source, and their labels.

    If the table has labels, the files with a label are the images, in any folder. Otherwise the class folders define
    the labels. They may be at any depth that is the same for both classes, and every folder at that depth must be a
    class folder. A single folder above them may also have the name of a class.

    Args:
        names: Paths with forward slashes.
        class_names: Maps names of folders and values of the table to labels.
        table: The table of patients, which may have labels.
        needs_all_classes: Whether both classes are required.

    Returns:
        Path and label of each image, and the number of other files: ignored ones, those above the class folders, or
        those without a label in the table.

    Raises:
        SourceError: A class is missing or unknown, there are no files, or a path contains both classes.
    """
    known = class_names or ClassNames()
    kept = _select(names, "images", NEEDED)
    labeled = None
    if table is not None and table.has_labels:
        from hip_mri.sources.tables.labels import label_by_table  # noqa: PLC0415 - loads pandas, most sources need none

        labeled = label_by_table(kept, table, known, needs_all_classes=needs_all_classes)
    if labeled is None:
        labeled = label_by_folders(kept, known, needs_all_classes=needs_all_classes)
    return labeled, len(names) - len(labeled)


def _select(names: Sequence[str], what: str, needed: str) -> list[str]:
    kept = select_data_files(names)
    num_ignored = len(names) - len(kept)
    if not kept:
        ignored = (
            f"; {num_ignored:,} hidden or system files, or files in hidden, system or thumbnail folders, are ignored"
        )
        raise SourceError(f"source: it contains no {what}{ignored if num_ignored else ''}. {needed}")
    if num_ignored:
        logger.info(
            "%d hidden or system files, or files in hidden, system or thumbnail folders or workspaces, are ignored",
            num_ignored,
        )
    return kept


def label_by_folders(
    names: Sequence[str], class_names: ClassNames, *, needs_all_classes: bool
) -> list[tuple[str, str]]:
    """Label files by the names of their class folders; see `label_names`."""
    folder_of = {name: name.rpartition("/")[0] for name in names}
    num_files = Counter(folder_of.values())
    parts = {folder: PurePosixPath(folder).parts for folder in num_files}
    depth = _find_depth(names, parts, class_names)
    found = {folder: path[depth] for folder, path in parts.items() if len(path) > depth}
    labels = {folder: class_names.find_label(name) for folder, name in found.items()}
    unknown = {name for folder, name in found.items() if labels[folder] is None}
    missing = [label for label in LABELS if label not in labels.values()]
    if unknown or (missing and needs_all_classes):
        raise SourceError(
            f"source: found the folders {_show_folders(set(found.values()), class_names)}"
            + (f"; unknown: {_show_folders(unknown, class_names)}" if unknown else "")
            + (f"; missing or empty: {', '.join(missing)}" if missing else "")
            + f". {_advise(names)}"
            + (f" {_HIDDEN}" if unknown else "")
        )
    _check_one_class(parts, num_files, depth, class_names)
    _log_spellings(set(found.values()), class_names)
    return [(name, str(labels[folder])) for name, folder in folder_of.items() if folder in found]


def _find_depth(names: Sequence[str], parts: Mapping[str, tuple[str, ...]], class_names: ClassNames) -> int:
    """Depth of the class folders: the smallest with any, unless that is a single folder above both of them.

    Raises:
        SourceError: There is no class folder, or such a single folder also contains images.
    """
    levels = [
        depth
        for depth in range(max(map(len, parts.values())))
        if any(class_names.find_label(path[depth]) for path in parts.values() if len(path) > depth)
    ]
    if not levels:
        raise SourceError(
            f"source: found no class folder, but {_describe_folders(parts.values())}. {_advise(names)}"
            + (f" {_HIDDEN}" if any(parts.values()) else "")
        )
    first = levels[0]
    is_wrapper = len({path[: first + 1] for path in parts.values() if len(path) > first}) == 1
    inner = [depth for depth in levels[1:] if _is_complete(parts.values(), depth, class_names)]
    if not is_wrapper or not inner:
        return first
    above = {folder for folder, path in parts.items() if first < len(path) <= inner[0]}
    num_above = sum(name.lower().endswith(_PICTURE_SUFFIXES) for name in names if name.rpartition("/")[0] in above)
    if num_above:
        raise SourceError(
            f"source: a folder with the name of a class contains class folders and {num_above:,} other images. Move "
            "these images into the class folders, and rename the outer folder."
        )
    return inner[0]


def _is_complete(paths: Collection[tuple[str, ...]], depth: int, class_names: ClassNames) -> bool:
    """Whether the folders at a depth are exactly those of all classes."""
    labels = {class_names.find_label(path[depth]) for path in paths if len(path) > depth}
    return labels == set(LABELS)


def _check_one_class(
    parts: Mapping[str, tuple[str, ...]], num_files: Mapping[str, int], depth: int, class_names: ClassNames
) -> None:
    """Check that no path contains both classes, because the label would be ambiguous."""
    contradictory = [
        folder
        for folder, path in parts.items()
        if len({class_names.find_label(part) for part in path[depth:]} - {None}) > 1
    ]
    if contradictory:
        raise SourceError(
            f"source: {sum(num_files[folder] for folder in contradictory):,} files are in folders of both classes, "
            f"such as {LABELS[1]} inside {LABELS[0]}. Rename the outer or the inner folders, so that each path "
            "contains one class."
        )


def _log_spellings(found: Collection[str], class_names: ClassNames) -> None:
    spellings = Counter(class_names.find_label(name) for name in found)
    for label, count in spellings.items():
        if count > 1:
            logger.warning("Folders in %d spellings are combined to %s", count, label)


def _advise(names: Sequence[str]) -> str:
    """Return what is needed, and a hint if most files are archives."""
    num_archives = sum(name.lower().endswith(_ARCHIVE_SUFFIXES) for name in names)
    if 2 * num_archives < len(names):
        return NEEDED
    return f"{num_archives:,} of its {len(names):,} files are archives: unpack them, and give the folder. {NEEDED}"


def _describe_folders(paths: Collection[tuple[str, ...]]) -> str:
    """Describe number and depth of folders that contain no class folder."""
    folders = set(paths)
    levels = sorted({len(folder) for folder in folders if folder})
    span = f"level {levels[0]}" if len(levels) == 1 else f"levels {levels[0]} to {levels[-1]}" if levels else ""
    number = len(folders) - (() in folders)
    parts = ["files at the top"] if () in folders else []
    parts += [f"files in {number} {'folder' if number == 1 else 'folders'} at {span}"] if number else []
    return " and ".join(parts)


def _show_folders(names: Collection[str], class_names: ClassNames) -> str:
    """Names of class folders, and the number of other folders."""
    shown = sorted(filter(class_names.find_label, names))
    num_others = len(names) - len(shown)
    others = [f"{num_others} of {'another name' if num_others == 1 else 'other names'}"] if num_others else []
    return " and ".join([part for part in (list_offenders([show_name(name) for name in shown]),) if part] + others)
