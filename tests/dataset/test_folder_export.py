import os

import cv2
import numpy as np
import pytest

from hip_mri.config import LABELS, SPLITS, PreprocessingSettings
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.folder_export import export_folders
from hip_mri.dataset.ingest import ingest_images
from hip_mri.dataset.manifest import read_manifest, write_manifest
from hip_mri.dataset.preprocessing import name_set, preprocess_images, read_images
from hip_mri.dataset.pseudonyms import read_named_manifest
from hip_mri.dataset.shards import plan_shards, read_shard
from hip_mri.errors import WorkspaceError
from hip_mri.grouping.split import split_manifest

SETTINGS = PreprocessingSettings(image_size=48)


@pytest.fixture
def prepared(filled, shard):
    preprocess_images(shard, filled, SETTINGS, 1)
    return filled


def show(workspace) -> dict[str, bytes]:
    folder = workspace.data_folder
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def expect(workspace, settings=SETTINGS) -> dict[str, bytes]:
    manifest = read_manifest(workspace.manifest_file)
    return {
        f"{row.split}/{row.label}/{row.image_id}.png": workspace.preprocessed_file(
            name_set(settings), row.sha256
        ).read_bytes()
        for row in manifest.itertuples()
        if row.state == "ready"
    }


def test_the_tree_is_what_the_manifest_says(prepared, entries):
    assert export_folders(prepared, SETTINGS) == prepared.data_folder
    assert show(prepared) == expect(prepared)
    assert len(show(prepared)) == len(entries)
    assert {path.name for path in prepared.data_folder.iterdir()} == set(SPLITS)
    for split in SPLITS:
        assert {path.name for path in (prepared.data_folder / split).iterdir()} == set(LABELS)


def test_the_tree_follows_another_split(prepared):
    export_folders(prepared, SETTINGS)
    before = set(show(prepared))
    prepared.splits_file.unlink()
    write_manifest(prepared.manifest_file, read_manifest(prepared.manifest_file).assign(split=""))
    split_manifest(prepared, 0.3, 0.3, seed=99)
    export_folders(prepared, SETTINGS)
    assert show(prepared) == expect(prepared)
    assert set(show(prepared)) != before


def test_the_tree_follows_other_settings(prepared, shard):
    export_folders(prepared, SETTINGS)
    before = show(prepared)
    other = PreprocessingSettings(image_size=32)
    preprocess_images(shard, prepared, other, 1)
    export_folders(prepared, other)
    assert show(prepared) == expect(prepared, other)
    assert all(show(prepared)[name] != before[name] for name in before)


def test_what_does_not_belong_there_is_removed(prepared):
    export_folders(prepared, SETTINGS)
    for name in ("stale.png", ".DS_Store", "notes.txt"):
        (prepared.data_folder / "train" / "normal" / name).write_bytes(b"stale")
    export_folders(prepared, SETTINGS)
    assert show(prepared) == expect(prepared)


def test_images_that_left_the_source_leave_the_tree(prepared, entries, pack):
    export_folders(prepared, SETTINGS)
    manifest = read_named_manifest(prepared)
    gone = manifest.loc[(manifest["split"] == "train") & (manifest["label"] == "normal"), "source_name"].iloc[0]
    fewer = {name: content for name, content in entries.items() if name != gone}
    ingest_images([Delivery("source", pack(fewer))], prepared, 1)
    split_manifest(prepared, 0.2, 0.2, seed=1)
    for shard in plan_shards(prepared, 1000):
        preprocess_images(shard, prepared, SETTINGS, 1)
    export_folders(prepared, SETTINGS)
    assert show(prepared) == expect(prepared)
    assert len(show(prepared)) == len(entries) - 1


def test_lost_and_exchanged_files_come_back(prepared):
    export_folders(prepared, SETTINGS)
    lost, exchanged = sorted(prepared.data_folder.rglob("*.png"))[:2]
    lost.unlink()
    exchanged.unlink()
    exchanged.write_bytes(b"something else")
    export_folders(prepared, SETTINGS)
    assert show(prepared) == expect(prepared)


def test_copies_that_are_right_are_left_alone(prepared):
    export_folders(prepared, SETTINGS)
    files = sorted(prepared.data_folder.rglob("*.png"))
    before = [file.stat().st_ctime_ns for file in files]
    export_folders(prepared, SETTINGS)
    assert [file.stat().st_ctime_ns for file in files] == before


@pytest.mark.parametrize("is_linked", [False, True], ids=["copy", "hard link of an earlier version"])
def test_an_edit_of_an_exported_file_changes_nothing_that_is_computed(prepared, shard, is_linked):
    hashes = list(read_shard(shard)["sha256"])
    images = read_images(hashes, prepared, SETTINGS, 1)
    export_folders(prepared, SETTINGS)
    exported = next(prepared.data_folder.rglob("*.png"))
    manifest = read_manifest(prepared.manifest_file).set_index("image_id")
    original = prepared.preprocessed_file(name_set(SETTINGS), str(manifest.loc[exported.stem, "sha256"]))
    if is_linked:
        exported.unlink()
        os.link(original, exported)
        export_folders(prepared, SETTINGS)
    before = expect(prepared)
    cv2.imwrite(str(exported), np.zeros((48, 48), np.uint8))  # opens the file that is there, as most editors do
    assert expect(prepared) == before
    np.testing.assert_array_equal(read_images(hashes, prepared, SETTINGS, 1), images)
    export_folders(prepared, SETTINGS)
    assert show(prepared) == before


def test_the_tree_is_for_its_owner_alone(prepared):
    folder = export_folders(prepared, SETTINGS)
    assert {path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*")) if path.is_dir()} == {0o700}


def test_a_foreign_folder_does_not_stop_the_run(prepared):
    """Jupyter, for one, leaves `.ipynb_checkpoints` wherever it looks."""
    export_folders(prepared, SETTINGS)
    folder = prepared.data_folder / "train" / "normal"
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "copy.png").write_bytes(b"foreign")
    export_folders(prepared, SETTINGS)
    assert show(prepared) == expect(prepared)
    assert not (folder / ".ipynb_checkpoints").exists()


def test_a_folder_in_the_place_of_an_image_makes_way(prepared):
    export_folders(prepared, SETTINGS)
    image = next(prepared.data_folder.rglob("*.png"))
    image.unlink()
    image.mkdir()
    export_folders(prepared, SETTINGS)
    assert show(prepared) == expect(prepared)


def test_what_a_link_points_at_is_left_alone(prepared, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept.png").write_bytes(b"kept")
    export_folders(prepared, SETTINGS)
    (prepared.data_folder / "train" / "normal" / "link").symlink_to(tmp_path / "elsewhere")
    export_folders(prepared, SETTINGS)
    assert show(prepared) == expect(prepared)
    assert (tmp_path / "elsewhere" / "kept.png").read_bytes() == b"kept"


def test_a_missing_preprocessed_image_is_named(prepared):
    missing = next((prepared.root / "preprocessed").rglob("*.png"))
    missing.unlink()
    with pytest.raises(WorkspaceError) as caught:
        export_folders(prepared, SETTINGS)
    assert str(missing) in str(caught.value)
    assert "room" not in str(caught.value)
