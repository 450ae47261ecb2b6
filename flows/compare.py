"""Compares candidates for the model by cross-validation on the training split: `hip-mri compare`."""

from flows.cli.main import run_if_main

run_if_main(__name__, "compare")  # before Prefect is imported

from dataclasses import replace
from pathlib import Path

from prefect import flow, unmapped
from prefect.client.schemas.objects import State

from flows.stages import choose_feature_set, ingest, prepare_images
from hip_mri.config import CompareConfig
from hip_mri.model_comparison.candidates import Candidates, DescribedCandidate
from hip_mri.model_comparison.evaluated_candidate import EvaluatedCandidate
from hip_mri.workspace import Workspace
from tasks.dataset import fetch_source, plan_shards, preprocess_images
from tasks.evaluation import (
    cross_validate_candidate,
    measure_cost,
    plan_candidate_folds,
    publish_comparison,
    resolve_candidates,
)
from tasks.flow_runs import complete_with, hold_workspace, name_flow_run
from tasks.mapping import map_shards, wait_for_all
from tasks.models import extract_features, join_folds
from tasks.progress import log_end
from tasks.task_runners.configured import ConfiguredTaskRunner, start_task_runner


@flow(
    name="hip-compare",
    task_runner=ConfiguredTaskRunner(),
    on_completion=[log_end],
    persist_result=False,
)
def hip_compare(config: CompareConfig = CompareConfig()) -> State[str]:
    """Prepare and split the images as a run does, then cross-validate each candidate on the training split alone.

    Args:
        config: Every setting.

    Returns:
        A state with the folder of the comparison.
    """
    with hold_workspace(config.workspace) as workspace:
        name_flow_run(workspace.model_comparisons_folder)
        start_task_runner(config.runner, workspace)
        candidates = resolve_candidates(config)
        reference = candidates.evaluated[0]

        delivered = fetch_source(config.source, config.source_sha256, workspace, config.limits)
        ingested = ingest(reference.config, workspace, delivered)
        prepare_images(reference.config, workspace, reference.weights, ingested)

        described = describe_images(candidates, workspace)
        evaluated = evaluate_candidates(described, workspace)
        return complete_with(
            publish_comparison(workspace, config, evaluated, candidates.left_out, is_synthetic=ingested.is_synthetic)
        )


def describe_images(candidates: Candidates, workspace: Workspace) -> list[DescribedCandidate]:
    """Compute the features of the training images, once for all candidates that share them."""
    described = {}
    for members in candidates.by_features:
        config, weights = members[0].config, members[0].weights
        shards = plan_shards(workspace, config.runner.shard_size, "train")
        map_shards(preprocess_images, shards, workspace, config.preprocessing)
        features = choose_feature_set(config, workspace, weights)
        averages_mirrored = any(candidate.config.averages_mirrored for candidate in members)
        map_shards(extract_features, shards, workspace, replace(features, averages_mirrored=averages_mirrored))
        for candidate in members:
            own = replace(features, averages_mirrored=candidate.config.averages_mirrored)
            described[candidate.name] = DescribedCandidate(candidate, own)
    return [described[candidate.name] for candidate in candidates.evaluated]


def evaluate_candidates(described: list[DescribedCandidate], workspace: Workspace) -> list[EvaluatedCandidate]:
    """Score the training images of each candidate, one task run for each fold, and measure size and time."""
    planned = plan_candidate_folds(described, workspace)
    scored = wait_for_all(
        cross_validate_candidate,
        cross_validate_candidate.map(planned.parts, unmapped(workspace)),
        "folds",
        [1] * len(planned.parts),
    )
    files: list[Path] = [join_folds(plan, wait_for=scored) for plan in planned.plans]
    costs = {}
    for it in sorted(described, key=lambda it: it.features.digest):  # an engine that is open is used again
        costs[it.candidate.name] = measure_cost.submit(it, workspace).result()  # alone, since it is timed
    return [EvaluatedCandidate(it, file, costs[it.candidate.name]) for it, file in zip(described, files, strict=True)]
