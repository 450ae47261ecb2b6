"""Checks new images for a shift against the training images before a model is trained on them."""

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from hip_mri.config import DriftSettings
from hip_mri.dataset.deliveries import SYNTHETIC
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.preprocessing import read_stored_image
from hip_mri.dataset.split_registry import quarantine_images
from hip_mri.evaluation.charts.captions import collect_notices, summarize_notices
from hip_mri.hashes import digest, digest_file
from hip_mri.models.features import FeatureSet
from hip_mri.monitoring.drift import Batch, DriftReport, detect_drift
from hip_mri.monitoring.shift import describe_stored_images, sample_one_per_group
from hip_mri.promotion.new_images import find_reference, list_images, select_new, select_unused
from hip_mri.run_files import MANIFEST_FILE
from hip_mri.workspace import Workspace

NUM_EXAMPLES = 6
"""Example images of each side in the picture."""


@dataclass(frozen=True)
class BatchCheck:
    """Result of the check.

    Attributes:
        report: The tests.
        picture_file: PNG with the statistics that differ most, and example images.
        notices: Texts that every output shows.
        is_accepted: Whether a challenger whose retraining has not ended was trained with all of these images.
    """

    report: DriftReport
    picture_file: Path
    notices: tuple[str, ...] = ()
    is_accepted: bool = False


def check_batch(
    workspace: Workspace, features: FeatureSet, settings: DriftSettings, seed: int, num_threads: int
) -> BatchCheck | None:
    """Compare new images with the training images of the latest version or run.

    Images of a challenger whose retraining has not ended were checked before; they are left out unless all are its own.

    Args:
        workspace: Its manifest is split, and the features of all images are stored; the picture is written there.
        features: The set that the features belong to.
        settings: What counts as a shift.
        seed: Start of every random choice.
        num_threads: Threads that decode images.

    Returns:
        The result; `None` where there is neither a version nor a run before, or no new image.
    """
    from hip_mri.evaluation.charts.style import save_figure  # noqa: PLC0415 - see below
    from hip_mri.monitoring.drift_chart import ChartBatch, draw_drift  # noqa: PLC0415 - loads matplotlib, half a second

    reference = find_reference(workspace)
    known = list_images(reference and reference.folder)
    images = select_ready(read_manifest(workspace.manifest_file))
    training = images[images["sha256"].isin(known.loc[known["split"] == "train", "sha256"])]
    unused = select_unused(images, workspace)
    new = select_new(images, workspace) if unused.empty else unused
    if reference is None or training.empty or new.empty:
        return None
    batches, charted = [], []
    for side in (training, new):
        rows = side.sort_values("image_id", ignore_index=True)
        chosen = rows.iloc[sample_one_per_group(pd.factorize(rows["group"])[0], seed)]
        statistics = describe_stored_images(list(chosen["sha256"]), workspace, num_threads)
        stored = features.open_store(workspace).select(chosen["sha256"], mirrored=False)
        batches.append(Batch(statistics, stored, pd.factorize(chosen["group"])[0]))
        examples = [read_stored_image(sha256, workspace) for sha256 in chosen["sha256"].head(NUM_EXAMPLES)]
        charted.append(ChartBatch(statistics, examples))
    report = replace(
        detect_drift(batches[0], batches[1], settings, seed),  # which knows the sampled images only
        num_images=len(new),
        num_groups=new["group"].nunique(),
        num_reference_images=len(training),
        num_reference_groups=training["group"].nunique(),
    )
    of_new = collect_notices(is_synthetic=bool(new["delivery"].str.startswith(SYNTHETIC).any()), weights_notice="")
    notices = tuple(dict.fromkeys((*reference.read_notices(), *of_new)))
    key = digest_file(reference.folder / MANIFEST_FILE), notices, sorted(new["sha256"])
    figure = draw_drift(report.shifts, charted[0], charted[1], summarize_notices(notices))
    picture_file = save_figure(figure, workspace.drift_folder / f"{digest(key)[:16]}.png")
    return BatchCheck(report, picture_file, notices, is_accepted=unused.empty)


def refuse_batch(workspace: Workspace) -> int:
    """Quarantine the new images that no challenger was trained with; returns their number."""
    images = select_ready(read_manifest(workspace.manifest_file))
    unused = set(select_unused(images, workspace)["sha256"])
    quarantine_images(unused, workspace)
    return len(unused)
