"""Evaluates a trained model and publishes the run folder atomically."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import pandas as pd
import yaml

from hip_mri.config import LABELS, TrainingConfig
from hip_mri.dataset.ingest import IngestReport
from hip_mri.dataset.manifest import read_manifest
from hip_mri.dataset.split_registry import HELD_OUT, lock_test_set
from hip_mri.evaluation.audits.shortcuts import DECISIVE
from hip_mri.evaluation.charts.captions import collect_notices, explain_pretraining, summarize_notices
from hip_mri.evaluation.charts.figures import FigureData, draw_figures
from hip_mri.evaluation.corrections import (
    count_excluded_test_images,
    describe_corrections,
    summarize_corrections,
)
from hip_mri.evaluation.environment import find_commit, list_versions
from hip_mri.evaluation.explain import explain_images
from hip_mri.evaluation.figure_data import RunImages, collect_figure_data
from hip_mri.evaluation.metrics.results import Scores, evaluate
from hip_mri.evaluation.report.documents import write_documents
from hip_mri.evaluation.report.run_report import RunReport
from hip_mri.evaluation.report.settings import withhold_names
from hip_mri.evaluation.review.page import write_review
from hip_mri.evaluation.run_tables import describe_manifest, read_borders, read_scores, read_table, write_decisions
from hip_mri.grouping.groups import GroupReport
from hip_mri.grouping.patients_draft import list_doubtful_borders, write_patients_draft
from hip_mri.grouping.split import SplitReport
from hip_mri.hashes import digest_file, record_hashes
from hip_mri.models.backbones.weights import Weights
from hip_mri.models.features import FeatureSet
from hip_mri.models.keras_settings import count_network_threads, describe_keras
from hip_mri.models.network import TrainedModel
from hip_mri.run_files import (
    BORDERS_FILE,
    CONFIG_FILE,
    CORRECTIONS_FILE,
    DISTANCES_FILE,
    FIGURES_FOLDER,
    HISTORY_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    MODEL_FILE,
    PATIENTS_DRAFT_FILE,
    PREDICTIONS_FILE,
    REVIEW_FILE,
)
from hip_mri.storage import find_next_folder, link_or_copy, publish_folder, write_json
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

INCOMPLETE: Final = (
    "TEST SET INCOMPLETE: {} of the {} images of the locked test set are no longer in the source, so the results "
    "cannot be compared with those of earlier runs."
)
"""Notice of a run whose source has lost test images."""

LEAKS: Final = (
    "LEAKAGE: images that probably show the same patients are in different groups, and so in both training and test. "
    "The metrics are too optimistic. Provide a table of patients."
)
"""Notice of a run whose leakage test is positive."""

SHORTCUT: Final = (
    "POSSIBLE SHORTCUT: size, file and margin of the images, which show no lesion, separate the classes with an AUC of "
    "{:.3f}; the network is not shown to do better. Find out how the classes differ before you trust the metrics."
)
"""Notice of a run whose shortcut test is positive."""


@dataclass(frozen=True)
class RunFacts:
    """Results of the earlier steps.

    Attributes:
        ingest: Counts of the entries of the source.
        trained: The whole network, its epochs, and the score of every image.
        tables: Stored results of cross-validation and of the audits, by their name in the run folder (see
            `hip_mri.run_files`); `None` for one that was left out.
        measure_seconds: Returns the wall time of each step, of the current one so far.
        flow_run_id: Id of the Prefect flow run; `None` without one.
    """

    config: TrainingConfig
    weights: Weights
    ingest: IngestReport
    groups: GroupReport
    split: SplitReport
    features: FeatureSet
    trained: TrainedModel
    tables: Mapping[str, Path | None]
    measure_seconds: Callable[[], Mapping[str, float]]
    flow_run_id: str | None = None

    @property
    def notices(self) -> tuple[str, ...]:
        """Warnings that every output shows."""
        return collect_notices(
            is_synthetic=self.ingest.is_synthetic,
            weights_notice=self.weights.notice,
            scaling_notice=self.features.backbone.notice,
            pretraining_notice=explain_pretraining(self.config.model.pretrained_on, self.config.data.collection),
            num_held_out=self.split.num_held_out,
        )


def publish_run(workspace: Workspace, facts: RunFacts) -> RunReport:
    """Evaluate a trained model and write its run folder; the first run locks the test set.

    Args:
        workspace: The run gets the next number among its `runs`.
        facts: Results of the earlier steps.

    Returns:
        Facts of the run. Its folder has the files of `hip_mri.run_files`, the list of quarantined files, and hashes.

    Raises:
        EvaluationError: The scores cannot be evaluated.
    """
    config, folder = facts.config, find_next_folder(workspace.runs_folder)
    test_set = lock_test_set(workspace)
    explain = partial(explain_images, facts.trained.parts, cache_folder=workspace.explanations_folder)
    with publish_folder(folder) as fresh:
        _copy_files(facts, workspace, fresh)
        settings = withhold_names(config.model_dump(mode="json"))
        (fresh / CONFIG_FILE).write_text(yaml.safe_dump(settings, sort_keys=False))
        scores = read_scores(fresh, workspace, facts.groups.attributes)
        metrics = evaluate(scores, config.evaluation, config.seed)
        metrics |= _collect_records(facts, fresh, test_set, _list_warnings(metrics))
        write_json(fresh / METRICS_FILE, metrics)
        write_decisions(fresh / PREDICTIONS_FILE, metrics)
        history = pd.read_csv(fresh / HISTORY_FILE)
        images = RunImages(read_table(fresh / MANIFEST_FILE), workspace, config.preprocessing)
        num_resamples = config.evaluation.num_resamples
        borders = read_borders(fresh)
        figure_data = collect_figure_data(
            scores, metrics, history, images, explain, config.seed, num_resamples, borders
        )
        figures = draw_figures(figure_data, fresh / FIGURES_FOLDER, summarize_notices(metrics["notices"]))
        report = RunReport(metrics, config.model_dump(mode="json"), folder, tuple(figures))
        write_documents(fresh, report)
        _write_review(fresh, report, scores, images, figure_data, config.runner.count_threads())
        record_hashes(fresh)
    _log_result(folder, metrics)
    return replace(report, figures=tuple(folder / FIGURES_FOLDER / file.name for file in figures))


def _write_review(
    folder: Path, report: RunReport, scores: Scores, images: RunImages, figure_data: FigureData, num_threads: int
) -> None:
    file = folder / DISTANCES_FILE
    distances = read_table(file) if file.exists() else None
    write_review(folder / REVIEW_FILE, report, scores, distances, images, figure_data.explained, num_threads)


def _copy_files(facts: RunFacts, workspace: Workspace, folder: Path) -> None:
    link_or_copy(facts.trained.model_file, folder / MODEL_FILE)
    copied = {
        HISTORY_FILE: facts.trained.history_file,
        PREDICTIONS_FILE: facts.trained.predictions_file,
        workspace.quarantine_file.name: workspace.quarantine_file,
        **facts.tables,
    }
    for name, file in copied.items():
        if file is not None:
            shutil.copyfile(file, folder / name)
    describe_manifest(read_manifest(workspace.manifest_file)).to_csv(folder / MANIFEST_FILE, index=False)
    if facts.ingest.corrections is not None:
        describe_corrections(workspace).to_csv(folder / CORRECTIONS_FILE, index=False)
    if facts.groups.inferred is not None:
        list_doubtful_borders(workspace).to_csv(folder / BORDERS_FILE, index=False)
        write_patients_draft(folder / PATIENTS_DRAFT_FILE, workspace)


def _list_warnings(metrics: Mapping[str, Any]) -> list[str]:
    """List the notices that follow from the metrics."""
    shortcuts = metrics["shortcuts"]
    warnings = [LEAKS] if metrics["leakage"]["leaks"] else []
    if shortcuts is not None and shortcuts["is_explained"]:
        warnings.append(SHORTCUT.format(shortcuts["combinations"][DECISIVE]["auc"]))
    return warnings


def _collect_records(
    facts: RunFacts, folder: Path, test_set: Mapping[str, Any], warnings: Sequence[str]
) -> dict[str, Any]:
    """Collect the content of `metrics.json` that is not computed from scores."""
    manifest = read_table(folder / MANIFEST_FILE)
    groups = manifest.loc[manifest["state"] == "ready", "group"].value_counts()
    corrections = _summarize_corrections(facts, folder)
    num_excluded = count_excluded_test_images(corrections)
    num_missing = test_set["num_images"] - num_excluded - int((manifest["split"] == "test").sum())
    return {
        "weights": facts.weights.name,
        "notices": [
            *warnings,
            *facts.notices,
            *([INCOMPLETE.format(num_missing, test_set["num_images"])] if num_missing else []),
        ],
        "data": _count_data(facts, manifest),
        "grouping": {
            **asdict(facts.groups),
            "is_patient_level": facts.groups.is_patient_level,
            "num_groups": len(groups),
            "largest_group": int(groups.max()),
        },
        "corrections": corrections,
        "test_set": {**test_set, "num_missing": num_missing, "num_excluded": num_excluded},
        "features": dict(facts.features.describe()),
        "keras": {**describe_keras(), "num_threads": count_network_threads()},
        "seconds": dict(facts.measure_seconds()),
        "versions": list_versions(),
        "environment": {
            "commit": find_commit(),
            "flow_run_id": facts.flow_run_id,
            "model_sha256": digest_file(folder / MODEL_FILE),
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _summarize_corrections(facts: RunFacts, folder: Path) -> dict[str, Any] | None:
    """Hash and counts of the table of corrections; `None` without one."""
    if facts.ingest.corrections is None:
        return None
    return {**asdict(facts.ingest.corrections), **summarize_corrections(read_table(folder / CORRECTIONS_FILE))}


def _count_data(facts: RunFacts, manifest: pd.DataFrame) -> dict[str, Any]:
    """Count every entry of the source."""
    states = manifest["state"].value_counts()
    held_out = manifest[manifest["state"] == HELD_OUT]
    reasons = manifest.loc[manifest["state"] == "quarantined", "reason"].value_counts()
    return {
        "num_entries": len(manifest) + facts.ingest.num_ignored,
        "num_images": int(states.get("ready", 0)),
        "num_held_out": len(held_out),
        "num_held_out_lesions": int((held_out["label"] == LABELS[1]).sum()),
        "num_duplicates": int(states.get("duplicate", 0)),
        "num_quarantined": int(states.get("quarantined", 0)),
        "num_ignored": facts.ingest.num_ignored,
        "num_taken_over": facts.ingest.num_taken_over,
        "quarantined": {str(reason): int(count) for reason, count in reasons.items()},
        "splits": facts.split.counts,
        "largest_deviation": facts.split.largest_deviation,
        "num_kept": facts.split.num_kept,
        "num_prescribed": facts.split.num_prescribed,
        "num_assigned": facts.split.num_assigned,
        "given_split": {
            "by": facts.groups.given_split_by,
            "tables": dict(facts.groups.split_tables),
            "num_given_twice": facts.groups.num_given_twice,
            **asdict(facts.split.given),
        },
    }


def _log_result(folder: Path, metrics: Mapping[str, Any]) -> None:
    test = metrics["test"]
    limits = test["intervals"]["auc"]
    interval = f" (95% interval {limits[0]:.3f} to {limits[1]:.3f})" if limits else ""
    logger.info("Run %s: test AUC %.3f%s on %d images", folder.name, test["auc"], interval, test["num_images"])
    for notice in metrics["notices"]:
        logger.warning("%s", notice)
