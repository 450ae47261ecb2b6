"""Registers a newly trained model as challenger, and compares it with the champion."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from hip_mri.config import ReleaseSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.evaluation.run_tables import read_attributes, read_table
from hip_mri.hashes import digest
from hip_mri.promotion.error_budget import (
    Comparison,
    count_looks_left,
    plan_comparison,
    read_comparisons,
    record_comparison,
)
from hip_mri.promotion.gate import (
    Decision,
    compare_versions,
    judge_first_version,
    measure_test_set,
    refuse_few_groups,
    refuse_small_error,
)
from hip_mri.promotion.requirements import Requirement, measure_requirements
from hip_mri.registry.champion import read_champion, read_history
from hip_mri.registry.registration import register_version
from hip_mri.registry.versions import Version, read_version
from hip_mri.run_files import PREDICTIONS_FILE
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LockedTestSet:
    """The locked test images, as they are labeled at the comparison.

    Attributes:
        num_images: Number of images by label.
        num_groups: Number of groups with such an image, by label.
        is_patient_level: Whether groups are patients: the patient of every image is known.
        num_looks: Number of comparisons on these images, this one included.
        num_looks_left: Number of further comparisons that can promote a model; `None` where they become rarer without
            a last one.
    """

    num_images: Mapping[str, int]
    num_groups: Mapping[str, int]
    is_patient_level: bool
    num_looks: int
    num_looks_left: int | None


@dataclass(frozen=True)
class Challenge:
    """A challenger and the decision of the gate.

    Attributes:
        challenger: The new version.
        champion: The version that it was compared with; `None` before the first champion.
        decision: Decision of the gate.
        measures: Metrics of `challenger` and `champion` on the test images with their present labels, each at its own
            threshold.
        test_set: The test images.
        notices: Texts that every output of the challenger must show.
        is_serving: Whether the challenger is champion already, since the run that promoted it was interrupted.
        comparison: The comparison on the test set; `None` where nothing was compared.
    """

    challenger: Version
    champion: Version | None
    decision: Decision
    measures: Mapping[str, Mapping[str, Any]]
    test_set: LockedTestSet
    notices: tuple[str, ...] = ()
    is_serving: bool = False
    comparison: Comparison | None = None


def challenge_champion(workspace: Workspace, run_folder: Path, settings: ReleaseSettings, min_size: int) -> Challenge:
    """Register a finished run as a version and compare it with the champion on the locked test set.

    Repeated for the same run, it is the same comparison and spends no further error, also after the promotion,
    unless labels of test images were corrected.

    Args:
        workspace: Where the run was made; its versions and ledger are written.
        run_folder: The finished run.
        settings: Rule, error budget and requirements of the gate.
        min_size: Groups with lesions below which a subgroup is not judged.

    Returns:
        The comparison. Nothing is promoted yet.

    Raises:
        ReleaseError: The run was changed.
        EvaluationError: The test images in use, or those that both models scored, are of one class.
    """
    challenger = register_version(workspace, run_folder, is_challenger=True)
    champion = read_champion(workspace)
    is_serving = champion == challenger
    if is_serving:
        champion = _find_replaced(workspace, challenger)
    metrics = challenger.read_metrics()
    scores, champion_scores = read_common_scores(challenger, champion or challenger, workspace)
    threshold, name = metrics["threshold"], metrics["grouping"]["attributes"]
    attributes = None if name is None else read_attributes(scores, workspace, name)
    measured = measure_test_set(scores, threshold)  # again, since labels may have been corrected after the run
    requirements = measure_requirements(scores, measured, settings, attributes, min_size)
    comparison, is_error_too_small = None, False
    if champion is not None and champion.model_sha256 == challenger.model_sha256:
        decision = Decision(promote=False, reasons=("The model is identical to that of the champion.",))
    elif too_few := refuse_few_groups(scores, settings):  # spends no error
        decision = too_few
    elif champion is None:
        decision = judge_first_version(measured, requirements, settings)
    else:
        decision, comparison = _compare(
            workspace, settings, (challenger, champion), (scores, champion_scores), requirements
        )
        is_error_too_small = comparison is None
    measures = {"challenger": measured}
    if champion is not None:
        champion_threshold = champion.read_metrics()["threshold"]
        measures["champion"] = measure_test_set(champion_scores, champion_threshold)
        changes = _describe_changes(challenger, champion, scores)
        decision = replace(decision, reasons=(*changes, *decision.reasons))
    for reason in decision.reasons:
        logger.info("Gate: %s", reason)
    is_patient_level = metrics["grouping"]["is_patient_level"]
    test_set = _describe_test_set(workspace, challenger, scores, settings, is_patient_level=is_patient_level)
    if is_error_too_small:
        test_set = replace(test_set, num_looks_left=0)
    notices = tuple(metrics["notices"])
    return Challenge(challenger, champion, decision, measures, test_set, notices, is_serving, comparison)


def _compare(
    workspace: Workspace,
    settings: ReleaseSettings,
    versions: tuple[Version, Version],
    tables: tuple[pd.DataFrame, pd.DataFrame],
    requirements: tuple[Requirement, ...],
) -> tuple[Decision, Comparison | None]:
    """Compare challenger and champion; the comparison is recorded first, `None` where its error would be too small."""
    (challenger, champion), (scores, champion_scores) = versions, tables
    hashes = challenger.test_set_sha256, champion.model_sha256, challenger.model_sha256
    labels = digest(sorted(zip(scores["image_id"], scores["label"], strict=True)))
    comparison = plan_comparison(workspace, *hashes, settings, labels)
    if refused := refuse_small_error(scores, comparison):
        return refused, None
    record_comparison(workspace, comparison)
    return compare_versions(champion_scores, scores, requirements, settings, comparison), comparison


def _find_replaced(workspace: Workspace, version: Version) -> Version | None:
    """Find which champion a version replaced at its last promotion, which need not be its parent; `None` for none."""
    replaced = [
        former.version
        for former, change in pairwise(read_history(workspace))
        if (change.action, change.version) == ("promotion", version.number)
    ]
    return read_version(workspace, replaced[-1]) if replaced else None


def read_test_scores(version: Version, workspace: Workspace) -> pd.DataFrame:
    """Read a version's scores of its test images, with their labels and groups in the present manifest.

    Returns:
        Columns image_id, sha256, label, score (0-1) and group.
    """
    scores = _read_test_predictions(version)[["image_id", "score"]]
    images = select_ready(read_manifest(workspace.manifest_file))[["image_id", "sha256", "label", "group"]]
    return scores.merge(images, on="image_id", validate="one_to_one")


def read_common_scores(
    challenger: Version, champion: Version, workspace: Workspace
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the scores of the test images that both versions scored and that are in use; see `read_test_scores`.

    An image that corrections exclude counts for neither version, nor one that they excluded when either was tested.
    """
    tables = [read_test_scores(version, workspace) for version in (challenger, champion)]
    common = set(tables[0]["image_id"]) & set(tables[1]["image_id"])
    scores, champion_scores = (table[table["image_id"].isin(common)].reset_index(drop=True) for table in tables)
    return scores, champion_scores


