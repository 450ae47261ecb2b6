"""Trains and evaluates a classifier from a source of hip MRI images: `hip-mri run`."""

from flows.cli.main import run_if_main

run_if_main(__name__, "run")  # before Prefect is imported

from prefect import flow

from flows.stages import arrange_images, compute_features, take_in, train_and_report
from hip_mri.config import PipelineConfig
from tasks.data import fetch_source, hold_workspace
from tasks.model import resolve_weights
from tasks.steps import Steps
from tasks.task_runners.open_runner import open_runner


@flow(name="hip-pipeline", flow_run_name="hip-pipeline, seed {config.seed}", persist_result=False)
def hip_pipeline(config: PipelineConfig = PipelineConfig()) -> str:
    """Fetch, check, split and preprocess the images, compute their features once, train, evaluate and report.

    Args:
        config: Every setting; without any the synthetic demo runs.

    Returns:
        The folder of the finished run.
    """
    model = config.model
    with hold_workspace(config.workspace) as workspace, open_runner(config.runner, workspace) as runner:
        steps = Steps(runner)
        weights = steps.run(resolve_weights)(model.weights, model.backbone, fall_back_to_random=config.is_demo)
        config = config.with_backbone(weights.backbone)

        delivered = steps.run(fetch_source)(config.source, config.source_sha256, workspace, config.limits)
        intake = take_in(steps, config, workspace, delivered)

        images = arrange_images(steps, config, workspace, delivered, intake)
        features = compute_features(steps, config, workspace, weights, images)
        return train_and_report(steps, config, workspace, weights, images, features)
