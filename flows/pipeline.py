"""Trains and evaluates a classifier from a source of hip MRI images: `hip-mri run`."""

from flows.cli.main import run_if_main

run_if_main(__name__, "run")  # before Prefect is imported

from prefect import flow
from prefect.client.schemas.objects import State

from flows.stages import ingest, prepare_images, train_and_report
from hip_mri.config import PipelineConfig
from tasks.dataset import fetch_source
from tasks.flow_runs import complete_with, hold_workspace, name_flow_run
from tasks.models import resolve_weights
from tasks.progress import log_end
from tasks.task_runners.configured import ConfiguredTaskRunner, start_task_runner
from tasks.tracking import check_tracking


@flow(
    name="hip-pipeline",
    task_runner=ConfiguredTaskRunner(),
    on_completion=[log_end],
    persist_result=False,
)
def hip_pipeline(config: PipelineConfig = PipelineConfig()) -> State[str]:
    """Fetch, check and preprocess the images, compute their features once, group and split them, train and report.

    Args:
        config: Every setting; without any the synthetic demo runs.

    Returns:
        A state with the folder of the finished run.
    """
    with hold_workspace(config.workspace) as workspace:
        name_flow_run(workspace.runs_folder)
        start_task_runner(config.runner, workspace)
        check_tracking(config.tracking)
        weights = resolve_weights(
            config.model.weights,
            config.model.backbone,
            fall_back_to_random=config.is_demo,
            image_size=config.preprocessing.image_size,
        )
        config = config.with_backbone(weights.backbone)

        delivered = fetch_source(config.source, config.source_sha256, workspace, config.limits)
        ingested = ingest(config, workspace, delivered)

        images = prepare_images(config, workspace, weights, ingested)
        return complete_with(train_and_report(config, workspace, weights, images))
