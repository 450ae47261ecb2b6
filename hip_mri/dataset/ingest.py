"""Ingests deliveries: stores their images under pseudonyms and writes the manifest."""

import logging
from collections import ChainMap, Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from hip_mri.config import LABELS, SPLITS, ImageSettings
from hip_mri.dataset.deliveries import SYNTHETIC, Delivery, delete_damaged, name_delivery_in_errors
from hip_mri.dataset.entries import (
    Reading,
    check_stored,
    identify_content,
    keep_entries,
    list_entries,
    number_copies,
    read_delivery,
)
from hip_mri.dataset.identities import read_patient_table
from hip_mri.dataset.manifest import read_manifest, write_manifest, write_quarantine
from hip_mri.dataset.pseudonyms import resolve_pseudonyms, store_names
from hip_mri.dataset.split_registry import apply_quarantine, read_split_registry
from hip_mri.errors import SourceError, SplitError, WorkspaceError
from hip_mri.sources.class_names import ClassNames
from hip_mri.sources.source import Labeling
from hip_mri.sources.tables.corrections import EXCLUDE, ID_LENGTH, Corrections, find_corrected, read_corrections
from hip_mri.sources.unusable_files import count_reasons, explain_unusable, show_reasons
from hip_mri.storage import flush_file_system, read_json, replace_file, write_json
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

CONTRADICTORY_LABEL: Final = "contradictory_label"
"""Reason code of an image whose pixels are in both class folders."""


EXCLUDED: Final = "excluded"
"""Reason code of an image that the table of corrections excludes."""


@dataclass(frozen=True)
class CorrectionsReport:
    """The table of corrections that was applied.

    Attributes:
        sha256: Of the file.
        num_rows: Number of its lines.
    """

    sha256: str
    num_rows: int


@dataclass(frozen=True)
class IngestReport:
    """Counts of the entries; `num_images + num_duplicates + num_quarantined + num_ignored` is all.

    Attributes:
        num_images: Images in use.
        num_duplicates: Copies, pixel for pixel, of an image in use with the same label.
        num_quarantined: Files below the class folders that cannot be used; `quarantine.csv` says why.
        num_ignored: Files of the current deliveries that are not part of the data: above the class folders, without a
            label in the table, in hidden or system folders, or written by an operating system. A local folder that
            is skipped counts as one.
        num_taken_over: Entries that an earlier run had already read and that have not changed since.
        is_synthetic: Whether images in use are marked as synthetic.
        corrections: The table of corrections; `None` without one.
    """

    num_images: int
    num_duplicates: int
    num_quarantined: int
    num_ignored: int
    num_taken_over: int
    is_synthetic: bool = False
    corrections: CorrectionsReport | None = None


