"""A newly trained model before the gate: registered, compared with the champion, promoted or not."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from hip_mri.config import ReleaseSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.evaluation.tables import read_attributes, read_table
from hip_mri.promotion.error_budget import Look, record_look, record_outcome
from hip_mri.promotion.gate import Decision, compare_versions, judge_first_version
from hip_mri.registry.champion import promote_over, read_champion
from hip_mri.registry.registration import register_version
from hip_mri.registry.versions import Version, read_version
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Challenge:
    """A version that has been before the gate.

    Attributes:
        challenger: The new version.
        champion: The version that served at the time; `None` before the first.
        decision: What the gate says.
        measures: Figures of the locked test images at each version's own threshold, by `challenger` and `champion`.
        notices: What every output of the challenger must say.
        is_serving: Whether the challenger is champion by now: the run that promoted it was killed before it said so.
        look: The look at the test set that it took; `None` where nothing was compared.
    """

    challenger: Version
    champion: Version | None
    decision: Decision
    measures: Mapping[str, Mapping[str, Any]]
    notices: tuple[str, ...] = ()
    is_serving: bool = False
    look: Look | None = None


def challenge_champion(
    workspace: Workspace, run_folder: Path, settings: ReleaseSettings, minimum_size: int
) -> Challenge:
    """Register a finished run as a version and compare it with the champion on the locked test set.

    The same run again is the same comparison: it costs no further look, also after the challenger was promoted.

    Args:
        workspace: Where the run was made; versions and ledger are written.
        run_folder: The finished run.
        settings: Rule, budget and floors of the gate.
        minimum_size: Groups with lesions that a subgroup needs to be judged.

    Returns:
        The comparison. Nothing is promoted yet.

    Raises:
        ReleaseError: The run was changed, or both models do not speak of the same test images.
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
    measures, look = {"challenger": metrics["test"]}, None
    if champion is None:
        decision = judge_first_version(scores, settings, threshold, attributes, minimum_size)
    elif champion.model_sha256 == challenger.model_sha256:
        decision = Decision(promote=False, reasons=("It is the champion's own model, bit for bit.",), floors=())
    else:
        look = record_look(
            workspace, challenger.test_set_sha256, champion.model_sha256, challenger.model_sha256, settings
        )
        former = read_test_scores(champion, workspace)
        decision = compare_versions(former, scores, settings, look, threshold, attributes, minimum_size)
    if champion is not None:
        measures["champion"] = champion.read_metrics()["test"]
    for reason in decision.reasons:
        logger.info("Gate: %s", reason)
    return Challenge(challenger, champion, decision, measures, tuple(metrics["notices"]), is_serving, look)


def read_test_scores(version: Version, workspace: Workspace) -> pd.DataFrame:
    """A version's scores of its test images, with their labels and groups of today.

    Returns:
        Columns image_id, sha256, label, score (0-1) and group.
    """
    scores = read_table(version.folder / "predictions.csv")
    scores = scores.loc[scores["split"] == "test", ["image_id", "score"]]
    images = select_ready(read_manifest(workspace.manifest_file))[["image_id", "sha256", "label", "group"]]
    return scores.merge(images, on="image_id", validate="one_to_one")


@dataclass(frozen=True)
class Answer:
    """What is to be done with a challenger that has passed the gate.

    Attributes:
        promote: Whether it becomes champion; `None` where nobody answered.
        words: What the person said.
    """

    promote: bool | None = True
    words: str = ""


Verdict = Literal["promoted", "kept", "declined", "unanswered", "overtaken"]


def conclude_retraining(workspace: Workspace, challenge: Challenge, answer: Answer) -> Verdict:
    """Make the challenger the champion, if it has earned it.

    Args:
        workspace: Where versions and champion are kept.
        challenge: What the gate said.
        answer: What a person said, or the automatic yes.

    Returns:
        What became of it; `overtaken` where the champion is no longer the one that was compared.

    Raises:
        ReleaseError: A file of the challenger is not the one that was registered; the champion stays.
    """
    verdict = _settle(workspace, challenge, answer)
    if challenge.look is not None:
        record_outcome(workspace, challenge.look, is_promoted=verdict == "promoted")
    return verdict


def _settle(workspace: Workspace, challenge: Challenge, answer: Answer) -> Verdict:
    if challenge.is_serving:
        return "promoted"
    if not challenge.decision.promote:
        return "kept"
    if not answer.promote:
        return "unanswered" if answer.promote is None else "declined"
    reason = answer.words or challenge.decision.reasons[0]
    if not promote_over(workspace, challenge.champion, challenge.challenger, reason):
        return "overtaken"
    logger.info("Version %s is the champion", challenge.challenger.name)
    return "promoted"
