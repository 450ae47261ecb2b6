"""Fingerprints: the same for the same pixels, stored once, atomically."""

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image

from hip_mri.dataset.row_store import StoredRows
from hip_mri.dataset.shards import read_shard
from hip_mri.errors import ImageError, WorkspaceError
from hip_mri.grouping import fingerprints as fingerprint
from hip_mri.grouping.fingerprints import (
    CROPS,
    find_unfingerprinted,
    fingerprint_image,
    fingerprint_images,
    read_fingerprints,
)
from tests.images.image_files import decode_gray


def count_differing_bits(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.bitwise_count(first ^ second).sum())


def list_parts(workspace) -> list:
    return sorted(path for path in workspace.fingerprints_folder.rglob("*") if path.is_file())


# One image


def test_shapes_and_kinds_are_as_described(draw):
    made = fingerprint_image(draw(1, 90, 70))
    assert (made["hashes"].dtype, made["hashes"].shape) == (np.uint8, (17, 32))
    assert (made["mirrored_hash"].dtype, made["mirrored_hash"].shape) == (np.uint8, (32,))
    assert (made["thumbnail"].dtype, made["thumbnail"].shape) == (np.uint8, (32, 32))


@pytest.mark.parametrize(("height", "width"), [(256, 256), (300, 200), (64, 64), (20, 24), (3, 5)])
def test_any_size_has_a_fingerprint(draw, height, width):
    assert fingerprint_image(draw(1, height, width))["thumbnail"].std() > 0


def test_the_hash_is_the_perceptual_hash_of_the_library(draw):
    picture = cv2.GaussianBlur(draw(1, 64, 64), (0, 0), 2)
    small = Image.fromarray(picture).resize((32, 32), Image.Resampling.LANCZOS)
    expected = imagehash.phash(small, hash_size=16, highfreq_factor=2).hash
    np.testing.assert_array_equal(np.unpackbits(fingerprint_image(picture)["hashes"][0]).reshape(16, 16), expected)


def test_the_hash_of_the_mirror_image_is_the_mirrored_hash(draw):
    picture = draw(1, 128, 96)
    mirrored = fingerprint_image(np.ascontiguousarray(picture[:, ::-1]))
    assert count_differing_bits(fingerprint_image(picture)["mirrored_hash"], mirrored["hashes"][0]) <= 2
    assert count_differing_bits(fingerprint_image(picture)["hashes"][0], mirrored["hashes"][0]) > 50


def test_each_crop_is_hashed_as_if_it_were_the_image():
    picture = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (400, 400), dtype=np.uint8), (0, 0), 8)
    for crop, made in zip(CROPS, fingerprint_image(picture)["hashes"], strict=True):
        left, top, right, bottom = (round(400 * cut) for cut in crop)
        cut_out = picture[top : 400 - bottom, left : 400 - right]
        assert count_differing_bits(made, fingerprint_image(cut_out)["hashes"][0]) <= 16


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), np.zeros(4, np.uint8)])
def test_only_gray_levels_have_a_fingerprint(image):
    with pytest.raises(ImageError, match="uint8") as caught:
        fingerprint_image(image)
    assert caught.value.reason == "not_gray"


# The store


@pytest.mark.parametrize("num_threads", [1, 4])
def test_stored_rows_are_the_fingerprints_of_the_images(filled, shard, num_threads):
    hashes = read_shard(shard)["sha256"].tolist()
    assert find_unfingerprinted(shard, filled) == sorted(hashes)
    assert fingerprint_images(shard, filled, num_threads) == len(hashes)
    assert find_unfingerprinted(shard, filled) == []
    stored = read_fingerprints([*hashes[::-1], hashes[0]], filled)
    assert list(stored.sha256) == sorted(hashes)
    for place, sha256 in enumerate(stored.sha256):
        made = fingerprint_image(decode_gray(filled.image_file(sha256).read_bytes()))
        np.testing.assert_array_equal(stored.hashes[place], made["hashes"])
        np.testing.assert_array_equal(stored.mirrored_hashes[place], made["mirrored_hash"])
        np.testing.assert_array_equal(stored.thumbnails[np.array([place])][0], made["thumbnail"])


def test_a_search_keeps_less_than_a_kilobyte_of_an_image_in_memory(filled, shard):
    fingerprint_images(shard, filled, 1)
    stored = read_fingerprints(read_shard(shard)["sha256"].tolist(), filled)
    assert stored.hashes.nbytes + stored.mirrored_hashes.nbytes < 1000 * shard.num_images
    assert isinstance(stored.thumbnails, StoredRows)


def test_only_missing_ones_are_made(filled, shard, monkeypatch):
    fingerprint_images(shard, filled, 1)
    before = [(file, file.stat().st_mtime_ns) for file in list_parts(filled)]
    monkeypatch.setattr(fingerprint, "read_stored_image", None)
    assert fingerprint_images(shard, filled, 1) == 0
    assert [(file, file.stat().st_mtime_ns) for file in list_parts(filled)] == before


def test_new_images_add_rows_and_leave_the_others(filled, shard):
    table = read_shard(shard)
    table[:4].to_parquet(shard.file, index=False)
    assert fingerprint_images(shard, filled, 1) == 4
    first = {file: file.read_bytes() for file in list_parts(filled)}
    table.to_parquet(shard.file, index=False)
    assert find_unfingerprinted(shard, filled) == sorted(table["sha256"][4:])
    assert fingerprint_images(shard, filled, 1) == len(table) - 4
    assert {file: file.read_bytes() for file in first} == first
    assert len(list_parts(filled)) == 2 * len(first)
    assert len(read_fingerprints(table["sha256"].tolist(), filled).sha256) == len(table)


def test_a_damaged_part_is_made_anew(filled, shard):
    fingerprint_images(shard, filled, 1)
    intact = {file: file.read_bytes() for file in list_parts(filled)}
    for part, content in intact.items():
        part.write_bytes(content[:-1])
        assert fingerprint_images(shard, filled, 1) == shard.num_images
        assert {file: file.read_bytes() for file in list_parts(filled)} == intact


def test_another_recipe_begins_anew(filled, shard, monkeypatch):
    fingerprint_images(shard, filled, 1)
    monkeypatch.setattr(fingerprint, "FINGERPRINT_RECIPE", fingerprint.FINGERPRINT_RECIPE + 1)
    assert len(find_unfingerprinted(shard, filled)) == shard.num_images


def test_a_killed_run_leaves_no_part(filled, shard, monkeypatch):
    def die(file, rows, **_):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", die)
    with pytest.raises(KeyboardInterrupt):
        fingerprint_images(shard, filled, 1)
    assert list_parts(filled) == []
    assert len(find_unfingerprinted(shard, filled)) == shard.num_images


def test_missing_fingerprints_are_counted(filled, shard):
    hashes = read_shard(shard)["sha256"].tolist()
    with pytest.raises(WorkspaceError) as caught:
        read_fingerprints(hashes, filled)
    assert f"{len(hashes)} of {len(hashes)} rows" in str(caught.value)
    fingerprint_images(shard, filled, 1)
    with pytest.raises(WorkspaceError, match=f" 1 of {len(hashes) + 1} rows"):
        read_fingerprints([*hashes, "f" * 64], filled)
    assert len(read_fingerprints([], filled).hashes) == 0


def test_a_damaged_image_stops_the_shard_and_nothing_is_stored(filled, shard):
    sha256 = read_shard(shard)["sha256"][2]
    filled.image_file(sha256).write_bytes(b"damaged")
    with pytest.raises(WorkspaceError, match=sha256):
        fingerprint_images(shard, filled, 2)
    assert list_parts(filled) == []
