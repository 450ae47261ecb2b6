"""Scores for new images: a table, a sheet to look at, and who is who in a file of its own."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS, SheetSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.preprocessing import read_images
from hip_mri.errors import EvaluationError, WorkspaceError
from hip_mri.evaluation.charts.captions import SYNTHETIC_NOTICE
from hip_mri.evaluation.explain import explain_images
from hip_mri.models.network import SplitNetwork
from hip_mri.monitoring.novelty import load_novelty
from hip_mri.serving.prediction_inputs import IntakeReport
from hip_mri.serving.prediction_sheet import Portrait, PredictionSheet, encode_overlay, encode_thumbnail, write_sheet
from hip_mri.serving.served_model import ServedModel
from hip_mri.storage import publish_folder, write_bytes, write_json
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

CLINICAL_NOTICE: Final = (
    "NOT FOR CLINICAL USE: for research only. These scores are no diagnosis, and no one's treatment may rest on them."
)

COLUMNS: Final = (
    "image_id",  # first 16 digits of the SHA-256; `names.csv` says which file it is
    "sha256",  # of the file's bytes; empty where they could not be read
    "state",  # `scored` or `unreadable`
    "reason",  # why it is unreadable, or empty
    "score",  # probability of a lesion, 0-1, as the model sees it
    "label",  # `osseous_lesion` at or above the threshold, else `normal`
    "threshold",  # of the model, chosen on validation images
    "distance",  # from the training images, 0-2; empty where the model's run did not measure it
    "is_outside",  # whether the distance is above the model's limit, so that score and label mean little
    "model",  # name of the version or the run
    "model_sha256",  # of its file
)
"""Columns of `predictions.csv`, one row per different image."""


@dataclass(frozen=True)
class PublishedPredictions:
    """A finished batch.

    Attributes:
        folder: Where everything lies.
        sheet: What the sheet says.
    """

    folder: Path
    sheet: PredictionSheet


def score_images(workspace: Workspace, model: ServedModel, network: SplitNetwork) -> pd.DataFrame:
    """Score a batch whose features are stored.

    Args:
        workspace: Its manifest and features are read.
        model: What scores.
        network: The same, split.

    Returns:
        The columns of `COLUMNS`, one row per different image, sorted by image id.

    Raises:
        EvaluationError: A score is not a number.
    """
    manifest = read_manifest(workspace.manifest_file)
    images = select_ready(manifest)
    scores, distances = _measure(workspace, images["sha256"], model, network)
    limit = load_novelty(model.novelty_file).limit if model.novelty_file else None
    scored = images[["image_id", "sha256"]].assign(
        state="scored",
        score=scores,
        label=np.where(scores >= model.threshold, LABELS[1], LABELS[0]),
        threshold=model.threshold,
        distance=distances,
        is_outside=None if limit is None else distances > limit,
    )
    unreadable = manifest.loc[manifest["state"] == "quarantined", ["image_id", "sha256", "reason"]]
    table = pd.concat([scored.astype({"is_outside": object}), unreadable.assign(state="unreadable")])
    table = table.assign(model=model.name, model_sha256=model.network.sha256).fillna({"reason": ""})
    return table.sort_values("image_id", ignore_index=True).loc[:, list(COLUMNS)]


def _measure(
    workspace: Workspace, hashes: pd.Series, model: ServedModel, network: SplitNetwork
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score and distance of each image, block by block; distances are NaN where the model has no measure of them."""
    novelty = load_novelty(model.novelty_file) if model.novelty_file else None
    rows = network.features.open_store(workspace).select(hashes, mirrored=False)
    scores, distances = [], []
    for block, scored in network.score(rows):
        scores.append(scored.astype(np.float64))
        distances.append(novelty.measure(block) if novelty else np.full(len(block), np.nan))
    num_bad = int((~np.isfinite(np.concatenate(scores))).sum())
    if num_bad:
        raise EvaluationError(f"scores: {num_bad} of {len(rows)} are not a number. Give another model.")
    return np.concatenate(scores), np.concatenate(distances)


