"""Retrains with new images and promotes the new model if it passes the gate: `hip-mri retrain`."""

from flows.cli.main import run_if_main

run_if_main(__name__, "retrain")  # before Prefect is imported

from prefect import flow
from prefect.client.schemas.objects import State

from flows.stages import arrange_images, compute_features, take_in, train_and_report
from hip_mri.config import RetrainConfig
from tasks.approval import ask_for_approval
from tasks.data import fetch_deliveries, hold_workspace
from tasks.model import resolve_weights
from tasks.release import (
    challenge_champion,
    check_batch,
    conclude_retraining,
    end_by,
    find_new_images,
    lift_quarantine,
    refuse_batch,
    report_nothing_new,
)
from tasks.steps import Steps
from tasks.task_runners.open_runner import open_runner


@flow(name="hip-retrain", flow_run_name="hip-retrain of {config.workspace}", persist_result=False)
def hip_retrain(config: RetrainConfig = RetrainConfig()) -> State[str]:
    """Take in new images, train on all of them, and promote the new model if it is shown to be better.

    Args:
        config: Every setting.

    Returns:
        A state named by the outcome, with the folder of the report, or the reason why nothing was trained.

    Raises:
        DriftError: The new images do not look like those of training; they are set aside.
    """
    model, retrain, threads = config.model, config.retrain, config.runner.count_threads()
    with hold_workspace(config.workspace) as workspace, open_runner(config.runner, workspace) as runner:
        steps = Steps(runner)
        weights = steps.run(resolve_weights)(model.weights, model.backbone, fall_back_to_random=False)

        delivered = steps.run(fetch_deliveries)(config.sources, workspace, config.limits, config.data.class_names)
        if retrain.accept_drift:
            steps.run(lift_quarantine)(workspace)
        intake = take_in(steps, config, workspace, delivered, keep_earlier=True)
        new_images = steps.run(find_new_images)(workspace)
        if new_images.num_images < retrain.min_new_images:
            if workspace.splits_file.exists():  # a retraining that waits for approval reads groups and splits
                arrange_images(steps, config, workspace, delivered, intake)
            return report_nothing_new(new_images, retrain.min_new_images)

        images = arrange_images(steps, config, workspace, delivered, intake)
        features = compute_features(steps, config, workspace, weights, images)
        check = steps.run(check_batch)(workspace, features, config.drift, config.seed, threads)
        if check is not None and check.report.is_shifted and not retrain.accept_drift:
            steps.run(refuse_batch)(workspace, new_images, check)

        run = train_and_report(steps, config, workspace, weights, images, features)
        challenge = steps.run(challenge_champion)(workspace, run, config.release, config.evaluation)
    answer = ask_for_approval(challenge, retrain)
    patience = 3600 * retrain.approval_timeout_hours  # another run may work by now; the answer must not be lost for it
    with hold_workspace(config.workspace, patience) as workspace:
        return end_by(conclude_retraining(workspace, new_images, check, challenge, answer, config.release))
