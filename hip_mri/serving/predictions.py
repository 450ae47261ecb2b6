"""Scores new images and publishes the scores as a table and an HTML sheet, with the file names in a separate file."""

import logging
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hip_mri.config import LABELS, SheetSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.preprocessing import read_images
from hip_mri.disk_errors import explain_write_errors
from hip_mri.errors import WorkspaceError
from hip_mri.evaluation.charts.captions import SYNTHETIC_NOTICE
from hip_mri.evaluation.conformal import UNCERTAIN
from hip_mri.evaluation.explain import explain_images
from hip_mri.models.scoring import SplitNetwork
from hip_mri.run_files import PREDICTIONS_FILE
from hip_mri.serving.examinations import tabulate_examinations
from hip_mri.serving.known_images import count_known, describe_known
from hip_mri.serving.prediction_inputs import InputReport
from hip_mri.serving.prediction_names import NAMES_FILE
from hip_mri.serving.prediction_sheet import PredictionSheet, encode_overlay, encode_thumbnail, write_sheet
from hip_mri.serving.scorer import Scorer, load_scorer
from hip_mri.serving.served_model import ServedModel
from hip_mri.storage import find_next_folder, publish_folder, write_bytes, write_json
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

SCORE_COLUMNS: Final = (
    "image_id",  # first 16 digits of the SHA-256; `names.csv` has the file name
    "sha256",  # of the pixels of the image; unreadable: of the file, or empty where its bytes could not be read
    "state",  # `scored` or `unreadable`
    "reason",  # why it is unreadable, or empty
    "score",  # probability of a lesion by the model, 0-1
    "label",  # `osseous_lesion` at or above the threshold, else `normal`
    "threshold",  # of the model, chosen on validation images
    "distance",  # from the training images, 0-2; empty where the model's run did not measure it
    "is_outside",  # whether the distance is above the model's limit, so that score and label are unreliable
    "known_split",  # `train`, `val` or `test` if the image trained, validated or tested the model; see `known_images`
    "model",  # name of the version or the run
    "model_sha256",  # of its file
    "decision",  # `normal`, `osseous_lesion` or `uncertain`; empty where the model's run could not calibrate it
    "examination",  # smallest image id of the patient's or study's files; empty where neither is known
)
"""Columns of `predictions.csv`, one row per different image."""


def score_images(workspace: Workspace, scorer: Scorer) -> pd.DataFrame:
    """Score a batch whose features are stored.

    Returns:
        The columns of `SCORE_COLUMNS`, one row per different image, sorted by image id.

    Raises:
        EvaluationError: A score is not a number.
    """
    manifest = read_manifest(workspace.manifest_file)
    images = select_ready(manifest)
    views = scorer.network.features.open_views(workspace, images["sha256"])
    scores = scorer.score(images["sha256"], views).astype({"is_outside": object})
    scored = images[["image_id", "sha256", "patient"]].assign(state="scored").join(scores)
    unreadable = manifest.loc[manifest["state"] == "quarantined", ["image_id", "sha256", "reason", "patient"]]
    table = pd.concat([scored, unreadable.assign(state="unreadable")]).rename(columns={"patient": "examination"})
    model = scorer.model
    texts = {"reason": "", "known_split": "", "decision": ""}
    table = table.assign(model=model.name, model_sha256=model.network.sha256).fillna(texts)
    return table.sort_values("image_id", ignore_index=True).loc[:, list(SCORE_COLUMNS)]


def publish_predictions(
    workspace: Workspace,
    model: ServedModel,
    network: SplitNetwork,
    inputs: InputReport,
    settings: SheetSettings,
    *,
    is_synthetic: bool,
    keep_images: bool = False,
) -> PredictionSheet:
    """Score a batch and publish the results, completely or not at all.

    Args:
        workspace: The results get the next number in its `predictions`; the batch is in its `serving` part.
        model: The model.
        network: Its network in two parts; the features are stored.
        inputs: Counts of the files of the source.
        settings: What the sheet shows.
        is_synthetic: Whether the images are synthetic.
        keep_images: Whether the images, and a source that was fetched, stay in the `serving` part. They show patients;
            without them a later run with the same source reads it again.

    Returns:
        The content of the sheet. Its folder has `predictions.csv`, `examinations.csv` where patients or studies are
        known, `sheet.html`, `summary.json`, `explanations/` and, readable by its owner only, `names.csv`.
    """
    folder = find_next_folder(workspace.predictions_folder)
    scorer = load_scorer(model, network)
    table = score_images(workspace.serving, scorer)
    examinations = tabulate_examinations(table, model.patients)
    facts = _describe(table, examinations, scorer, inputs, is_synthetic=is_synthetic)
    with publish_folder(folder) as fresh:
        table.to_csv(fresh / PREDICTIONS_FILE, index=False)
        if len(examinations):
            examinations.to_csv(fresh / "examinations.csv", index=False)
        write_bytes(fresh / NAMES_FILE, _read_names(workspace.serving), is_private=True)
        write_json(fresh / "summary.json", {"predictions": folder.name, **facts})
        thumbnails = _draw_thumbnails(table, workspace.serving, network, settings, fresh / "explanations")
        sheet = PredictionSheet(folder, facts, table, examinations, thumbnails)
        write_sheet(fresh / "sheet.html", sheet)
    workspace.serving.batch_names_file.unlink(missing_ok=True)  # published with the predictions
    if not keep_images:
        _remove_images(workspace.serving)
    counts = facts["counts"]
    logger.info(
        "Scored %d images: %d called osseous lesion, %d uncertain, %d outside the training distribution, %d files "
        "unreadable; %d examinations",
        *(counts[name] for name in ("num_images", "num_lesion", "num_uncertain", "num_outside", "num_unreadable")),
        len(examinations),
    )
    if notice := describe_known(facts["known"], inputs.num_images):
        logger.warning(notice)
    return sheet


