"""Ends a retraining: promotes the challenger or not, records the decision, and publishes the report."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from hip_mri.errors import ReleaseError
from hip_mri.promotion.challenge import Challenge
from hip_mri.promotion.comparison_records import ComparedRetraining, find_expired
from hip_mri.promotion.error_budget import record_outcome
from hip_mri.promotion.retraining_report import (
    Outcome,
    PublishedRetraining,
    Retraining,
    publish_retraining,
)
from hip_mri.registry.audit import BYPASS, Verdict, find_system_user
from hip_mri.registry.champion import promote_over, read_champion, read_history, reject
from hip_mri.registry.conclusions import find_conclusion, record_conclusion
from hip_mri.registry.versions import Version
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """Manual approval of a challenger that has passed the gate.

    Attributes:
        promote: Whether it becomes champion; `None` if no answer came in time.
        reason: What the person wrote.
        decided_by: Name of the person.
    """

    promote: bool | None
    reason: str
    decided_by: str


def conclude_retraining(
    workspace: Workspace, compared: ComparedRetraining, answer: Answer | None, started_by: str
) -> PublishedRetraining:
    """Promote the challenger if the gate and the answer allow it, and publish the report.

    Repeated after an interruption, it ends the same. If the retraining has ended before, only its report is returned.

    Args:
        workspace: Where versions and champion are kept; locked by the caller.
        compared: The comparison.
        answer: The manual approval; `None` where none is required.
        started_by: Who started the retraining; decides where no answer is required.

    Raises:
        ReleaseError: A file of the challenger was changed, the reason is empty, or a version is declined that was
            promoted by hand; the champion stays.
    """
    challenge = compared.challenge
    if (conclusion := find_conclusion(workspace, challenge.challenger)) is not None:
        concluded = Retraining(conclusion["outcome"], compared.new_images, compared.check, compared)
        folder = workspace.retrainings_folder / conclusion.get("report", "")
        return PublishedRetraining(concluded.outcome, f"Decided before: {concluded.headline}", folder, "")
    verdict = Verdict(" ".join(challenge.decision.reasons), "by the gate", started_by)
    if answer is not None:
        method = "by timeout" if answer.promote is None else "by approval"
        verdict = Verdict(answer.reason, method, answer.decided_by)
    outcome, verdict = _decide(workspace, challenge, answer, verdict)
    if challenge.comparison is not None:
        record_outcome(workspace, challenge.comparison, is_promoted=outcome == "promoted")
    retraining = Retraining(outcome, compared.new_images, compared.check, compared, answer and verdict)
    report = publish_retraining(workspace, retraining)
    record_conclusion(workspace, challenge.challenger, outcome, challenge.decision.reasons, report.folder.name)
    return report


def conclude_unanswered(
    workspace: Workspace, is_answered: Callable[[ComparedRetraining], bool]
) -> list[PublishedRetraining]:
    """End the retrainings for whose challengers no answer came in time.

    Args:
        workspace: Where versions and champion are kept; locked by the caller.
        is_answered: Whether an answer was given that has yet to be applied; such a retraining goes on.
    """
    return [
        conclude_retraining(
            workspace, expired, Answer(None, f"no answer until {expired.expires_at}", "hip-mri"), find_system_user()
        )
        for expired in find_expired(workspace)
        if not is_answered(expired)
    ]


def _decide(
    workspace: Workspace, challenge: Challenge, answer: Answer | None, verdict: Verdict
) -> tuple[Outcome, Verdict]:
    """Decide on the challenger; returns the outcome, and the verdict that led to it."""
    challenger = challenge.challenger
    if (earlier := _find_promotion(workspace, challenger)) is not None:
        if answer is not None and answer.promote is False and earlier.method == BYPASS:
            raise ReleaseError(
                f"release: version {challenger.name} was promoted by hand and is the champion, so that it cannot be "
                "declined. Give it up with `hip-mri models rollback`."
            )
        return "promoted", earlier
    if not challenge.decision.promote or (answer is not None and not answer.promote):
        reject(workspace, challenger, verdict)
        if answer is None:
            return ("kept" if challenge.decision.is_judged else "unjudged"), verdict
        return ("unanswered" if answer.promote is None else "declined"), verdict
    if not promote_over(workspace, challenge.champion, challenger, verdict):
        reason = f"The champion has changed since the comparison. {verdict.reason}"
        reject(workspace, challenger, Verdict(reason, verdict.method, verdict.decided_by))
        return "overtaken", verdict
    logger.info("Version %s is the champion, %s (%s)", challenger.name, verdict.method, verdict.decided_by)
    return "promoted", verdict


def _find_promotion(workspace: Workspace, challenger: Version) -> Verdict | None:
    """Find the promotion by an interrupted process, also if it was rolled back, or the one by hand that is in force."""
    is_champion = read_champion(workspace) == challenger
    promotions = (it for it in read_history(workspace) if (it.action, it.version) == ("promotion", challenger.number))
    verdicts = [Verdict(it.reason, it.decided_how, it.decided_by) for it in promotions]
    return next((it for it in reversed(verdicts) if is_champion or it.method != BYPASS), None)
