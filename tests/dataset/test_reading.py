import cv2
import numpy as np
import pytest

from hip_mri.config import PreprocessingSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.preprocessing import name_set, preprocess_images, read_images, read_sample
from hip_mri.dataset.shards import read_shard
from hip_mri.errors import WorkspaceError
from hip_mri.images.clahe_and_resizing import preprocess_image
from hip_mri.images.stored_png import decode_png, encode_png

SETTINGS = PreprocessingSettings(image_size=48)


@pytest.fixture
def hashes(filled, shard) -> list[str]:
    preprocess_images(shard, filled, SETTINGS, 1)
    return list(read_shard(shard)["sha256"])


def make(sha256: str, workspace) -> np.ndarray:
    return preprocess_image(decode_png(workspace.image_file(sha256).read_bytes()), SETTINGS)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_images_come_in_the_order_asked_for(filled, hashes, num_threads):
    wanted = [*reversed(hashes), hashes[0]]
    images = read_images(wanted, filled, SETTINGS, num_threads)
    assert len(images) == len(wanted)
    for sha256, image in zip(wanted, images, strict=True):
        assert (image.dtype, image.shape) == (np.uint8, (48, 48))
        np.testing.assert_array_equal(image, make(sha256, filled))


def test_nothing_is_read_for_no_images(filled, hashes):
    assert read_images([], filled, SETTINGS, 1) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:60] + bytes([content[60] ^ 1]) + content[61:],
        lambda content: b"text",
        None,
    ],
    ids=["empty", "half", "last byte lost", "more", "flipped bit", "text", "missing"],
)
def test_a_damaged_image_is_made_again(filled, hashes, damage):
    file = filled.preprocessed_file(name_set(SETTINGS), hashes[1])
    content = file.read_bytes()
    file.unlink()
    if damage:
        file.write_bytes(damage(content))
    images = read_images(hashes, filled, SETTINGS, 2)
    np.testing.assert_array_equal(images[1], make(hashes[1], filled))
    assert file.read_bytes() == content


@pytest.mark.parametrize("how", ["another picture", "the file of another image", "of an earlier version"])
def test_an_image_with_other_content_than_was_written_is_made_again(filled, hashes, how):
    file, other = (filled.preprocessed_file(name_set(SETTINGS), sha256) for sha256 in hashes[:2])
    content, levels = file.read_bytes(), cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    changed = {
        "another picture": encode_png(255 - levels),
        "the file of another image": other.read_bytes(),
        "of an earlier version": encode_png(levels),  # without a checksum
    }
    file.write_bytes(changed[how])
    np.testing.assert_array_equal(read_images(hashes[:1], filled, SETTINGS, 1)[0], make(hashes[0], filled))
    assert file.read_bytes() == content


def test_a_whole_image_is_not_made_again(filled, hashes):
    files = [filled.preprocessed_file(name_set(SETTINGS), sha256) for sha256 in hashes]
    before = [file.stat().st_mtime_ns for file in files]
    for sha256 in hashes:
        filled.image_file(sha256).unlink()  # not even the source image is looked at
    read_images(hashes, filled, SETTINGS, 1)
    assert [file.stat().st_mtime_ns for file in files] == before


def test_without_its_source_image_a_damaged_one_cannot_be_made(filled, hashes):
    filled.preprocessed_file(name_set(SETTINGS), hashes[0]).write_bytes(b"")
    filled.image_file(hashes[0]).unlink()
    with pytest.raises(WorkspaceError, match=hashes[0]):
        read_images(hashes, filled, SETTINGS, 1)


def test_the_sample_is_repeatable_and_independent_of_the_split(filled, hashes):
    ready = sorted(select_ready(read_manifest(filled.manifest_file))["sha256"])
    for max_images in (1, 3, len(ready), 1000):
        sample, images = read_sample(filled, SETTINGS, max_images, 1)
        assert list(sample) == ready[:max_images]
        for sha256, image in zip(sample, images, strict=True):
            np.testing.assert_array_equal(image, make(sha256, filled))


def test_other_programs_can_read_the_images(filled, hashes):
    file = filled.preprocessed_file(name_set(SETTINGS), hashes[0])
    np.testing.assert_array_equal(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), make(hashes[0], filled))
