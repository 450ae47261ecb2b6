"""Labels the images of a source by a table instead of class folders."""

import logging
from collections.abc import Sequence

import pandas as pd

from hip_mri.config import LABELS
from hip_mri.errors import SourceError
from hip_mri.sources.class_names import ClassNames
from hip_mri.sources.tables.patient_table import SOURCE_NAME, PatientTable, explain_no_match, find_rows

logger = logging.getLogger(__name__)


def label_by_table(
    names: Sequence[str], table: PatientTable, class_names: ClassNames, *, needs_all_classes: bool
) -> list[tuple[str, str]] | None:
    """Label the files of a source that a table gives a label.

    Args:
        names: Paths with forward slashes.
        table: A table with labels.
        class_names: Maps values of the table to labels.
        needs_all_classes: Whether both classes are required.

    Returns:
        Path and label of each labeled file. `None` if the table contains none of the files and there are class
        folders, as when several deliveries share one table.

    Raises:
        SourceError: A value is no class, a class is missing, or a file is in the folder of another class.
        SettingsError: The table contains none of the files and there are no class folders, or a name matches several.
    """
    matched = find_rows(table, pd.Series(names, dtype="str"))
    if matched[SOURCE_NAME].isna().all():
        if not any(map(class_names.find_label, {part for name in names for part in name.split("/")[:-1]})):
            raise explain_no_match(table)
        logger.warning("The table has no label for any of %d files; class folders are used", len(names))
        return None
    labels = _map_values(names, matched["label"].fillna(""), class_names)
    _check_folders(labels, class_names)
    if len(labels) < len(names):
        logger.warning(
            "The table has no label for %d of %d files; they are excluded", len(names) - len(labels), len(names)
        )
    num_unmatched = len(table.rows) - matched[SOURCE_NAME].nunique()
    if num_unmatched:
        logger.warning("%d of %d rows of the table match no file of the source", num_unmatched, len(table.rows))
    missing = [label for label in LABELS if label not in set(labels.values())]
    if missing and (needs_all_classes or not labels):
        raise SourceError(
            f"source: the column label of the table gives {len(labels):,} of {len(names):,} files a label, and none is "
            f"{' or '.join(missing)}. Needed are images of {LABELS[0]} and {LABELS[1]}."
        )
    return list(labels.items())


def _map_values(names: Sequence[str], values: pd.Series, class_names: ClassNames) -> dict[str, str]:
    """Label of each labeled file."""
    label_of = {value: class_names.find_label(value) for value in values.unique() if value}
    unknown = [value for value, label in label_of.items() if label is None]
    if unknown:
        raise SourceError(
            f"source: the column label of the table has {len(unknown)} values that are no class, for "
            f"{int(values.isin(unknown).sum()):,} files. Write {' or '.join(LABELS)}, map other values with "
            "--data.class-names, or leave the field empty to exclude the file."
        )
    return {name: str(label_of[value]) for name, value in zip(names, values, strict=True) if value}


def _check_folders(labels: dict[str, str], class_names: ClassNames) -> None:
    """Check that no file is in the folder of another class than in the table."""
    num_contradictory = 0
    for name, label in labels.items():
        named = set(map(class_names.find_label, name.split("/")[:-1])) - {None}
        num_contradictory += bool(named) and label not in named
    if num_contradictory:
        raise SourceError(
            f"source: {num_contradictory:,} files have another label in the table than their class folder. Correct the "
            "table, or move the files out of class folders."
        )