def _describe_changes(challenger: Version, champion: Version, scores: pd.DataFrame) -> tuple[str, ...]:
    """Describe how the locked test set differs from the one that the champion was tested on."""
    before = _read_test_predictions(champion).set_index("image_id")["label"]
    num_relabeled = int((scores["label"] != scores["image_id"].map(before)).sum())
    num_all = len(set(before.index) | set(_read_test_predictions(challenger)["image_id"]))
    changes = []
    if num_relabeled:
        changes.append(
            f"The labels of {num_relabeled} test images were corrected after the champion was tested. Both models are "
            "measured on the present labels; where only errors of one model were reviewed, that model is favored."
        )
    if num_all > len(scores):
        changes.append(
            f"Both models are compared on {len(scores)} of {num_all} test images: the others are excluded or no "
            "longer in the source, or were when one of the models was tested."
        )
    return tuple(changes)


def _read_test_predictions(version: Version) -> pd.DataFrame:
    scores = read_table(version.folder / PREDICTIONS_FILE)
    return scores[scores["split"] == "test"]


def _describe_test_set(
    workspace: Workspace,
    challenger: Version,
    scores: pd.DataFrame,
    settings: ReleaseSettings,
    *,
    is_patient_level: bool,
) -> LockedTestSet:
    by_label = scores.groupby("label")["group"]
    looks = [it for it in read_comparisons(workspace) if it.test_set_sha256 == challenger.test_set_sha256]
    left = count_looks_left(looks, settings)
    num_images, num_groups = by_label.size().to_dict(), by_label.nunique().to_dict()
    return LockedTestSet(num_images, num_groups, is_patient_level, len(looks), left)
