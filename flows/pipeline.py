"""From a source of hip MRI images to a trained, evaluated classifier. `python flows/pipeline.py --help` tells more."""

import sys

from flows.command_line import Command, main
from hip_mri.config import PipelineConfig

COMMAND = Command(
    config=PipelineConfig,
    flow="flows.pipeline:hip_pipeline",
    program="python flows/pipeline.py",
    description="Train and evaluate a classifier of hip MRI images: normal or osseous lesion.\n\n"
    "Without --source it draws synthetic images and runs on them. Progress goes to standard error; the last line on "
    "standard output is the folder of the finished run.",
)

if __name__ == "__main__":  # the command line imports this file as `flows.pipeline`; nothing is loaded twice
    sys.exit(main(COMMAND))

from prefect import flow

from tasks.data import (
    check_patient_tables,
    fetch_source,
    fingerprint_images,
    group_images,
    hold_workspace,
    ingest_images,
    lay_out_folders,
    plan_shards,
    preprocess_images,
    split_manifest,
)
from tasks.evaluation import publish_run
from tasks.model import (
    choose_features,
    cross_validate_head,
    extract_features,
    find_neighbours,
    prepare_backbone,
    resolve_weights,
    train_model,
)
from tasks.steps import Steps


@flow(name="hip-pipeline", flow_run_name="hip-pipeline, seed {config.seed}")
def hip_pipeline(config: PipelineConfig = PipelineConfig()) -> str:
    """Fetch, check, split and preprocess the images, compute their features once, train, evaluate and report.

    Args:
        config: Every setting; without any the synthetic demo runs.

    Returns:
        The folder of the finished run.
    """
    data, preprocessing, model, training = config.data, config.preprocessing, config.model, config.training
    threads = config.runner.count_threads()
    steps = Steps(config.runner)
    with hold_workspace(config.workspace) as workspace:
        weights = steps.run(resolve_weights)(model.weights, model.backbone, fall_back_to_random=config.is_demo)

        delivered = steps.run(fetch_source)(config.source, config.source_sha256, workspace)
        steps.run(check_patient_tables)(delivered, data.patients_file)
        intake = steps.run(ingest_images)(delivered, workspace, threads)
        if data.group_similar:
            arrived = steps.run(plan_shards)(workspace, config.runner.shard_size)
            steps.map(fingerprint_images, arrived, workspace)
        groups = steps.run(group_images)(workspace, delivered, data, threads)
        division = steps.run(split_manifest)(workspace, data.val_fraction, data.test_fraction, config.seed)

        shards = steps.run(plan_shards)(workspace, config.runner.shard_size)
        steps.map(preprocess_images, shards, workspace, settings=preprocessing)
        steps.run(lay_out_folders)(workspace, preprocessing)

        backbone = steps.run(prepare_backbone)(weights, model.backbone, workspace, preprocessing, config.seed, threads)
        features = steps.run(choose_features)(
            backbone, config.features, preprocessing, training.horizontal_flip, workspace, threads
        )
        steps.map(extract_features, shards, workspace, features=features)
        trained = steps.run(train_model)(workspace, features, model.hidden_units, training, config.seed)

        folds = steps.run(cross_validate_head)(workspace, features, model.hidden_units, training, config.evaluation)
        neighbours = steps.run(find_neighbours)(workspace, features)
        findings = (intake, groups, division, folds, neighbours)
        return steps.run(publish_run)(workspace, config, weights, features, trained, *findings, steps.seconds)
