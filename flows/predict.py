"""Scores new images with a trained model: `hip-mri predict`."""

from flows.cli.main import run_if_main

run_if_main(__name__, "predict")  # before Prefect is imported

from prefect import flow
from prefect.client.schemas.objects import State

from hip_mri.config import PredictConfig
from tasks.dataset import fetch_source, plan_shards
from tasks.flow_runs import complete_with, hold_serving, name_flow_run
from tasks.mapping import map_shards
from tasks.models import extract_features
from tasks.progress import log_end
from tasks.serving import find_model, ingest_inputs, prepare_network, publish_predictions
from tasks.task_runners.configured import ConfiguredTaskRunner, start_task_runner


@flow(
    name="hip-predict",
    task_runner=ConfiguredTaskRunner(),
    on_completion=[log_end],
    persist_result=False,
)
def hip_predict(config: PredictConfig = PredictConfig()) -> State[str]:
    """Check the model, read the images, compute their features, score them and publish the scores.

    Args:
        config: Every setting.

    Returns:
        A state with the folder of `predictions.csv`, `sheet.html`, `summary.json` and `names.csv`.
    """
    with hold_serving(config.workspace) as workspace:
        name_flow_run(workspace.predictions_folder)
        start_task_runner(config.runner, workspace)
        serving = workspace.serving
        model = find_model(workspace, config.model)

        (delivery,) = fetch_source(config.source, config.source_sha256, serving, config.limits)
        num_threads = config.runner.count_threads()
        inputs = ingest_inputs(delivery, serving, model.network.preprocessing, num_threads, config.data)
        shards = plan_shards(serving, config.runner.shard_size)

        network = prepare_network.submit(
            model.network, config.engine, config.precision, inputs.num_images, workspace
        ).result()
        map_shards(extract_features, shards, serving, network.features)
        predictions_folder = publish_predictions.submit(
            workspace,
            model,
            network,
            inputs,
            config.sheet,
            is_synthetic=delivery.is_synthetic,
            keep_images=config.keep_images,
        ).result()
        return complete_with(predictions_folder)
