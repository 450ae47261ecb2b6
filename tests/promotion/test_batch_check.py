"""The drift check before a retraining samples one image of each group, and counts all of them."""

from types import SimpleNamespace

import pandas as pd
import pytest

from hip_mri.config import DriftSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.evaluation.run_tables import describe_manifest
from hip_mri.promotion import batch_check, new_images
from hip_mri.promotion.batch_check import check_batch
from hip_mri.promotion.new_images import Reference
from hip_mri.storage import write_json


@pytest.fixture
def images(trained_workspace, monkeypatch, tmp_path) -> pd.DataFrame:
    """Images in use; the latest version knows those of train and val, and test images are new."""
    images = select_ready(read_manifest(trained_workspace[0].manifest_file))
    describe_manifest(images[images["split"] != "test"]).to_csv(tmp_path / "manifest.csv", index=False)
    write_json(tmp_path / "metrics.json", {})
    for module in (batch_check, new_images):
        monkeypatch.setattr(module, "find_reference", lambda _: Reference("version 0001", tmp_path))
    return images


def test_all_images_and_groups_of_both_sides_are_counted(images, trained_workspace):
    workspace, features = trained_workspace
    found = check_batch(workspace, features, DriftSettings(), seed=0, num_threads=1)
    assert found is not None
    sides = [list(images[images["split"] == split]["group"]) for split in ("test", "train")]
    assert all(len(groups) > len(set(groups)) for groups in sides)  # more images than groups, of which each is sampled
    report = found.report
    assert (report.num_images, report.num_reference_images) == tuple(len(groups) for groups in sides)
    assert (report.num_groups, report.num_reference_groups) == tuple(len(set(groups)) for groups in sides)
    assert f"{len(sides[0])} images of {len(set(sides[0]))} groups" in report.summary
    assert found.picture_file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("missing", ["new images", "version"])
def test_without_new_images_or_a_version_there_is_no_check(images, trained_workspace, monkeypatch, missing, tmp_path):
    if missing == "version":
        monkeypatch.setattr(batch_check, "find_reference", lambda _: None)
    else:
        describe_manifest(images).to_csv(tmp_path / "manifest.csv", index=False)
    assert check_batch(trained_workspace[0], trained_workspace[1], DriftSettings(), seed=0, num_threads=1) is None


@pytest.mark.parametrize("num_checked", [5, 0])
def test_images_of_an_unconcluded_challenger_are_not_checked_with_others(
    images, trained_workspace, monkeypatch, num_checked, tmp_path
):
    new = images[images["split"] == "test"]
    challenger = tmp_path / "challenger"
    challenger.mkdir()
    describe_manifest(new.iloc[num_checked:]).to_csv(challenger / "manifest.csv", index=False)
    monkeypatch.setattr(new_images, "list_unconcluded", lambda _: [SimpleNamespace(folder=challenger)])
    found = check_batch(trained_workspace[0], trained_workspace[1], DriftSettings(), seed=0, num_threads=1)
    assert found is not None
    assert found.report.num_images == (num_checked or len(new))  # its own retraining is repeated with the same check
    assert found.is_accepted == (num_checked == 0)