def publish_predictions(
    workspace: Workspace,
    model: ServedModel,
    network: SplitNetwork,
    intake: IntakeReport,
    settings: SheetSettings,
    *,
    is_synthetic: bool,
) -> PublishedPredictions:
    """Score a batch and write everything there is to say about it, whole or not at all.

    Args:
        workspace: The results get the next number among its `predictions`; the batch lies in its `serving` part.
        model: What scores.
        network: The same, split; its features are stored.
        intake: What came of the files of the source.
        settings: What the sheet shows.
        is_synthetic: Whether the images are synthetic.

    Returns:
        The folder: `predictions.csv`, `sheet.html`, `summary.json`, `explanations/` and, for the owner's eyes alone,
        `names.csv`.
    """
    folder = workspace.predictions_folder / f"{workspace.next_prediction_number():04d}"
    table = score_images(workspace.serving, model, network)
    facts = _describe(table, model, network, intake, is_synthetic=is_synthetic)
    with publish_folder(folder) as fresh:
        table.to_csv(fresh / "predictions.csv", index=False)
        write_bytes(fresh / "names.csv", _read_names(workspace.serving), is_private=True)
        write_json(fresh / "summary.json", {"predictions": folder.name, **facts})
        portraits = _draw_portraits(table, workspace.serving, network, settings, fresh / "explanations")
        sheet = PredictionSheet(folder.name, facts, table, portraits)
        write_sheet(fresh / "sheet.html", sheet)
    workspace.serving.batch_names_file.unlink(missing_ok=True)  # they stand with the predictions now, and once
    counts = facts["counts"]
    logger.info(
        "Scored %d images: %d called osseous lesion, %d outside what the model knows, %d files unreadable",
        *(counts[name] for name in ("num_images", "num_lesion", "num_outside", "num_unreadable")),
    )
    return PublishedPredictions(folder, sheet)


def _describe(
    table: pd.DataFrame, model: ServedModel, network: SplitNetwork, intake: IntakeReport, *, is_synthetic: bool
) -> dict[str, Any]:
    """What `summary.json` holds: counts, and what they rest on."""
    novelty = load_novelty(model.novelty_file) if model.novelty_file else None
    synthetic = [SYNTHETIC_NOTICE] if is_synthetic else []
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "notices": [CLINICAL_NOTICE, *synthetic, *(_attribute(notice) for notice in model.notices)],
        "model": {"name": model.name, "sha256": model.network.sha256, "threshold": model.threshold},
        "features": asdict(network.features.choice),
        "preprocessing": network.features.preprocessing.model_dump(),
        "novelty": novelty
        and {
            "limit": novelty.limit,
            "outside_fraction": novelty.expected_fraction,
            "num_training": novelty.num_training,
            "num_validation": novelty.num_validation,
        },
        "counts": asdict(intake)
        | {
            "num_lesion": int((table["label"] == LABELS[1]).sum()),
            "num_normal": int((table["label"] == LABELS[0]).sum()),
            "num_outside": int(table["is_outside"].eq(True).sum()),
        },
        "reasons": _count_reasons(table),
    }


def _attribute(notice: str) -> str:
    """Make a notice of the run that trained the model one about that run."""
    heading, colon, text = notice.partition(":")
    return f"{heading}, IN THE RUN THAT TRAINED THE MODEL{colon}{text}"


def _count_reasons(table: pd.DataFrame) -> Mapping[str, int]:
    reasons = table.loc[table["state"] == "unreadable", "reason"].value_counts()
    return {str(reason): int(count) for reason, count in reasons.items()}


def _read_names(workspace: Workspace) -> bytes:
    """Which file each image is, as it was written when they were taken in; names can identify patients."""
    try:
        return workspace.batch_names_file.read_bytes()
    except OSError as error:
        raise WorkspaceError(
            f"{workspace.batch_names_file} cannot be read ({error.strerror}). Start again: the images are "
            "taken in anew."
        ) from error


def _draw_portraits(
    table: pd.DataFrame, workspace: Workspace, network: SplitNetwork, settings: SheetSettings, explanations: Path
) -> tuple[Portrait, ...]:
    """Picture the images with the highest scores, and explain the first of them."""
    shown = table[table["state"] == "scored"].sort_values(["score", "image_id"], ascending=[False, True])
    shown = shown.head(settings.max_shown)
    images = read_images(list(shown["sha256"]), workspace, network.features.preprocessing, num_threads=-1)
    portraits = [
        Portrait(image_id, encode_thumbnail(image)) for image_id, image in zip(shown["image_id"], images, strict=True)
    ]
    num_explained = min(settings.max_explained, len(images)) if settings.explain else 0
    if num_explained:
        heats = explain_images(network, np.stack(images[:num_explained]), workspace.explanations_folder)
        explanations.mkdir()
        for place, (image, heat) in enumerate(zip(images[:num_explained], heats, strict=True)):
            overlay = encode_overlay(image, heat)
            (explanations / f"{portraits[place].image_id}.jpg").write_bytes(overlay)
            portraits[place] = replace(portraits[place], overlay=overlay)
    return tuple(portraits)
