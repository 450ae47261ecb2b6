"""The drift check before a retraining samples one image of each group, and counts all of them."""

from types import SimpleNamespace

import pandas as pd
import pytest

from hip_mri.config import DriftSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.promotion import batch_check
from hip_mri.promotion.batch_check import check_batch


@pytest.fixture
def images(trained_workspace, monkeypatch) -> pd.DataFrame:
    """Images in use; the latest version knows those of train and val, and test images are new."""
    images = select_ready(read_manifest(trained_workspace[0].manifest_file))
    known = images[images["split"] != "test"]
    monkeypatch.setattr(batch_check, "find_latest_version", lambda _: SimpleNamespace(model_sha256="0" * 64))
    monkeypatch.setattr(batch_check, "list_images", lambda _: known)
    monkeypatch.setattr(batch_check, "select_new", lambda rows, _: rows[~rows["sha256"].isin(known["sha256"])])
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
def test_without_new_images_or_a_version_there_is_no_check(images, trained_workspace, monkeypatch, missing):
    if missing == "version":
        monkeypatch.setattr(batch_check, "find_latest_version", lambda _: None)
    else:
        monkeypatch.setattr(batch_check, "select_new", lambda rows, _: rows[:0])
    assert check_batch(*trained_workspace, DriftSettings(), seed=0, num_threads=1) is None