def ingest_images(
    deliveries: Sequence[Delivery],
    workspace: Workspace,
    num_threads: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    settings: ImageSettings = ImageSettings(),
    *,
    keep_earlier: bool = False,
    class_names: Mapping[str, str] | None = None,
    patients_file: Path | None = None,
    corrections_file: Path | None = None,
) -> IngestReport:
    """Read the new files of the deliveries and write the manifest of all images in use.

    Args:
        deliveries: Zip files or folders with class folders.
        workspace: Where images, lists of entries, manifest and `quarantine.csv` are written.
        num_threads: Threads that read and decode.
        on_progress: Called with the number of entries done and the number of all, for one delivery after the other.
        settings: How image files are read.
        keep_earlier: Whether the images of the current manifest stay if they are not delivered again; else the manifest
            lists the images of these deliveries alone.
        class_names: Labels by other names of the classes.
        patients_file: The user's table of patients; without it, each delivery may hold one. Its column `label`, where
            it has one, takes the place of class folders.
        corrections_file: Corrected labels of images of these and of earlier deliveries. The lists of deliveries keep
            the labels of the source, so that a run without the file uses those.

    Raises:
        SourceError: A delivery cannot be used, or no file is a usable image: then `quarantine.csv` lists what was
            found, and an earlier manifest stays as it was.
        SplitError: A class has too few usable images; as above.
        SettingsError: The table cannot be used, or a class name stands for two classes.
        WorkspaceError: An image that earlier deliveries held is no longer stored.
    """
    readings, known = {}, ClassNames(class_names)
    corrections = None if corrections_file is None else read_corrections(corrections_file, class_names)
    for delivery in deliveries:
        with name_delivery_in_errors(delivery, deliveries), delete_damaged(delivery):
            labeling = Labeling(known, read_patient_table(delivery, patients_file))
            readings[delivery.name] = read_delivery(
                delivery, workspace, num_threads, on_progress, settings, keep_earlier=keep_earlier, labeling=labeling
            )
    earlier = _find_earlier(workspace) - set(readings) if keep_earlier else set()
    names = ChainMap(*(reading.names for reading in readings.values()))
    rows = _gather(readings, list_entries(sorted(earlier), workspace), names, workspace)
    rows, corrected = _correct_labels(rows, corrections, workspace)
    manifest = apply_quarantine(_assign_ids_and_states(rows), workspace)
    _check_usable(manifest, workspace)
    _warn_of_unusable(readings.values(), workspace)
    flush_file_system(workspace.images_folder)  # images are on the disk before the manifest lists them
    store_names(names, workspace)
    for name, reading in readings.items():
        keep_entries(name, reading.entries, workspace)
    write_json(workspace.deliveries_file, sorted({*earlier, *readings}))
    write_manifest(workspace.manifest_file, manifest)
    write_quarantine(workspace.quarantine_file, manifest)
    with replace_file(workspace.corrections_file) as temporary:
        corrected.to_csv(temporary, index=False)
    return _report(manifest, list(readings.values()), corrections)


def _check_usable(manifest: pd.DataFrame, workspace: Workspace) -> None:
    """Check that each class has usable images; if not, write `quarantine.csv` and raise."""
    ready = manifest[manifest["state"] == "ready"]
    try:
        if ready.empty:
            counts = count_reasons(manifest["reason"])
            raise SourceError(
                f"source: none of the {len(manifest):,} labeled files is a usable image: {show_reasons(counts)}. "
                f"{explain_unusable(counts, workspace.quarantine_file)}"
            )
        check_class_sizes(ready["label"], manifest["reason"], workspace.quarantine_file)
    except (SourceError, SplitError):
        write_quarantine(workspace.quarantine_file, manifest)
        raise


def _warn_of_unusable(readings: Iterable[Reading], workspace: Workspace) -> None:
    """Warn of each delivery that holds files but no usable one, with the reasons."""
    for number, reading in enumerate(readings, 1):
        reasons = reading.entries["reason"]
        if len(reasons) and (reasons != "").all():
            counts = count_reasons(reasons)
            logger.warning(
                "None of the %d files of delivery %d is a usable image: %s. %s",
                *(len(reasons), number, show_reasons(counts), explain_unusable(counts, workspace.quarantine_file)),
            )


def _report(manifest: pd.DataFrame, readings: Sequence[Reading], corrections: Corrections | None) -> IngestReport:
    """Count the entries by result, and log the counts."""
    counts = Counter(manifest["state"])
    report = IngestReport(
        num_images=counts["ready"],
        num_duplicates=counts["duplicate"],
        num_quarantined=counts["quarantined"],
        num_ignored=sum(reading.num_ignored for reading in readings),
        num_taken_over=sum(reading.num_taken_over for reading in readings),
        is_synthetic=bool(manifest["delivery"].str.startswith(SYNTHETIC).any()),
        corrections=None if corrections is None else CorrectionsReport(corrections.sha256, len(corrections.rows)),
    )
    counted = [(name.removeprefix("num_"), count) for name, count in asdict(report).items() if name.startswith("num_")]
    logger.info("Ingested: %s", ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counted))
    return report


def _find_earlier(workspace: Workspace) -> set[str]:
    """Names of the deliveries in the current manifest, also where it is missing or damaged."""
    try:
        if workspace.manifest_file.exists():
            return set(read_manifest(workspace.manifest_file)["delivery"])
    except WorkspaceError as error:
        logger.warning("%s. It is rebuilt from the lists of deliveries.", str(error).partition(". ")[0])
    return set(read_json(workspace.deliveries_file)) if workspace.deliveries_file.exists() else set()


