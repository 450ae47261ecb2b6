"""Taking in images that are to be scored: from any folder, zip file or single file to what the network sees.

Nothing of a source is kept but the preprocessed pictures, named by the SHA-256 of the pixels of the source. Files are
decoded in a sandbox: one that breaks the decoder is set aside. Names, which can identify
patients, stand in a file of their own, readable by its owner alone, which goes with the predictions.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import cv2
import pandas as pd
from joblib import Parallel, delayed

from hip_mri.config import ImageSettings, PreprocessingSettings, SourceLimits
from hip_mri.dataset.entries import ENTRIES_PER_BATCH, make_reading_options, number_copies, read_entry
from hip_mri.dataset.manifest import MANIFEST_COLUMNS, write_manifest, write_quarantine
from hip_mri.dataset.preprocessing import write_preprocessed
from hip_mri.errors import ImageError, SourceError
from hip_mri.images.contrast import preprocess_image
from hip_mri.images.png import hash_pixels
from hip_mri.images.sandbox import NUM_ASKING, Sandbox
from hip_mri.sources.source import Entry, Source, open_unlabelled
from hip_mri.sources.unusable_files import count_reasons, explain_unusable, show_reasons
from hip_mri.storage import flush_file_system, write_bytes
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IntakeReport:
    """What came of the files of a source; `num_images + num_copies + num_unreadable + num_ignored` is all.

    Attributes:
        num_images: Different images that can be scored.
        num_copies: Pictures whose pixels equal those of another one; they share its row.
        num_unreadable: Files that hold no usable image, copies among them left out.
        num_ignored: Litter of an operating system.
    """

    num_images: int
    num_copies: int
    num_unreadable: int
    num_ignored: int


def take_in_images(
    source_file: Path,
    workspace: Workspace,
    settings: PreprocessingSettings,
    num_threads: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    limits: SourceLimits = SourceLimits(),
    image_settings: ImageSettings = ImageSettings(),
) -> IntakeReport:
    """Read every image of a source once, preprocess it, and write the manifest of the batch.

    A file that cannot be read becomes a row with its reason and stops nothing.

    Args:
        source_file: A zip file, a folder or a single image, without class folders.
        workspace: Where preprocessed images and the manifest are written; an older manifest is replaced.
        settings: How the images reach the network.
        num_threads: Threads that read and preprocess at the same time, beside as many that wait for their decoders.
        on_progress: Called with the number of files done and the number of all.
        limits: How much the source may hold.
        image_settings: How image files are read.

    Returns:
        The counts.

    Raises:
        SourceError: The source as a whole cannot be used, or none of its files is an image.
    """
    cv2.setNumThreads(1)  # the threads here keep the cores busy; OpenCV's own would fight them
    rows: list[dict[str, Any]] = []
    done = 0
    with (
        open_unlabelled(source_file, limits, own_folder=workspace.root) as source,
        Sandbox(make_reading_options(image_settings)) as sandbox,
        Parallel(n_jobs=num_threads * NUM_ASKING, backend="threading") as parallel,
    ):
        remaining = iter(source.entries)
        while part := list(islice(remaining, ENTRIES_PER_BATCH)):
            read = parallel(delayed(_read)(source, entry, workspace, settings, sandbox) for entry in part)
            rows += [row for found in cast("list[list[dict[str, Any]]]", read) for row in found]
            on_progress(done := done + len(part), len(source.entries))
        num_ignored = source.num_ignored
    batch = _settle_copies(pd.DataFrame(rows).astype({"position": "float64"}))
    counts = Counter(batch["state"])
    if not counts["ready"]:
        write_quarantine(workspace.quarantine_file, batch.assign(state="quarantined"))
        reasons = count_reasons(batch["reason"])
        raise SourceError(
            f"source: none of its {len(batch):,} files is a usable image: {show_reasons(reasons)}. "
            f"{explain_unusable(reasons, workspace.quarantine_file)}"
        )
    flush_file_system(workspace.root)  # the pictures are on the disk before the manifest names them
    _write_names(batch, workspace)
    write_manifest(
        workspace.manifest_file,
        batch.drop(columns="source_name").reindex(columns=list(MANIFEST_COLUMNS), fill_value=""),
    )
    report = IntakeReport(counts["ready"], counts["duplicate"], counts["quarantined"], num_ignored)
    told = [f"{count} {name.removeprefix('num_')}" for name, count in asdict(report).items()]
    logger.info("Took in the source: %s", ", ".join(told))
    return report


def _read(
    source: Source, entry: Entry, workspace: Workspace, settings: PreprocessingSettings, sandbox: Sandbox
) -> list[dict[str, Any]]:
    """Decode a file, preprocess its pictures and store them; a row for each."""
    row: dict[str, Any] = {"source_name": entry.storable_name, "version": entry.version, "num_bytes": entry.num_bytes}
    row |= {"slice": 0, "num_slices": 1, "sha256": "", "reason": "", "position": None}
    try:
        content = read_entry(source, entry)
        row["sha256"] = hashlib.sha256(content).hexdigest()
        pictures = sandbox.read(content)
    except ImageError as error:
        return [row | {"reason": error.reason}]
    rows = []
    for picture in pictures:
        sha256 = hash_pixels(picture.levels)
        facts = {name: getattr(picture, name) for name in ("slice", "num_slices", "position", "reason")}
        rows.append(row | facts | {"sha256": sha256})
        if not picture.reason:
            write_preprocessed(preprocess_image(picture.levels, settings), sha256, workspace, settings)
    return rows


def _settle_copies(rows: pd.DataFrame) -> pd.DataFrame:
    """Give each row its id and state; files of equal content share an id, and the first by name stands for all."""
    rows = number_copies(rows, ["source_name", "slice"])
    state = rows["reason"].map(lambda reason: "quarantined" if reason else "ready")
    return rows.assign(image_id=rows["content"].str[:16], state=state.mask(rows["copy_number"] > 0, "duplicate"))


def _write_names(batch: pd.DataFrame, workspace: Workspace) -> None:
    """Say which file each image is, copies included."""
    names = batch[["image_id", "source_name", "slice"]].sort_values(["image_id", "source_name", "slice"])
    write_bytes(workspace.batch_names_file, names.to_csv(index=False).encode(), is_private=True)
