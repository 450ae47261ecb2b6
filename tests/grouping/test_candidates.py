"""The search by hash against comparing all with all."""

import itertools
import logging

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from hip_mri.grouping.candidates import MAX_DISTANCE, MAX_NUM_KEPT, MAX_NUM_STEPS, Candidates, find_candidates

NUM_CROPS = 5


def draw_hashes(num_images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of images that have nothing in common, and of their mirror images."""
    generator = np.random.default_rng(seed)
    hashes = generator.integers(0, 256, (num_images, NUM_CROPS, 32), dtype=np.uint8)
    return hashes, generator.integers(0, 256, (num_images, 32), dtype=np.uint8)


def flip_bits(hash_: np.ndarray, count: int, seed: int) -> np.ndarray:
    bits = np.unpackbits(hash_)
    bits[np.random.default_rng(seed).choice(256, count, replace=False)] ^= 1
    return np.packbits(bits)


def list_pairs(found: Candidates) -> list[tuple[int, bool, int, int, int]]:
    arrays = (found.query, found.is_mirrored, found.image, found.crop, found.distance)
    return list(zip(*(array.tolist() for array in arrays), strict=True))


def compare_all(hashes: np.ndarray, mirrored: np.ndarray) -> set[tuple[int, bool, int, int, int]]:
    """Every pair of images that are near by any crop, with its nearest comparison."""
    nearest = {}
    queries = [(place, turned) for turned in (False, True) for place in range(len(hashes))]
    for (query, turned), image, crop in itertools.product(queries, range(len(hashes)), range(NUM_CROPS)):
        differing = (mirrored[query] if turned else hashes[query, 0]) ^ hashes[image, crop]
        distance = int(np.bitwise_count(differing).sum())
        if query != image and distance <= MAX_DISTANCE:
            key = (min(query, image), max(query, image), turned)
            nearest[key] = min(nearest.get(key, (999,)), (distance, query, crop, image))
    return {(query, key[2], image, crop, distance) for key, (distance, query, crop, image) in nearest.items()}


@pytest.mark.parametrize("num_threads", [1, 3])
def test_what_is_found_is_what_comparing_all_finds(num_threads):
    hashes, mirrored = draw_hashes(60)
    for number in range(20):  # up to 7 differing bits leave one of 8 bands as it was
        crop, distance = number % NUM_CROPS, number % 8
        (hashes[30 + number, 0], mirrored[0])[0][:] = flip_bits(hashes[number, crop], distance, number)
    for number in range(20, 26):
        mirrored[30 + number] = flip_bits(hashes[number, 2], number - 20, number)
    found = list_pairs(find_candidates(hashes, mirrored, num_threads))
    assert len(found) >= 26
    assert set(found) == compare_all(hashes, mirrored)
    assert len(found) == len(set(found))
    assert [pair[-1] for pair in found] == sorted(pair[-1] for pair in found)


@pytest.mark.parametrize(("distance", "min_recall"), [(7, 1.0), (12, 0.99), (16, 0.95), (20, 0.85)])
def test_most_pairs_are_found_far_beyond_what_is_certain(distance, min_recall):
    num_pairs = 400
    hashes, mirrored = draw_hashes(2 * num_pairs)
    for number in range(num_pairs):
        hashes[num_pairs + number, 0] = flip_bits(hashes[number, 3], distance, number)
    found = {(query, image) for query, _, image, _, _ in list_pairs(find_candidates(hashes, mirrored, 2))}
    wanted = {(num_pairs + number, number) for number in range(num_pairs)}
    assert len(found & wanted) >= min_recall * num_pairs
    assert found <= wanted


def test_hashes_that_are_far_apart_are_no_candidates():
    hashes, mirrored = draw_hashes(2)
    hashes[1, 0] = flip_bits(hashes[0, 0], MAX_DISTANCE + 1, 0)
    assert len(find_candidates(hashes, mirrored, 1)) == 0


@pytest.mark.parametrize("num_images", [0, 1])
def test_few_images_have_no_candidates(num_images):
    hashes, mirrored = draw_hashes(num_images)
    mirrored[:] = hashes[:, 0]  # an image is no copy of itself
    assert len(find_candidates(hashes, mirrored, 1)) == 0


def count_groups(found: Candidates, num_images: int, among: int) -> int:
    """Into how many groups the first images fall."""
    graph = coo_matrix((np.ones(len(found)), (found.query, found.image)), (num_images, num_images))
    return len(set(connected_components(graph, directed=False)[1][:among]))


def test_a_crowd_of_similar_hashes_takes_limited_time_and_is_reported(caplog):
    hashes, mirrored = draw_hashes(1500)
    hashes[:1000] = hashes[0, 0]
    with caplog.at_level(logging.INFO):
        found = find_candidates(hashes, mirrored, 2)
    assert len(found) <= 1000 * 2 * MAX_NUM_KEPT
    assert max(found.query.max(), found.image.max()) < 1000
    assert count_groups(found, 1500, among=1000) == 1
    assert "of the lookups reached the limit" in caplog.text


@pytest.mark.parametrize("size", [MAX_NUM_STEPS, 500])
def test_a_group_of_near_hashes_is_connected(size):
    hashes, mirrored = draw_hashes(2 * size)
    for number in range(1, size):
        hashes[number, :] = flip_bits(hashes[0, 0], number % 6, number)
    assert count_groups(find_candidates(hashes, mirrored, 1), 2 * size, among=size) == 1


def test_without_similar_hashes_nothing_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        find_candidates(*draw_hashes(50), 1)
    assert caplog.text == ""
