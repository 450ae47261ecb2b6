"""Registers a newly trained model as challenger, compares it with the champion, and promotes it if it passes."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from hip_mri.config import ReleaseSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.evaluation.run_tables import read_attributes, read_table
from hip_mri.promotion.error_budget import Comparison, record_comparison, record_outcome
from hip_mri.promotion.gate import Decision, compare_versions, judge_first_version, refuse_few_groups
from hip_mri.registry.champion import promote_over, read_champion
from hip_mri.registry.registration import register_version
from hip_mri.registry.versions import Version, read_version
from hip_mri.run_files import PREDICTIONS_FILE
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

ChallengeOutcome = Literal["promoted", "kept", "unjudged", "declined", "unanswered", "overtaken"]


@dataclass(frozen=True)
class Challenge:
    """A challenger and the decision of the gate.

    Attributes:
        challenger: The new version.
        champion: The version that it was compared with; `None` before the first champion.
        decision: Decision of the gate.
        measures: Metrics on the locked test images at each version's own threshold, by `challenger` and `champion`.
        notices: Texts that every output of the challenger must show.
        is_serving: Whether the challenger is champion already, since the run that promoted it was interrupted.
        comparison: The comparison on the test set; `None` where nothing was compared.
    """

    challenger: Version
    champion: Version | None
    decision: Decision
    measures: Mapping[str, Mapping[str, Any]]
    notices: tuple[str, ...] = ()
    is_serving: bool = False
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Answer:
    """Manual approval of a challenger that has passed the gate.

    Attributes:
        promote: Whether it becomes champion; `None` if no answer came in time.
        comment: What the person wrote.
    """

    promote: bool | None = True
    comment: str = ""


def challenge_champion(workspace: Workspace, run_folder: Path, settings: ReleaseSettings, min_size: int) -> Challenge:
    """Register a finished run as a version and compare it with the champion on the locked test set.

    Repeated for the same run, it is the same comparison and spends no further error, also after the promotion.

    Args:
        workspace: Where the run was made; its versions and ledger are written.
        run_folder: The finished run.
        settings: Rule, error budget and requirements of the gate.
        min_size: Groups with lesions below which a subgroup is not judged.

    Returns:
        The comparison. Nothing is promoted yet.

    Raises:
        ReleaseError: The run was changed, or both models were tested on different images.
    """
    challenger = register_version(workspace, run_folder, is_challenger=True)
    champion = read_champion(workspace)
    is_serving = champion == challenger
    if is_serving:
        champion = None if challenger.parent is None else read_version(workspace, challenger.parent)
    metrics = challenger.read_metrics()
    scores = read_test_scores(challenger, workspace)
    threshold, name = metrics["threshold"], metrics["grouping"]["attributes"]
    attributes = None if name is None else read_attributes(scores, workspace, name)
    measures, comparison = {"challenger": metrics["test"]}, None
    if champion is not None and champion.model_sha256 == challenger.model_sha256:
        decision = Decision(promote=False, reasons=("The model is identical to that of the champion.",))
    elif too_few := refuse_few_groups(scores, settings):  # spends no error
        decision = too_few
    elif champion is None:
        decision = judge_first_version(scores, settings, threshold, attributes, min_size)
    else:
        hashes = challenger.test_set_sha256, champion.model_sha256, challenger.model_sha256
        comparison = record_comparison(workspace, *hashes, settings)
        champion_scores = read_test_scores(champion, workspace)
        decision = compare_versions(champion_scores, scores, settings, comparison, threshold, attributes, min_size)
    if champion is not None:
        measures["champion"] = champion.read_metrics()["test"]
    for reason in decision.reasons:
        logger.info("Gate: %s", reason)
    return Challenge(challenger, champion, decision, measures, tuple(metrics["notices"]), is_serving, comparison)


def read_test_scores(version: Version, workspace: Workspace) -> pd.DataFrame:
    """Read a version's scores of its test images, with their labels and groups in the present manifest.

    Returns:
        Columns image_id, sha256, label, score (0-1) and group.
    """
    scores = read_table(version.folder / PREDICTIONS_FILE)
    scores = scores.loc[scores["split"] == "test", ["image_id", "score"]]
    images = select_ready(read_manifest(workspace.manifest_file))[["image_id", "sha256", "label", "group"]]
    return scores.merge(images, on="image_id", validate="one_to_one")


def conclude_retraining(workspace: Workspace, challenge: Challenge, answer: Answer) -> ChallengeOutcome:
    """Promote the challenger if the gate and the answer allow it, and record the outcome of the comparison.

    Args:
        workspace: Where versions and champion are kept.
        challenge: The challenger and the decision of the gate.
        answer: The manual approval, or the default where none is required.

    Returns:
        What became of the challenger; `overtaken` where the champion has changed since the comparison.

    Raises:
        ReleaseError: A file of the challenger was changed; the champion stays.
    """
    outcome = _promote_if_allowed(workspace, challenge, answer)
    if challenge.comparison is not None:
        record_outcome(workspace, challenge.comparison, is_promoted=outcome == "promoted")
    return outcome


def _promote_if_allowed(workspace: Workspace, challenge: Challenge, answer: Answer) -> ChallengeOutcome:
    if challenge.is_serving:
        return "promoted"
    if not challenge.decision.promote:
        return "kept" if challenge.decision.is_judged else "unjudged"
    if not answer.promote:
        return "unanswered" if answer.promote is None else "declined"
    reason = answer.comment or challenge.decision.reasons[0]
    if not promote_over(workspace, challenge.champion, challenge.challenger, reason):
        return "overtaken"
    logger.info("Version %s is the champion", challenge.challenger.name)
    return "promoted"
