"""Images are compared with the manifest of the model's run by their pixels, whatever the format of the file."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hip_mri.config import PreprocessingSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.errors import WorkspaceError
from hip_mri.evaluation.run_tables import describe_manifest
from hip_mri.serving.known_images import NOT_RECORDED, count_known, describe_known, find_known_splits, read_known_splits
from hip_mri.serving.prediction_inputs import ingest_inputs
from hip_mri.workspace import Workspace
from tests.dataset.batches import read_batch


@pytest.fixture
def manifest(filled):
    """The manifest of a run on eleven images, and its CSV file."""
    manifest = describe_manifest(read_manifest(filled.manifest_file))
    file = filled.root / "manifest.csv"
    manifest.to_csv(file, index=False)
    return manifest, file


def test_splits_are_those_of_the_manifest(manifest):
    table, file = manifest
    asked = pd.Series([*reversed(table["sha256"]), "0" * 64], index=range(100, 112))
    splits = find_known_splits(asked, read_known_splits(file))
    assert splits.index.equals(asked.index)
    assert list(splits) == [*reversed(table["split"]), ""]
    assert count_known(splits) == table["split"].value_counts().to_dict()


def test_images_without_a_split_are_not_known(manifest):
    table, file = manifest
    table.assign(state="held_out", split="").to_csv(file, index=False)
    assert set(find_known_splits(table["sha256"], read_known_splits(file))) == {""}


def test_an_image_that_occurred_twice_in_the_source_is_known(manifest):
    table, file = manifest
    pd.concat([table, table.assign(state="duplicate", split="")]).to_csv(file, index=False)
    assert list(find_known_splits(table["sha256"], read_known_splits(file))) == list(table["split"])


def test_copies_are_known_in_every_lossless_format(manifest, entries, encode, spread, tmp_path):
    table, file = manifest
    picture = Image.open(io.BytesIO(entries["normal/n0.png"]))
    jpeg = encode(picture, "JPEG", quality=80)
    files = {
        "a.tif": encode(picture, "TIFF", compression="tiff_lzw"),
        "b.bmp": encode(picture, "BMP"),
        "c.png": encode(picture.convert("RGB"), "PNG", optimize=True),
        "d.jpg": jpeg,
        "e.png": encode(Image.open(io.BytesIO(jpeg))),
        "f.png": encode(np.asarray(picture.resize((40, 48)))),
    }
    serving = Workspace(tmp_path / "serving")
    ingest_inputs(spread(files, "copies"), serving, PreprocessingSettings(image_size=32), num_threads=1)
    batch = read_batch(serving)
    splits = find_known_splits(batch["sha256"], read_known_splits(file))
    assert (splits[["a.tif", "b.bmp", "c.png"]] != "").all()
    assert splits[["a.tif", "b.bmp", "c.png"]].nunique() == 1
    assert (splits[["d.jpg", "e.png", "f.png"]] == "").all()
    assert batch.loc["d.jpg", "sha256"] == batch.loc["e.png", "sha256"]
    assert set(select_ready(read_manifest(serving.manifest_file))["sha256"]) & set(table["sha256"])


def test_without_a_manifest_nothing_is_claimed():
    splits = find_known_splits(pd.Series(["0" * 64] * 2), read_known_splits(None))
    assert list(splits) == [NOT_RECORDED] * 2
    assert count_known(splits) is None
    assert describe_known(None, 2) == ""


def test_a_damaged_manifest_is_refused(tmp_path):
    (tmp_path / "manifest.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WorkspaceError, match=r"manifest\.csv"):
        read_known_splits(tmp_path / "manifest.csv")


def test_the_notice_has_the_counts_of_each_use():
    notice = describe_known({"train": 1218, "val": 0, "test": 46}, 2311)
    assert "of 2,311 images, 1,218 trained, 46 tested this model" in notice
    assert describe_known({"train": 0, "val": 0, "test": 0}, 311) == ""
