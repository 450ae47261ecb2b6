"""From a source of hip MRI images to a trained, evaluated classifier. `python flows/pipeline.py --help` tells more."""

if __name__ == "__main__":  # the command line imports this file as `flows.pipeline`; nothing is loaded twice
    import sys

    from flows.command_line import main

    sys.exit(main())

from prefect import flow

from hip_mri.config import PipelineConfig
from tasks.data import (
    check_patient_table,
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
from tasks.runners import open_runner
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
    with hold_workspace(config.workspace) as workspace, open_runner(config.runner, workspace) as runner:
        steps = Steps(runner)
        weights = steps.run(resolve_weights)(model.weights, model.backbone, fall_back_to_random=config.is_demo)

        source = steps.run(fetch_source)(config.source, config.source_sha256, workspace)
        steps.run(check_patient_table)(source, data.patients_file)
        intake = steps.run(ingest_images)(source, workspace, threads)
        if data.group_similar:
            arrived = steps.run(plan_shards)(workspace, config.runner.shard_size)
            steps.map(fingerprint_images, arrived, workspace)
        groups = steps.run(group_images)(workspace, source, data, threads)
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
