from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hip_mri.dataset.manifest import write_manifest
from hip_mri.dataset.shards import plan_shards, read_shard
from hip_mri.errors import WorkspaceError
from hip_mri.workspace import Workspace


@settings(max_examples=12, deadline=None, database=None)
@given(num_images=st.integers(1, 60), shard_size=st.integers(4, 100), num_out=st.integers(0, 5))
def test_every_ready_image_is_in_exactly_one_shard(tmp_path_factory, write_rows, num_images, shard_size, num_out):
    workspace = Workspace(tmp_path_factory.mktemp("shards"))
    manifest = write_rows(workspace, num_images, num_out)
    manifest.loc[manifest["label"] == "osseous_lesion", "state"] = "quarantined"
    write_manifest(workspace.manifest_file, manifest)

    shards = plan_shards(workspace, shard_size)
    planned = Counter(image_id for shard in shards for image_id in read_shard(shard)["image_id"])
    assert planned == Counter(manifest.loc[manifest["state"] == "ready", "image_id"])
    assert [shard.num_images for shard in shards] == [len(read_shard(shard)) for shard in shards]
    assert all(shard.num_images for shard in shards)
    assert [shard.name for shard in shards] == [f"{place} of {len(shards)}" for place in range(1, len(shards) + 1)]


def test_one_image_more_changes_one_shard(tmp_path, write_rows):
    workspace = Workspace(tmp_path)
    whole = write_rows(workspace, 40, 0)
    for left_out in range(0, 40, 5):
        write_manifest(workspace.manifest_file, whole.drop(index=left_out))
        before = {shard.digest for shard in plan_shards(workspace, 10)}
        write_manifest(workspace.manifest_file, whole)
        after = {shard.digest for shard in plan_shards(workspace, 10)}
        assert len(after - before) == 1
        assert len(before - after) <= 1  # none where the image is the first of its shard


@pytest.mark.parametrize("column", ["label", "split"])
def test_another_label_or_split_changes_the_shard(workspace, write_rows, column):
    manifest = write_rows(workspace, 12, 12)
    before = {shard.digest for shard in plan_shards(workspace, 10)}
    manifest.loc[3, column] = "osseous_lesion" if column == "label" else "val"
    write_manifest(workspace.manifest_file, manifest)
    assert len({shard.digest for shard in plan_shards(workspace, 10)} - before) == 1


def test_order_and_names_do_not_change_shards(workspace, write_rows):
    manifest = write_rows(workspace, 20, 20)
    before = plan_shards(workspace, 10)
    write_manifest(workspace.manifest_file, manifest.iloc[::-1].assign(source_name="renamed"))
    assert plan_shards(workspace, 10) == before


def test_more_images_or_smaller_shards_make_more_shards(workspace, write_rows):
    by_images = []
    for num_images in (100, 300, 600):
        write_rows(workspace, num_images, 0)
        shards = plan_shards(workspace, 20)
        assert len(shards) >= num_images / 20
        assert max(shard.num_images for shard in shards) <= 2 * 20
        by_images.append(len(shards))
    by_size = [len(plan_shards(workspace, shard_size)) for shard_size in (600, 60, 20)]
    assert by_images == sorted(set(by_images))
    assert by_size == sorted(set(by_size))


def test_small_data_still_make_several_shards(workspace, write_rows):
    write_rows(workspace, 40, 40)
    assert len(plan_shards(workspace, 1_000_000)) == 8


def test_planning_again_writes_nothing(workspace, write_rows):
    write_rows(workspace, 20, 20)
    before = plan_shards(workspace, 10)
    times = {file: file.stat().st_mtime_ns for file in workspace.shards_folder.iterdir()}
    assert plan_shards(workspace, 10) == before
    assert {file: file.stat().st_mtime_ns for file in workspace.shards_folder.iterdir()} == times


def test_shards_of_earlier_plans_are_removed(workspace, write_rows):
    write_rows(workspace, 20, 20, prefix="old")
    plan_shards(workspace, 10)
    write_rows(workspace, 20, 20, prefix="new")
    shards = plan_shards(workspace, 10)
    assert set(workspace.shards_folder.iterdir()) == {shard.file for shard in shards}


def test_a_shard_is_sorted_and_holds_no_source_name(workspace, write_rows):
    write_rows(workspace, 20, 20)
    for shard in plan_shards(workspace, 10):
        rows = read_shard(shard)
        assert list(rows.columns) == ["image_id", "sha256", "label", "split"]
        assert rows["image_id"].is_monotonic_increasing


@pytest.mark.parametrize("content", [None, b"", b"no parquet"])
def test_a_damaged_shard_says_what_to_do(workspace, write_rows, content):
    write_rows(workspace, 20, 20)
    shard = plan_shards(workspace, 10)[0]
    shard.file.unlink()
    if content is not None:
        shard.file.write_bytes(content)
    with pytest.raises(WorkspaceError, match=shard.file.name):
        read_shard(shard)


def test_starting_again_mends_a_damaged_shard(workspace, write_rows):
    write_rows(workspace, 20, 20)
    shards = plan_shards(workspace, 10)
    whole = read_shard(shards[0])
    for damaged in (lambda: shards[0].file.write_bytes(b"no parquet"), lambda: whole[1:].to_parquet(shards[0].file)):
        damaged()
        pd.testing.assert_frame_equal(read_shard(plan_shards(workspace, 10)[0]), whole)
