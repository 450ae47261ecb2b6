"""The comparison of candidates, in this process, on small images."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
)

from flows.cli.arguments import read_command
from flows.cli.commands import HipMri
from flows.cli.main import run_command
from flows.compare import hip_compare
from hip_mri.config import CompareConfig, PipelineConfig
from hip_mri.dataset.manifest import read_manifest
from hip_mri.dataset.split_registry import lock_test_set
from hip_mri.errors import WeightsError
from hip_mri.hashes import record_hashes
from hip_mri.model_comparison import candidates
from hip_mri.workspace import Workspace
from tests.flows.test_pipeline import SMALL

SETTINGS = SMALL | {
    "evaluation": {"cross_validation_folds": 2, "cross_validation_seeds": 2},
    "features": {"engine": "keras", "precision": "float32"},
    "runner": {"shard_size": 1000},
}
CANDIDATES = (
    {"name": "recipe"},
    {"name": "without CLAHE", "clahe_clip_limit": 0},
    {"name": "logistic", "head": "logistic", "mirror_averaging": False},
    {"name": "not at hand", "backbone": "DenseNet121", "weights": "imagenet"},
)
NUM_EVALUATED = 3
NUM_PARTS = NUM_EVALUATED * 2 * 2
"""Candidates that can be evaluated, repetitions and folds."""


@pytest.fixture(scope="module", autouse=True)
def _without_internet() -> Iterator[None]:
    resolve = candidates.resolve_weights

    def resolve_offline(weights: str, backbone: str, **others):
        if weights == "imagenet":
            raise WeightsError(f"the weights of {backbone} cannot be downloaded")
        return resolve(weights, backbone, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "resolve_weights", resolve_offline)
        yield


def run(config: CompareConfig) -> tuple[Path, list[str], dict[str, str]]:
    """Folder, names of the task runs, and descriptions of the artifacts of a comparison by their key."""
    state = hip_compare(config, return_state=True)
    folder, flow_run = Path(state.result()), state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        task_runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])), limit=200)
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run])), limit=200
        )
    return folder, [it.name for it in task_runs], {str(it.key): it.description or "" for it in found}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, source_zip: Path) -> CompareConfig:
    given = {"source": str(source_zip), "workspace": tmp_path_factory.mktemp("compare"), "seed": 7}
    return CompareConfig.model_validate(SETTINGS | given | {"candidates": CANDIDATES})


@pytest.fixture(scope="module")
def finished(config: CompareConfig) -> tuple[Path, list[str], dict[str, str]]:
    return run(config)


def test_the_folder_holds_what_was_promised(config, finished):
    folder, names, artifacts = finished
    assert folder == config.workspace.resolve() / "comparisons" / "0001"
    facts = json.loads((folder / "comparison.json").read_text())
    assert [row["name"] for row in facts["candidates"]] == [it["name"] for it in CANDIDATES[:NUM_EVALUATED]]
    assert list(facts["left_out"]) == ["not at hand"]
    assert "DenseNet121" in facts["left_out"]["not at hand"]
    assert all(row["num_bytes"] > 1e5 and row["seconds_per_image"] > 0 for row in facts["candidates"])
    page = (folder / "report.html").read_text()
    for text in ("RANDOM WEIGHTS", "without CLAHE", "Left out", "not at hand", "not shown"):
        assert text in page
    assert sum(name.startswith("cross_validate_candidate") for name in names) == NUM_PARTS
    assert {"candidates", "comparison"} <= artifacts.keys()


def test_only_training_images_are_scored_and_the_test_set_stays_as_it_was(config, finished):
    folder, *_ = finished
    scores = pd.read_csv(folder / "scores.csv", dtype={"image_id": "str", "group": "str"})
    manifest = read_manifest(config.workspace / "manifest.parquet").set_index("image_id")
    trained_on = manifest.index[(manifest["split"] == "train") & (manifest["state"] == "ready")]
    assert set(manifest["split"]) >= {"train", "val", "test"}
    for _, rows in scores.groupby(["candidate", "seed"]):
        assert sorted(rows["image_id"]) == sorted(trained_on)
    folds = scores.groupby(["seed", "image_id"])["fold"].nunique()
    assert (folds == 1).all()  # the same for all candidates
    assert not (config.workspace / "test_set.json").exists()  # locked by the first run
    assert not (config.workspace / "releases").exists()  # no look of the gate


def test_a_finished_comparison_is_verified_and_a_changed_figure_is_found(finished, tmp_path, capsys):
    folder, *_ = finished
    assert run_command(["verify", str(folder)]) == 0
    copy = tmp_path / "0001"
    shutil.copytree(folder, copy)
    facts = json.loads((copy / "comparison.json").read_text())
    facts["results"]["candidates"][1]["auc"] += 0.01
    (copy / "comparison.json").write_text(json.dumps(facts))
    (copy / "files.json").unlink()
    record_hashes(copy)
    assert run_command(["verify", str(copy)]) == 1
    assert "candidates[1].auc" in capsys.readouterr().out


def test_a_run_accepts_the_settings_of_the_chosen_candidate(config, finished):
    folder, *_ = finished
    facts = json.loads((folder / "comparison.json").read_text())
    command = read_command(["run", "--config", str(folder / "config.yaml"), "--source", str(config.source)], HipMri)
    chosen = next(it for it in config.candidates if it.name == facts["results"]["simplest"])
    settings = PipelineConfig.model_validate(command.model_dump(exclude={"config"}))
    assert settings == config.configure(chosen)
    for number, candidate in enumerate(config.candidates[:NUM_EVALUATED], start=1):
        content = yaml.safe_load((folder / "configs" / f"{number:02d}.yaml").read_text())
        assert content == {**config.configure(candidate).model_dump(mode="json"), "source": "given, not shown"}


def test_finished_folds_are_reused_and_a_split_is_kept(config, finished):
    """A comparison in a workspace whose test set is locked scores what it lacks, and spends no look of the gate."""
    folder, *_ = finished
    before = read_manifest(config.workspace / "manifest.parquet").set_index("image_id")["split"]
    lock_test_set(Workspace(config.workspace))
    locked = (config.workspace / "test_set.json").read_bytes()
    newer = {"name": "nearest neighbors", "head": "knn"}
    again, names, _ = run(config.model_copy(update={"candidates": (*config.candidates, candidate(newer))}))
    assert sum(name.startswith("cross_validate_candidate") for name in names) == 4
    assert (config.workspace / "test_set.json").read_bytes() == locked
    assert not (config.workspace / "releases").exists()
    after = read_manifest(config.workspace / "manifest.parquet").set_index("image_id")["split"]
    pd.testing.assert_series_equal(after, before)
    first, second = (pd.read_csv(it / "scores.csv") for it in (folder, again))
    pd.testing.assert_frame_equal(second[: len(first)], first)


def candidate(given: dict[str, str]):
    return CompareConfig.model_validate({"candidates": [given, {"name": "other"}]}).candidates[0]


def test_fewer_than_two_candidates_are_an_error(config):
    missing = [{"name": name, "weights": "imagenet"} for name in ("one", "two")]
    refused = CompareConfig.model_validate(config.model_dump() | {"candidates": [{"name": "kept"}, *missing]})
    with pytest.raises(WeightsError, match=r"at least 2 .*one.*two"):
        candidates.resolve_candidates(refused)
