"""Only cached files that neither the latest run nor a champion uses are removed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hip_mri.errors import WorkspaceError
from hip_mri.grouping.fingerprints import FINGERPRINT_RECIPE
from hip_mri.hashes import digest_file, hash_files
from hip_mri.models.backbones.backbone import open_backbone
from hip_mri.registry.champion import promote
from hip_mri.registry.prune_caches import plan_pruning, prune
from hip_mri.registry.registration import register_version
from hip_mri.registry.versions import read_version
from hip_mri.storage import write_json
from hip_mri.workspace import Workspace

NUM_BYTES = 1000
NEXT_RUN = 2e9
"""Time of what an interrupted run wrote after the latest finished one."""


def write_file(file: Path, content: bytes = b"x" * NUM_BYTES) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def write_model(workspace: Workspace, run: Path, name: str) -> None:
    """A trained model as training leaves it, with its backbone and the backbone's export."""
    folder, backbone = workspace.models_folder / name, workspace.backbones_folder / name
    write_file(backbone / "backbone.weights.h5", name.encode())
    write_json(backbone / "identity.json", {"name": "ResNet50", "image_size": 32, "is_standardized": False})
    write_json(backbone / "files.json", hash_files(backbone))
    write_file(backbone.with_name(f"{name}-openvino") / "backbone.xml")
    write_file(backbone.with_name(f"{name}-engine") / "choice.json")
    write_file(folder / "model.keras", (run / "model.keras").read_bytes())
    write_json(folder / "identity.json", {"backbone": open_backbone(backbone).digest})
    write_json(folder / "files.json", hash_files(folder))
    write_file(workspace.features_folder / f"features of {name}" / "rows.npy")
    served = workspace.serving.backbones_folder / name
    write_json(served / "network.json", {"model_sha256": digest_file(run / "model.keras")})
    write_file(served.with_name(f"{name}-openvino") / "backbone.xml")


@pytest.fixture
def filled(workspace: Workspace, write_run) -> Workspace:
    """Three runs, of which the first became champion and the second did not, with everything they cached."""
    for name in ("champion", "declined", "latest"):
        run = write_run(further={"folds.csv": name.encode()})
        metrics = {
            "features": {"set": f"features of {name}", "preprocessed": f"images of {name}"},
            "test_set": {"sha256": ""},
        }
        write_json(run / "metrics.json", metrics)
        write_json(run / "files.json", hash_files(run))
        write_model(workspace, run, name)
        write_file(workspace.preprocessed_folder / f"images of {name}" / "ab" / "ab.png")
        write_file(workspace.folds_folder / f"{name}.csv", name.encode())
        if name != "latest":
            register_version(workspace, run)
    promote(workspace, read_version(workspace, 1), "better")
    for folder in (workspace.explanations_folder, workspace.drift_folder, workspace.cache_folder):
        write_file(folder / "file")
    for recipe in (FINGERPRINT_RECIPE, FINGERPRINT_RECIPE - 1):
        write_file(workspace.fingerprints_folder / str(recipe) / "part.npy")
    write_file(workspace.serving.preprocessed_folder / "images" / "ab" / "ab.png")
    write_file(workspace.serving.manifest_file)
    write_file(workspace.images_folder / "ab" / "ab")
    with workspace.hold_serving(), workspace.hold():  # writes the files of a workspace
        pass
    for file in workspace.root.rglob("*"):
        os.utime(file, (1e9, 1e9))
    write_file(workspace.folds_folder / "interrupted.csv", b"interrupted")
    os.utime(workspace.folds_folder / "interrupted.csv", (NEXT_RUN, NEXT_RUN))
    return workspace


UNUSED = {
    "models/declined",
    "backbones/declined",
    "backbones/declined-openvino",
    "backbones/declined-engine",
    "features/features of champion",
    "features/features of declined",
    "preprocessed/images of champion",
    "preprocessed/images of declined",
    "folds/champion.csv",
    "folds/declined.csv",
    "explanations/file",
    "drift/file",
    "cache/file",
    f"fingerprints/{FINGERPRINT_RECIPE - 1}",
    "serving/backbones/declined",
    "serving/backbones/declined-openvino",
    "serving/preprocessed/images",
    "serving/manifest.parquet",
}


def list_files(workspace: Workspace) -> Iterator[str]:
    return (file.relative_to(workspace.root).as_posix() for file in workspace.root.rglob("*") if file.is_file())


def name_paths(workspace: Workspace, plan) -> set[str]:
    return {removal.path.relative_to(workspace.root).as_posix() for removal in plan}


def test_the_plan_lists_what_is_unused_and_removes_nothing(filled: Workspace) -> None:
    before = set(list_files(filled))
    plan = plan_pruning(filled)
    assert name_paths(filled, plan) == UNUSED
    assert set(list_files(filled)) == before
    assert {removal.kind for removal in plan if removal.path.parent.parent == filled.root} <= {
        path.split("/")[0] for path in UNUSED
    }
    assert sum(it.num_bytes for it in plan if it.kind == "preprocessed") == 2 * NUM_BYTES


def test_pruning_removes_the_plan_and_nothing_else(filled: Workspace) -> None:
    before = set(list_files(filled))
    assert name_paths(filled, prune(filled)) == UNUSED
    after = set(list_files(filled))
    assert {
        file for file in before - after if not any(file == it or file.startswith(f"{it}/") for it in UNUSED)
    } == set()
    assert not any((filled.root / path).exists() for path in UNUSED)
    assert plan_pruning(filled) == []


def test_files_with_a_link_elsewhere_free_no_space(filled: Workspace) -> None:
    file = filled.preprocessed_folder / "images of declined" / "ab" / "ab.png"
    other = filled.preprocessed_folder / "images of champion"
    os.link(file, other / "link.png")  # both are removed
    os.utime(other, (1e9, 1e9))
    assert sum(it.num_bytes for it in plan_pruning(filled) if it.kind == "preprocessed") == 2 * NUM_BYTES
    os.link(file, filled.root / "elsewhere.png")
    assert sum(it.num_bytes for it in plan_pruning(filled) if it.kind == "preprocessed") == NUM_BYTES


def test_the_drift_picture_of_a_pending_retraining_is_kept(filled: Workspace, write_run) -> None:
    register_version(filled, filled.runs_folder / "0003", is_challenger=True)
    assert "drift/file" not in name_paths(filled, plan_pruning(filled))


@pytest.mark.parametrize("part", ["", "serving"])
def test_nothing_is_removed_while_a_run_uses_the_workspace(filled: Workspace, part: str) -> None:
    with Workspace(filled.root / part).hold(), pytest.raises(WorkspaceError, match="in use by"):
        prune(filled)
    assert (filled.models_folder / "declined").exists()


def test_without_a_run_nothing_is_touched(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="no finished run"):
        prune(Workspace(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_that_only_scores_is_pruned(workspace: Workspace) -> None:
    write_file(workspace.serving.preprocessed_folder / "images" / "ab.png")
    assert [removal.kind for removal in prune(workspace)] == ["serving"]
