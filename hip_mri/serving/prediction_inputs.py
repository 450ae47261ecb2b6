"""Reads the images to score from a folder, a zip file or a single file, and preprocesses them.

Only the preprocessed images are stored, named by the SHA-256 of the pixels of the source image. Files are decoded in a
sandbox, so that a damaged file only causes its own row to be quarantined. File names, which can identify patients, are
written to a separate file that only its owner can read. Patients that DICOM files name are not written at all.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import cv2
import pandas as pd
from joblib import Parallel, delayed

from hip_mri.config import SYNTHETIC_MARK, PredictionDataSettings, PreprocessingSettings, SourceLimits
from hip_mri.dataset.entries import make_reading_options, number_copies, read_entry
from hip_mri.dataset.manifest import MANIFEST_COLUMNS, write_manifest, write_quarantine
from hip_mri.dataset.preprocessing import write_preprocessed
from hip_mri.errors import ImageError, SourceError
from hip_mri.images.clahe_and_resizing import preprocess_image
from hip_mri.images.sandbox import NUM_THREADS_PER_CORE, Sandbox
from hip_mri.images.stored_png import hash_pixels
from hip_mri.serving.examinations import find_named_patients, name_examinations, read_prediction_table
from hip_mri.sources.source import Entry, Source, open_unlabeled
from hip_mri.sources.tables.delivered_table import is_table_name
from hip_mri.sources.unusable_files import count_reasons, explain_unusable, show_reasons
from hip_mri.storage import flush_file_system, write_bytes
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

_FACTS: Final = ("slice", "num_slices", "position", "reason", "patient", "study")
"""Attributes of a picture that its row takes over; patient and study stay in memory."""


@dataclass(frozen=True)
class InputReport:
    """Counts of the images and files of a source, which sum to all of them.

    Attributes:
        num_images: Different images that can be scored.
        num_copies: Images with the same pixels as another one, whose row they share.
        num_unreadable: Files without a usable image, not counting copies.
        num_ignored: Files that an operating system adds, and tables of patients.
    """

    num_images: int
    num_copies: int
    num_unreadable: int
    num_ignored: int


def ingest_inputs(
    source_file: Path,
    workspace: Workspace,
    settings: PreprocessingSettings,
    num_threads: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    limits: SourceLimits = SourceLimits(),
    data: PredictionDataSettings = PredictionDataSettings(),
) -> InputReport:
    """Read and preprocess every image of a source, and write the manifest of the batch.

    A file that cannot be read gets a row with the reason.

    Args:
        source_file: A zip file, a folder or a single image, without class folders.
        workspace: Where preprocessed images and the manifest are written; an older manifest is replaced.
        settings: How the images are preprocessed.
        num_threads: Threads that read and preprocess images; as many more wait for the decoders.
        on_progress: Called with the number of files that are read, and the number of all files.
        limits: Limits on the size of the source.
        data: How image files are decoded, and how their patients are named.

    Raises:
        SettingsError: The table or the pattern of patients cannot be used.
        SourceError: The source as a whole cannot be used, or none of its files is an image.
    """
    cv2.setNumThreads(1)  # the images are processed in parallel already
    rows: list[dict[str, Any]] = []
    parallel = Parallel(n_jobs=num_threads * NUM_THREADS_PER_CORE, backend="threading", return_as="generator")
    with (
        open_unlabeled(source_file, limits, own_folder=workspace.root) as source,
        Sandbox(make_reading_options(data)) as sandbox,
    ):
        table = read_prediction_table(source_file, data.patients_file, limits)
        entries = [entry for entry in source.entries if not _is_note(entry.name)] or source.entries
        patients = find_named_patients({entry.storable_name for entry in entries}, table, data.patient_pattern)
        read = parallel(delayed(_read)(source, entry, workspace, settings, sandbox) for entry in entries)
        for done, found in enumerate(cast("Iterable[list[dict[str, Any]]]", read), start=1):
            rows += found
            on_progress(done, len(entries))
        num_ignored = source.num_ignored + len(source.entries) - len(entries)
    batch = _mark_copies(pd.DataFrame(rows).astype({"position": "float64"}))
    batch["patient"] = name_examinations(batch.join(patients, on="source_name"))
    counts = Counter(batch["state"])
    if not counts["ready"]:
        write_quarantine(workspace.quarantine_file, batch.assign(state="quarantined"))
        reasons = count_reasons(batch["reason"])
        raise SourceError(
            f"source: none of its {len(batch):,} files is a usable image: {show_reasons(reasons)}. "
            f"{explain_unusable(reasons, workspace.quarantine_file)}"
        )
    flush_file_system(workspace.root)  # the images are on the disk before the manifest lists them
    named = batch[["image_id", "source_name", "slice", "patient"]].rename(columns={"patient": "examination"})
    names = named.to_csv(index=False)
    write_bytes(workspace.batch_names_file, names.encode(), is_private=True)
    write_manifest(
        workspace.manifest_file,
        batch.drop(columns=["source_name", "study"]).reindex(columns=list(MANIFEST_COLUMNS), fill_value=""),
    )
    report = InputReport(counts["ready"], counts["duplicate"], counts["quarantined"], num_ignored)
    logger.info(
        "Read %d images; %d copies, %d unreadable files, %d ignored files",
        *(report.num_images, report.num_copies, report.num_unreadable, report.num_ignored),
    )
    return report


def _is_note(name: str) -> bool:
    """Whether a file is a table of patients or the mark of synthetic images, which are no images to score."""
    return name.count("/") <= 1 and (is_table_name(name) or name.rpartition("/")[2] == SYNTHETIC_MARK)


def _read(
    source: Source, entry: Entry, workspace: Workspace, settings: PreprocessingSettings, sandbox: Sandbox
) -> list[dict[str, Any]]:
    """Decode a file, and preprocess and store its images; one row for each."""
    row: dict[str, Any] = {"source_name": entry.storable_name, "version": entry.version, "num_bytes": entry.num_bytes}
    row |= {"slice": 0, "num_slices": 1, "sha256": "", "reason": "", "position": None, "patient": "", "study": ""}
    try:
        content = read_entry(source, entry)
        row["sha256"] = hashlib.sha256(content).hexdigest()
        pictures = sandbox.read(content)
    except ImageError as error:
        return [row | {"reason": error.reason}]
    rows = []
    for picture in pictures:
        sha256 = hash_pixels(picture.levels)
        facts = {name: getattr(picture, name) for name in _FACTS}
        rows.append(row | facts | {"sha256": sha256})
        if not picture.reason:
            write_preprocessed(preprocess_image(picture.levels, settings), sha256, workspace, settings)
    return rows


def _mark_copies(rows: pd.DataFrame) -> pd.DataFrame:
    """Add image id and state; rows of equal content share an id, and all but the first by name are duplicates."""
    rows = number_copies(rows, ["source_name", "slice"])
    state = rows["reason"].map(lambda reason: "quarantined" if reason else "ready")
    return rows.assign(image_id=rows["content"].str[:16], state=state.mask(rows["copy_number"] > 0, "duplicate"))
