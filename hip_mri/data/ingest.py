"""From a source to stored, checked, pseudonymous images and their manifest."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import pandas as pd
from joblib import Parallel, delayed

from hip_mri.config import LABELS, SPLITS
from hip_mri.data.images import decode_gray
from hip_mri.data.manifest import read_manifest, write_manifest
from hip_mri.data.source import Entry, Source, open_source
from hip_mri.errors import ImageError, SourceError, SplitError
from hip_mri.workspace import Workspace, digest, replace_file, write_small_file

logger = logging.getLogger(__name__)

ENTRIES_PER_BATCH = 2048
"""Entries between two reports of progress; bounds the memory that waiting results take."""

MAX_NUM_BYTES: Final = 256 * 2**20
"""Largest file that is read, in bytes; a slice has a thousandth of it. Bounds the memory that a thread takes."""

CONTRADICTORY_LABEL: Final = "contradictory_label"
"""Reason code of an image that stands, byte for byte, in both class folders."""


@dataclass(frozen=True)
class IngestReport:
    """What came of the entries of a source; `num_images + num_duplicates + num_quarantined + num_ignored` is all.

    Attributes:
        num_images: Images in use.
        num_duplicates: Copies, byte for byte, of an image in use with the same label.
        num_quarantined: Files below the class folders that cannot be used; `quarantine.csv` says why.
        num_ignored: Files that are no part of the data: above the class folders, or litter of an operating system.
        num_taken_over: Entries that an earlier run had already read and that have not changed since.
    """

    num_images: int
    num_duplicates: int
    num_quarantined: int
    num_ignored: int
    num_taken_over: int


def ingest_images(
    source_file: Path,
    workspace: Workspace,
    num_threads: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> IngestReport:
    """Read every image of a source once, check it, store its bytes and write the manifest.

    Images are stored under the SHA-256 of their bytes, so names never become paths and copies are found. An entry
    that an earlier run has read, unchanged since by name, size and checksum, is not read again.

    Args:
        source_file: A zip file or a folder with the class folders.
        workspace: Where images, manifest and `quarantine.csv` are written.
        num_threads: Threads that read and decode.
        on_progress: Called with the number of entries done and the number of all.

    Returns:
        The counts.

    Raises:
        SourceError: The source as a whole cannot be used. Where that shows only after reading, because every image
            contradicts another, images may have been stored; manifest and `quarantine.csv` are as they were.
    """
    with open_source(source_file) as source:
        known = _find_known(source.entries, workspace)
        rows = [row for entry in source.entries if (row := known.get(entry.name)) is not None]
        unread = [entry for entry in source.entries if entry.name not in known]
        on_progress(len(rows), len(source.entries))
        with Parallel(n_jobs=num_threads, backend="threading") as parallel:
            remaining = iter(unread)
            while batch := list(islice(remaining, ENTRIES_PER_BATCH)):
                taken_in = parallel(delayed(_take_in)(source, entry, workspace) for entry in batch)
                rows += cast("list[dict[str, Any]]", taken_in)
                on_progress(len(rows), len(source.entries))
        num_ignored = source.num_ignored
    manifest = _settle_copies(pd.DataFrame(rows))
    counts = Counter(manifest["state"])
    if not counts["ready"]:
        reasons = manifest["reason"].value_counts().to_dict()
        raise SourceError(
            f"source: none of the {len(manifest)} files below the class folders is a usable image ({reasons}). "
            "Give 8-bit or 16-bit PNG, JPEG, TIFF or BMP images."
        )
    check_classes(manifest.loc[manifest["state"] == "ready", "label"])
    write_manifest(workspace.manifest_file, manifest)
    write_quarantine(workspace.quarantine_file, manifest)
    report = IngestReport(
        num_images=counts["ready"],
        num_duplicates=counts["duplicate"],
        num_quarantined=counts["quarantined"],
        num_ignored=num_ignored,
        num_taken_over=len(known),
    )
    told = [f"{count} {name.removeprefix('num_').replace('_', ' ')}" for name, count in asdict(report).items()]
    logger.info("Took in the source: %s", ", ".join(told))
    return report


def _find_known(entries: Iterable[Entry], workspace: Workspace) -> dict[str, dict[str, Any]]:
    """Rows of the present manifest whose entries are unchanged and whose bytes are still stored in full."""
    if not workspace.manifest_file.exists():
        return {}
    manifest = read_manifest(workspace.manifest_file)
    columns = ["source_name", "version", "label", "sha256", "reason", "num_bytes"]
    rows = {row["source_name"]: row for row in manifest.loc[:, columns].to_dict("records")}
    known = {}
    for entry in entries:
        row = rows.get(entry.storable_name)
        if row and (row["version"], row["label"]) == (entry.version, entry.label) and _is_stored(row, workspace):
            known[entry.name] = row
    return known


def _is_stored(row: dict[str, Any], workspace: Workspace) -> bool:
    if row["reason"] and row["reason"] != CONTRADICTORY_LABEL:
        return False  # a quarantined file is looked at again: a later version may read it
    try:
        return workspace.image_file(row["sha256"]).stat().st_size == row["num_bytes"]
    except OSError:
        return False


def _take_in(source: Source, entry: Entry, workspace: Workspace) -> dict[str, Any]:
    row: dict[str, Any] = {"source_name": entry.storable_name, "version": entry.version, "label": entry.label}
    row |= {"sha256": "", "num_bytes": entry.num_bytes, "reason": ""}
    try:
        content = _read(source, entry)
        row |= {"sha256": hashlib.sha256(content).hexdigest(), "num_bytes": len(content)}
        decode_gray(content)
        write_small_file(workspace.image_file(row["sha256"]), content)
    except ImageError as error:
        row["reason"] = error.reason
    return row


def _read(source: Source, entry: Entry) -> bytes:
    if entry.num_bytes > MAX_NUM_BYTES:
        raise ImageError("too_large", f"the file has {entry.num_bytes:,} bytes, above {MAX_NUM_BYTES:,}")
    return source.read(entry)


def _settle_copies(rows: pd.DataFrame) -> pd.DataFrame:
    """Give each row its id and state, independent of the order of the rows.

    Of several byte-identical images with one label the first by source name is used; with two labels none is. An
    entry that could not be read goes by its version in the place of its content, never by its name.
    """
    rows["content"] = [
        sha256 or digest(version) for sha256, version in zip(rows["sha256"], rows["version"], strict=True)
    ]
    rows = rows.sort_values(["content", "label", "source_name"], ignore_index=True)
    rows["reason"] = rows["reason"].where(rows["reason"] != CONTRADICTORY_LABEL, "")
    labelled = rows.drop_duplicates(["content", "label"])["content"]
    contradictory = rows["content"].isin(list(labelled[labelled.duplicated()]))
    rows.loc[contradictory & (rows["reason"] == ""), "reason"] = CONTRADICTORY_LABEL
    copy_number = rows.groupby("content").cumcount()
    rows["image_id"] = rows["content"].str[:16] + copy_number.map(lambda number: f"-{number + 1}" if number else "")
    rows["state"] = "ready"
    rows.loc[copy_number > 0, "state"] = "duplicate"
    rows.loc[rows["reason"] != "", "state"] = "quarantined"
    rows["group"] = rows["image_id"].where(rows["state"] == "ready", "")
    return rows.assign(patient="", evidence="", split="")


def check_classes(labels: pd.Series) -> None:
    """See that each class has an image for every split; `SplitError` with the counts."""
    num_images = labels.value_counts().reindex(list(LABELS), fill_value=0)
    if (num_images < len(SPLITS)).any():
        raise SplitError(
            f"source: too few usable images for a split into {', '.join(SPLITS)}: "
            + ", ".join(f"{label} {count}" for label, count in num_images.items())
            + f". Each class needs at least {len(SPLITS)}; add images, or look into quarantine.csv for refused ones."
        )


def write_quarantine(file: Path, manifest: pd.DataFrame) -> None:
    """Write what cannot be used, and why, by pseudonym."""
    quarantined = manifest.loc[manifest["state"] == "quarantined", ["image_id", "reason", "sha256"]]
    with replace_file(file) as temporary:
        quarantined.to_csv(temporary, index=False)
