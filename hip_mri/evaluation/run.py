"""The run folder: everything a run has to show for itself, published whole or not at all."""

import logging
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pandas as pd
import yaml

from hip_mri.config import LABELS, SPLITS, PipelineConfig
from hip_mri.data.fetch import strip_secrets
from hip_mri.data.images import decode_gray
from hip_mri.data.ingest import IngestReport
from hip_mri.data.manifest import read_manifest, select_ready
from hip_mri.data.preprocess import read_stored_image
from hip_mri.data.reading import read_images
from hip_mri.evaluation.charts.sheets import ContrastSample
from hip_mri.evaluation.figures import draw_figures
from hip_mri.evaluation.metrics import evaluate_predictions
from hip_mri.evaluation.report import write_report
from hip_mri.evaluation.summary import ReportSummary
from hip_mri.evaluation.wording import summarize_notices
from hip_mri.workspace import Workspace, link_or_copy, publish_folder, write_json

logger = logging.getLogger(__name__)

SAMPLES_PER_CLASS: Final = 3
"""Images on the sheet that shows the contrast before and after."""

PACKAGES: Final = ("hip-mri", "keras", "tensorflow", "openvino", "opencv-python-headless", "scikit-learn", "prefect")
"""Packages whose versions a reader needs to repeat a run."""


@dataclass(frozen=True)
class RunFacts:
    """What the earlier steps have to say in the report.

    Attributes:
        config: Every setting.
        weights: `imagenet`, `random`, or the SHA-256 of the user's file.
        notices: What every output must say.
        intake: Counts of the source's entries.
        counts: Images by split and label.
        features: Engine, precision and why, by name.
        seconds: Wall time by step.
    """

    config: PipelineConfig
    weights: str
    notices: tuple[str, ...]
    intake: IngestReport
    counts: Mapping[str, Mapping[str, int]]
    features: Mapping[str, Any]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class PublishedRun:
    """A finished run.

    Attributes:
        folder: Where everything lies.
        summary: What the report says; its figures lie in the folder.
    """

    folder: Path
    summary: ReportSummary


def publish_run(
    workspace: Workspace, facts: RunFacts, model_file: Path, history_file: Path, predictions_file: Path
) -> PublishedRun:
    """Evaluate a trained model and write its run folder.

    Args:
        workspace: The run gets the next number among its `runs`.
        facts: What the earlier steps found.
        model_file: The whole network.
        history_file: CSV with one row per epoch.
        predictions_file: CSV with image_id, split, label and score of every image.

    Returns:
        The run folder, with `metrics.json`, `predictions.csv`, `model.keras`, `history.csv`, `config.yaml`,
        `quarantine.csv`, `figures/` and `report.html`.

    Raises:
        EvaluationError: The scores cannot be evaluated.
    """
    predictions = pd.read_csv(predictions_file, dtype={"image_id": "str"})
    history = pd.read_csv(history_file)
    folder = workspace.runs_folder / f"{workspace.next_run_number():04d}"
    with publish_folder(folder) as fresh:
        samples, threshold = _pick_samples(workspace, facts.config), facts.config.evaluation.threshold
        notice = summarize_notices(facts.notices)
        figures = draw_figures(predictions, history, samples, threshold, fresh / "figures", notice)
        metrics = _collect_metrics(predictions, facts)
        write_json(fresh / "metrics.json", metrics)
        settings = facts.config.model_dump(mode="json")
        settings["source"] = settings["source"] and strip_secrets(settings["source"])
        (fresh / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        for file in (predictions_file, history_file, workspace.quarantine_file):
            shutil.copyfile(file, fresh / file.name)
        link_or_copy(model_file, fresh / "model.keras")
        summary = _summarize(folder.name, workspace, facts, metrics, tuple(figures))
        write_report(fresh / "report.html", summary)
    test = metrics["test"]
    logger.info("Run %s: test AUC %.3f on %d images", folder.name, test["auc"], test["num_images"])
    for notice in facts.notices:
        logger.warning("%s", notice)
    return PublishedRun(folder, replace(summary, figures=tuple(folder / "figures" / file.name for file in figures)))


def _summarize(
    name: str, workspace: Workspace, facts: RunFacts, metrics: dict[str, Any], figures: tuple[Path, ...]
) -> ReportSummary:
    return ReportSummary(
        title="Hip MRI: normal or osseous lesion",
        run_name=name,
        created=metrics["created"],
        threshold=metrics["threshold"],
        metrics={split: metrics[split] for split in SPLITS if split in metrics},
        split_counts=facts.counts,
        ingest=facts.intake,
        quarantine_reasons=_count_reasons(workspace),
        weights=facts.weights,
        engine=f"{facts.features['engine']}, {facts.features['precision']}",
        engine_reason=facts.features["reason"],
        settings=_flatten(facts.config.model_dump(mode="json")),
        seconds=facts.seconds,
        versions=metrics["versions"],
        figures=figures,
        notices=facts.notices,
        report_location=f"{workspace.runs_folder.name}/{name}/report.html",
    )


def _count_reasons(workspace: Workspace) -> dict[str, int]:
    return {
        str(reason): int(count)
        for reason, count in pd.read_csv(workspace.quarantine_file)["reason"].value_counts().items()
    }


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _collect_metrics(predictions: pd.DataFrame, facts: RunFacts) -> dict[str, Any]:
    """What `metrics.json` holds."""
    return {
        **evaluate_predictions(predictions, facts.config.evaluation.threshold),
        "threshold": facts.config.evaluation.threshold,
        "weights": facts.weights,
        "notices": list(facts.notices),
        "data": asdict(facts.intake) | {"splits": facts.counts},
        "features": dict(facts.features),
        "seconds": dict(facts.seconds),
        "versions": {package: version(package) for package in PACKAGES} | {"python": platform.python_version()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _pick_samples(workspace: Workspace, config: PipelineConfig) -> list[ContrastSample]:
    """The first training images of each class by id: a repeatable choice without a preference."""
    ready = select_ready(read_manifest(workspace.manifest_file))
    ready = ready[ready["split"] == "train"]
    rows = pd.concat([ready[ready["label"] == label].head(SAMPLES_PER_CLASS) for label in LABELS])
    after = read_images(list(rows["sha256"]), workspace, config.preprocessing, num_threads=1)
    return [
        ContrastSample(
            image_id=row.image_id,
            label=row.label,
            before=decode_gray(read_stored_image(row.sha256, workspace)),
            after=image,
        )
        for row, image in zip(rows.itertuples(), after, strict=True)
    ]
