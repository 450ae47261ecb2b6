"""Retrains with new images and promotes the new model if it passes the gate: `hip-mri retrain`."""

from flows.cli.main import run_if_main

run_if_main(__name__, "retrain")  # before Prefect is imported

from prefect import flow
from prefect.client.schemas.objects import State

from flows.stages import ingest, prepare_images, train_and_report
from hip_mri.config import RetrainConfig
from hip_mri.promotion.comparison_records import ComparedRetraining
from hip_mri.promotion.conclusion import Answer
from hip_mri.workspace import Workspace
from tasks.approval import ask_for_approval, find_suspended
from tasks.dataset import fetch_deliveries, lift_quarantine
from tasks.flow_runs import hold_workspace, name_flow_run
from tasks.models import resolve_weights
from tasks.progress import log_end
from tasks.promotion import (
    challenge_champion,
    check_batch,
    conclude_retraining,
    conclude_unanswered,
    find_new_images,
    refuse_batch,
    report_nothing_new,
    report_outcome,
)
from tasks.task_runners.configured import ConfiguredTaskRunner, start_task_runner
from tasks.tracking import check_tracking, track_champion


@flow(
    name="hip-retrain",
    task_runner=ConfiguredTaskRunner(),
    on_completion=[log_end],
    persist_result=False,
)
def hip_retrain(config: RetrainConfig = RetrainConfig()) -> State[str]:
    """Ingest new images, train on all of them, and promote the new model if it is shown to be better.

    Args:
        config: Every setting.

    Returns:
        A state named by the outcome, with the folder of the report, or the reason why nothing was trained.

    Raises:
        DriftError: The new images differ from those of training; they are quarantined.
    """
    model, retrain = config.model, config.retrain
    if compared := find_suspended(config.workspace):
        return end_retraining(config, compared)
    with hold_workspace(config.workspace) as workspace:
        start_task_runner(config.runner, workspace)
        check_tracking(config.tracking)
        size = config.preprocessing.image_size
        weights = resolve_weights(model.weights, model.backbone, fall_back_to_random=False, image_size=size)
        conclude_unanswered(workspace)

        delivered = fetch_deliveries(config.sources, workspace, config.limits, config.data.class_names)
        if retrain.accept_drift:
            lift_quarantine(workspace)
        ingested = ingest(config, workspace, delivered, keep_earlier=True)
        new_images = find_new_images(workspace)
        if new_images.num_waiting < retrain.min_new_images:
            if workspace.splits_file.exists():  # the manifest stays grouped and split
                prepare_images(config, workspace, weights, ingested)
            return report_nothing_new(new_images, retrain.min_new_images)

        name_flow_run(workspace.runs_folder)
        images = prepare_images(config, workspace, weights, ingested)
        check = check_batch(workspace, images.features, config.drift, config.seed, config.runner.count_threads())
        if check is not None and check.report.is_shifted and not (retrain.accept_drift or check.is_accepted):
            refuse_batch(workspace, new_images, check)

        run = train_and_report(config, workspace, weights, images)
        compared = challenge_champion(workspace, run, new_images, check, config)
        if not compared.needs_answer:
            return conclude(config, workspace, compared)
    return end_retraining(config, compared)


def end_retraining(config: RetrainConfig, compared: ComparedRetraining) -> State[str]:
    """Ask for approval, where it is needed, and conclude; a resumed flow run comes here at once."""
    timeout_hours = config.retrain.approval_timeout_hours
    answer = ask_for_approval(config.workspace, compared, timeout_hours) if compared.needs_answer else None
    if isinstance(answer, State):
        return answer
    # Another run may hold the workspace by now, and the answer must not be lost for it.
    with hold_workspace(config.workspace, timeout_seconds=3600 * timeout_hours) as workspace:
        return conclude(config, workspace, compared, answer)


def conclude(
    config: RetrainConfig, workspace: Workspace, compared: ComparedRetraining, answer: Answer | None = None
) -> State[str]:
    """Promote the new model or not, publish the report, and mark the champion in MLflow."""
    report = conclude_retraining(workspace, compared, answer)
    if config.tracking.mlflow_uri:
        track_champion(workspace, config.tracking)
    return report_outcome(report)
