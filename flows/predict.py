"""Scores new images with a trained model: `hip-mri predict`."""

from flows.cli.main import run_if_main

run_if_main(__name__, "predict")  # before Prefect is imported

from prefect import flow

from hip_mri.config import PredictConfig
from tasks.data import fetch_source, plan_shards
from tasks.model import extract_features
from tasks.prediction import (
    find_model,
    hold_serving,
    ingest_inputs,
    prepare_network,
    publish_predictions,
)
from tasks.steps import Steps
from tasks.task_runners.open_runner import open_runner


@flow(name="hip-predict", flow_run_name="hip-predict, {config.model}", persist_result=False)
def hip_predict(config: PredictConfig = PredictConfig()) -> str:
    """Check the model, take in the images, compute their features, score and publish them.

    Args:
        config: Every setting.

    Returns:
        The folder with `predictions.csv`, `sheet.html`, `summary.json` and `names.csv`.
    """
    threads = config.runner.count_threads()
    with hold_serving(config.workspace) as workspace, open_runner(config.runner, workspace) as runner:
        steps, serving = Steps(runner), workspace.serving
        model = steps.run(find_model)(workspace, config.model)

        (delivery,) = steps.run(fetch_source)(config.source, config.source_sha256, serving, config.limits)
        inputs = steps.run(ingest_inputs)(delivery, serving, model.network.preprocessing, threads, config.data)
        shards = steps.run(plan_shards)(serving, config.runner.shard_size)

        network = steps.run(prepare_network)(
            model.network, config.engine, config.precision, inputs.num_images, workspace
        )
        steps.map_shards(extract_features, shards, serving, features=network.features)
        return steps.run(publish_predictions)(
            workspace,
            model,
            network,
            inputs,
            config.sheet,
            is_synthetic=delivery.is_synthetic,
            keep_images=config.keep_images,
        )
