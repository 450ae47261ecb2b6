"""Tasks from what has come to a champion."""

import logging
from pathlib import Path
from typing import Final, NoReturn

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed

from hip_mri.config import EvaluationSettings, ReleaseSettings
from hip_mri.dataset import quarantine as admission
from hip_mri.errors import DriftError
from hip_mri.promotion import batch_check as batch
from hip_mri.promotion import challenge, new_images
from hip_mri.promotion import retraining_report as retraining
from hip_mri.promotion.batch_check import BatchCheck
from hip_mri.promotion.challenge import Answer, Challenge
from hip_mri.promotion.new_images import NewImages
from hip_mri.promotion.retraining_report import PublishedRetraining, Retraining
from hip_mri.workspace import Workspace

logger = logging.getLogger("hip_mri.tasks")

BATCH_REFUSED: Final = "hip-mri.batch-refused"
"""Event that an automation can turn into a message to people."""

lift_quarantine = task(task_run_name="admit what was set aside", cache_policy=NO_CACHE)(admission.lift_quarantine)

find_new_images = task(task_run_name="count new images", cache_policy=NO_CACHE)(new_images.find_new_images)

check_batch = task(task_run_name="compare with training images", cache_policy=NO_CACHE)(batch.check_batch)


@task(task_run_name="challenge the champion", cache_policy=NO_CACHE)
def challenge_champion(
    workspace: Workspace, run_folder: str, settings: ReleaseSettings, evaluation: EvaluationSettings
) -> Challenge:
    """See `hip_mri.promotion.challenge.challenge_champion`."""
    return challenge.challenge_champion(workspace, Path(run_folder), settings, evaluation.min_subgroup_size)


def report_nothing_new(found: NewImages, needed: int) -> State[str]:
    """End a flow run for lack of new images; they wait."""
    told = f"{found.num_images} new images wait, {needed} are needed: nothing was trained"
    logger.info("Nothing new: %s", told)
    return Completed(name="Nothing new", message=told, data=told)


@task(task_run_name="set the new images aside", cache_policy=NO_CACHE)
def refuse_batch(workspace: Workspace, found: NewImages, check: BatchCheck) -> NoReturn:
    """Set the new images aside, raise an alert with a picture, and end the flow run."""
    report = retraining.publish_retraining(workspace, Retraining("stopped", found, check))
    create_markdown_artifact(report.markdown, key="retraining", description="The new images were refused")
    emit_event(BATCH_REFUSED, resource={"prefect.resource.id": "hip-mri.batch"}, payload={"report": str(report.folder)})
    batch.refuse_batch(workspace)  # last, so that a run that is killed before raises the alert again, not never
    raise DriftError(
        f"retrain: {check.report.summary} They are set aside; see {report.folder / 'report.html'}. Mend the export, or "
        "take them in all the same with --retrain.accept-drift true."
    )


@task(task_run_name="conclude", cache_policy=NO_CACHE)
def conclude_retraining(
    workspace: Workspace,
    found: NewImages,
    check: BatchCheck | None,
    made: Challenge,
    answer: Answer,
    settings: ReleaseSettings,
) -> PublishedRetraining:
    """Promote the challenger if it has earned it, and report."""
    verdict = challenge.conclude_retraining(workspace, made, answer)
    outcome = Retraining(verdict, found, check, made, answer.comment, made.notices)
    report = retraining.publish_retraining(workspace, outcome, settings.non_inferiority_margin)
    create_markdown_artifact(report.markdown, key="retraining", description=outcome.headline)
    return report


def end_by(report: PublishedRetraining) -> State[str]:
    """End a flow run in a state that is named by what came of it."""
    return Completed(name=report.outcome.capitalize(), message=report.headline, data=str(report.folder))