def _remove_images(serving: Workspace) -> None:
    """Remove the images of the batch; its features stay, so that scoring it again is fast."""
    for folder in (serving.preprocessed_folder, serving.sources_folder, serving.explanations_folder):
        if folder.exists():
            with explain_write_errors(folder):
                shutil.rmtree(folder)


def _describe(
    table: pd.DataFrame, examinations: pd.DataFrame, scorer: Scorer, inputs: InputReport, *, is_synthetic: bool
) -> dict[str, Any]:
    """Return the content of `summary.json`."""
    model, features, novelty = scorer.model, scorer.network.features, scorer.novelty
    known = count_known(table["known_split"])
    about_images = [describe_known(known, inputs.num_images), SYNTHETIC_NOTICE if is_synthetic else ""]
    clinical, *of_training = scorer.notices
    reasons = table.loc[table["state"] == "unreadable", "reason"].value_counts()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "notices": [clinical, *filter(None, about_images), *of_training],
        "model": {"name": model.name, "sha256": model.network.sha256, "threshold": model.threshold},
        "features": asdict(features.choice),
        "preprocessing": features.preprocessing.model_dump(),
        "novelty": novelty
        and {
            "limit": novelty.limit,
            "outside_fraction": novelty.expected_fraction,
            "num_training": novelty.num_training,
            "num_validation": novelty.num_validation,
        },
        "decisions": asdict(model.conformal),
        "examinations": {
            "num_examinations": len(examinations),
            "num_images_without": int(((table["examination"] == "") & (table["state"] == "scored")).sum()),
            "rule": model.patients and asdict(model.patients),
        },
        "known": known,
        "counts": asdict(inputs)
        | {
            "num_lesion": int((table["label"] == LABELS[1]).sum()),
            "num_normal": int((table["label"] == LABELS[0]).sum()),
            "num_uncertain": int((table["decision"] == UNCERTAIN).sum()),
            "num_outside": int(table["is_outside"].eq(True).sum()),
        },
        "reasons": {str(reason): int(count) for reason, count in reasons.items()},
    }


def _read_names(workspace: Workspace) -> bytes:
    """Read the table of file names, as `ingest_inputs` wrote it."""
    try:
        return workspace.batch_names_file.read_bytes()
    except OSError as error:
        raise WorkspaceError(
            f"{workspace.batch_names_file} cannot be read ({error.strerror}). Start again: the images are read again."
        ) from error


def _draw_thumbnails(
    table: pd.DataFrame, workspace: Workspace, network: SplitNetwork, settings: SheetSettings, explanations: Path
) -> dict[str, tuple[bytes, bytes | None]]:
    """Draw the images with the highest scores, the first of them also with a heat map; see `PredictionSheet`."""
    shown = table[table["state"] == "scored"].sort_values(["score", "image_id"], ascending=[False, True])
    shown = shown.head(settings.max_shown)
    images = read_images(list(shown["sha256"]), workspace, network.features.preprocessing, num_threads=-1)
    overlays: list[bytes | None] = [None] * len(images)
    num_explained = min(settings.max_explained, len(images)) if settings.explain else 0
    if num_explained:
        heats = explain_images(network, np.stack(images[:num_explained]), workspace.explanations_folder)
        overlays[:num_explained] = map(encode_overlay, images, heats)
        explanations.mkdir()
    for image_id, overlay in zip(shown["image_id"], overlays, strict=True):
        if overlay:
            (explanations / f"{image_id}.jpg").write_bytes(overlay)
    return dict(zip(shown["image_id"], zip(map(encode_thumbnail, images), overlays, strict=True), strict=True))