def _gather(
    readings: Mapping[str, Reading], kept: pd.DataFrame, names: Mapping[str, str], workspace: Workspace
) -> pd.DataFrame:
    """The entries of all deliveries with their names; checks that the images of earlier entries are still stored."""
    lists = [reading.entries.assign(delivery=name) for name, reading in readings.items()]
    rows = pd.concat([*lists, kept], ignore_index=True)
    is_new = rows["entry"].isin(names)
    remembered = rows[~is_new]
    check_stored(remembered, workspace)
    looked_up = resolve_pseudonyms(remembered["entry"], workspace) if len(remembered) else None
    return rows.assign(source_name=pd.concat([rows.loc[is_new, "entry"].map(names).astype("str"), looked_up]))


def _correct_labels(
    rows: pd.DataFrame, corrections: Corrections | None, workspace: Workspace
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Apply a table of corrections to entries.

    Returns:
        The entries, and one row per image of the table: its image_id, label (of the table) and source_label, both
        labels of the source joined by + if its copies have two.
    """
    images = rows.assign(content=identify_content(rows))
    if corrections is None:
        return rows, pd.DataFrame(columns=["image_id", "label", "source_label"])
    decisions = find_corrected(images, corrections, read_split_registry(workspace)["sha256"])
    decision = images["content"].map(decisions)
    concerned = images[decision.notna()].sort_values("label").drop_duplicates(["content", "label"])
    source_labels = concerned.groupby("content")["label"].agg("+".join)
    rows = rows.assign(
        label=rows["label"].where(~decision.isin(LABELS), decision),
        reason=rows["reason"].mask((decision == EXCLUDE) & (rows["reason"] == ""), EXCLUDED),
    )
    image_ids = decisions.index.str[:ID_LENGTH]
    corrected = {"image_id": image_ids, "label": decisions.to_numpy(), "source_label": source_labels[decisions.index]}
    return rows, pd.DataFrame(corrected).reset_index(drop=True)


def _assign_ids_and_states(rows: pd.DataFrame) -> pd.DataFrame:
    """Give each row its id and state, independent of the order of the rows.

    Of several images with equal pixels and one label the first by delivery and source name is used; with two labels
    none is.
    """
    rows = number_copies(rows, ["label", "delivery", "source_name", "slice"])
    is_copy = rows["copy_number"] > 0
    suffix = ("-" + (rows["copy_number"] + 1).astype("str")).where(is_copy, "")
    is_contradictory = rows.groupby("content")["label"].transform("nunique") > 1
    rows.loc[is_contradictory & (rows["reason"] == ""), "reason"] = CONTRADICTORY_LABEL
    rows["state"] = np.select([rows["reason"] != "", is_copy], ["quarantined", "duplicate"], "ready")
    rows["image_id"] = rows["content"].str[:16] + suffix
    rows["group"] = rows["image_id"].where(rows["state"] == "ready", "")
    return rows.assign(patient="", evidence="", split="")


def check_class_sizes(labels: pd.Series, reasons: Iterable[str], quarantine_file: Path) -> None:
    """Check that each class has at least one image per split.

    Args:
        labels: Labels of the usable images.
        reasons: Why the other files cannot be used.
        quarantine_file: Lists them.

    Raises:
        SplitError: A class has too few, with the counts.
    """
    num_images = labels.value_counts().reindex(list(LABELS), fill_value=0)
    if (num_images < len(SPLITS)).any():
        counts = count_reasons(reasons)
        sizes = ", ".join(f"{label} {count}" for label, count in num_images.items())
        unusable = f" Not usable are {show_reasons(counts)}. {explain_unusable(counts, quarantine_file)}"
        raise SplitError(
            f"source: too few usable images for a split into {', '.join(SPLITS)}: {sizes}. "
            f"Each class needs at least {len(SPLITS)}; add images." + (unusable if counts else "")
        )
