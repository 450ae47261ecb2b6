"""Whether the images that have come look like those of training, asked before they change a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from hip_mri.config import DriftSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.preprocessing import read_stored_image
from hip_mri.dataset.quarantine import quarantine_images
from hip_mri.models.features import FeatureSet
from hip_mri.monitoring.drift import Batch, DriftReport, detect_drift
from hip_mri.monitoring.shift import describe_stored_images, sample_one_per_group
from hip_mri.promotion.new_images import find_latest, list_known
from hip_mri.storage import digest
from hip_mri.workspace import Workspace

if TYPE_CHECKING:
    from hip_mri.monitoring.drift_chart import ChartBatch

NUM_EXAMPLES = 6
"""Images of each side in the picture."""


@dataclass(frozen=True)
class BatchCheck:
    """What became of the check.

    Attributes:
        report: The tests.
        picture_file: Statistics that differ most, and examples.
    """

    report: DriftReport
    picture_file: Path


def check_batch(
    workspace: Workspace, features: FeatureSet, settings: DriftSettings, seed: int, num_threads: int
) -> BatchCheck | None:
    """Compare the images that the latest version did not know with those that it was trained on.

    Args:
        workspace: Its manifest is split, and the features of all images are stored; the picture is written there.
        features: The set that the features belong to.
        settings: What counts as a shift.
        seed: Start of every random choice.
        num_threads: Threads that decode images.

    Returns:
        The outcome; `None` where there is no version, or nothing new.
    """
    from hip_mri.evaluation.charts.style import save_figure  # noqa: PLC0415 - see above
    from hip_mri.monitoring.drift_chart import draw_drift  # noqa: PLC0415 - loads matplotlib, half a second

    latest = find_latest(workspace)
    known = list_known(latest)
    images = select_ready(read_manifest(workspace.manifest_file))
    training = images[images["sha256"].isin(known.loc[known["split"] == "train", "sha256"])]
    new = images[~images["sha256"].isin(known["sha256"])]
    if latest is None or training.empty or new.empty:
        return None
    sides = [_choose(rows, seed) for rows in (training, new)]
    batches = [_describe(rows, workspace, features, num_threads) for rows in sides]
    report = detect_drift(batches[0], batches[1], settings, seed)
    file = workspace.drift_folder / f"{digest([latest.model_sha256, sorted(new['sha256'])])[:16]}.png"
    looks = [_look(rows, batch, workspace) for rows, batch in zip(sides, batches, strict=True)]
    return BatchCheck(report, save_figure(draw_drift(report.shifts, looks[0], looks[1]), file))


def refuse_batch(workspace: Workspace) -> int:
    """Take the images that the latest version did not know out of use; returns their number."""
    images = select_ready(read_manifest(workspace.manifest_file))
    new = set(images["sha256"]) - set(list_known(find_latest(workspace))["sha256"])
    quarantine_images(new, workspace)
    return len(new)


def _choose(images: pd.DataFrame, seed: int) -> pd.DataFrame:
    """One image of each group, of many groups some."""
    images = images.sort_values("image_id", ignore_index=True)
    return images.iloc[sample_one_per_group(pd.factorize(images["group"])[0], seed)]


def _describe(images: pd.DataFrame, workspace: Workspace, features: FeatureSet, num_threads: int) -> Batch:
    return Batch(
        statistics=describe_stored_images(list(images["sha256"]), workspace, num_threads),
        features=features.open_store(workspace).select(images["sha256"], mirrored=False),
        groups=pd.factorize(images["group"])[0],
    )


def _look(images: pd.DataFrame, batch: Batch, workspace: Workspace) -> "ChartBatch":
    from hip_mri.monitoring.drift_chart import ChartBatch  # noqa: PLC0415 - loads matplotlib, half a second

    shown = images["sha256"].head(NUM_EXAMPLES)
    return ChartBatch(batch.statistics, [read_stored_image(sha256, workspace) for sha256 in shown])
