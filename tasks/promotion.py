"""Tasks that decide whether a newly trained model becomes the champion; see `hip_mri.promotion`."""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NoReturn

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.states import Completed

from hip_mri.config import RetrainConfig
from hip_mri.errors import DriftError
from hip_mri.promotion import batch_check, challenge, conclusion, new_images, retraining_report
from hip_mri.promotion.batch_check import BatchCheck
from hip_mri.promotion.comparison_records import ComparedRetraining, store_comparison
from hip_mri.promotion.conclusion import Answer
from hip_mri.promotion.new_images import NewImages
from hip_mri.promotion.retraining_report import PublishedRetraining, Retraining
from hip_mri.workspace import Workspace
from tasks.approval import find_starter, is_resumed
from tasks.options import CALLED

logger = logging.getLogger("hip_mri.tasks")

BATCH_REFUSED: Final = "hip-mri.batch-refused"
"""Event for automations, such as one that sends an e-mail."""

find_new_images = task(**CALLED)(new_images.find_new_images)

check_batch = task(**CALLED)(batch_check.check_batch)


@task(**CALLED)
def conclude_unanswered(workspace: Workspace) -> None:
    """End the retrainings for whose challengers no answer came in time."""
    conclusion.conclude_unanswered(workspace, is_resumed)


@task(**CALLED)
def challenge_champion(
    workspace: Workspace, run_folder: str, found: NewImages, check: BatchCheck | None, config: RetrainConfig
) -> ComparedRetraining:
    """Compare the new model with the champion, and store the comparison for the decision."""
    release, retrain = config.release, config.retrain
    made = challenge.challenge_champion(workspace, Path(run_folder), release, config.evaluation.min_subgroup_size)
    timeout = timedelta(hours=retrain.approval_timeout_hours)
    compared = ComparedRetraining(
        new_images=found,
        check=check,
        challenge=made,
        margin=release.non_inferiority_margin,
        expires_at=(datetime.now(UTC) + timeout).isoformat(timespec="seconds")
        if retrain.approval == "person"
        else None,
        flow_runs=(str(flow_run.id),) if flow_run.id else (),
    )
    return store_comparison(workspace, compared, retraining_report.describe_comparison(workspace, compared))


def report_nothing_new(found: NewImages, needed: int) -> State[str]:
    """The final state of a flow run that trains nothing because there are too few new images."""
    message = f"{found.num_waiting} new or corrected images found, {needed} are required: nothing was trained"
    logger.info("Nothing new: %s", message)
    return Completed(name="Nothing new", message=message, data=message)


@task(**CALLED)
def refuse_batch(workspace: Workspace, found: NewImages, check: BatchCheck) -> NoReturn:
    """Quarantine the new images, publish a report, emit an event, and fail the flow run."""
    report = retraining_report.publish_retraining(workspace, Retraining("stopped", found, check))
    create_markdown_artifact(report.markdown, key="retraining", description="The new images were refused")
    emit_event(BATCH_REFUSED, resource={"prefect.resource.id": "hip-mri.batch"}, payload={"report": str(report.folder)})
    batch_check.refuse_batch(workspace)  # last: a run that is killed before this line emits the event again
    raise DriftError(
        f"retrain: {check.report.summary} They are quarantined; see {report.folder / 'report.html'}. Correct the "
        "export, or accept them with --retrain.accept-drift true."
    )


@task(**CALLED)
def conclude_retraining(
    workspace: Workspace, compared: ComparedRetraining, answer: Answer | None = None
) -> PublishedRetraining:
    """Promote the new model if the gate and the approval allow it, and publish the report."""
    report = conclusion.conclude_retraining(workspace, compared, answer, find_starter())
    if report.markdown:  # else it was published before
        create_markdown_artifact(report.markdown, key="retraining", description=report.headline)
    return report


def report_outcome(report: PublishedRetraining) -> State[str]:
    """The final state of a flow run, named by its outcome."""
    return Completed(name=report.outcome.capitalize(), message=report.headline, data=str(report.folder))
