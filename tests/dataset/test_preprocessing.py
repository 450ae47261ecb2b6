import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hip_mri.config import PreprocessingSettings
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import ingest_images
from hip_mri.dataset.preprocessing import find_missing, name_set, preprocess_images, read_stored_image
from hip_mri.dataset.shards import read_shard
from hip_mri.errors import ImageError, WorkspaceError
from hip_mri.images.clahe_and_resizing import equalize_contrast, preprocess_image
from hip_mri.images.stored_png import decode_png
from tests.images.image_files import decode_gray, hash_picture

SETTINGS = PreprocessingSettings()


def follow_the_recipe(
    content: bytes, clip_limit=2.0, num_tiles=8, size=224, interpolation=cv2.INTER_LINEAR
) -> np.ndarray:
    """The original recipe in plain OpenCV: read in color, gray, CLAHE, resize."""
    color = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    gray = cv2.cvtColor(color, cv2.COLOR_BGR2GRAY)
    clahe = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(num_tiles, num_tiles))
    return cv2.resize(clahe.apply(gray), (size, size), interpolation=interpolation)


def open_image(file: Path) -> Image.Image:
    return Image.open(io.BytesIO(file.read_bytes()))


# The recipe


@pytest.mark.parametrize(("height", "width"), [(224, 224), (256, 256), (300, 200), (64, 48), (51, 501), (8, 8)])
def test_pixels_are_those_of_the_recipe(draw, encode, height, width):
    content = encode(draw(1, height, width))
    image = preprocess_image(decode_gray(content), SETTINGS)
    assert (image.dtype, image.shape) == (np.uint8, (224, 224))
    np.testing.assert_array_equal(image, follow_the_recipe(content))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_color_images_follow_the_recipe_too(draw, encode, kind):
    content = encode(np.dstack([draw(seed, 90, 80) for seed in (1, 2, 3)]), kind)
    np.testing.assert_array_equal(preprocess_image(decode_gray(content), SETTINGS), follow_the_recipe(content))


@pytest.mark.parametrize(
    ("clip_limit", "num_tiles", "size"), [(1.0, 8, 224), (40.0, 8, 224), (2.0, 1, 224), (2.0, 3, 64)]
)
def test_settings_are_followed(draw, encode, clip_limit, num_tiles, size):
    content = encode(draw(1, 128, 100))
    settings = PreprocessingSettings(clahe_clip_limit=clip_limit, clahe_num_tiles=num_tiles, image_size=size)
    np.testing.assert_array_equal(
        preprocess_image(decode_gray(content), settings), follow_the_recipe(content, clip_limit, num_tiles, size)
    )


def test_without_clipping_only_the_size_changes(draw, encode):
    picture = draw(1, 100, 90)
    settings = PreprocessingSettings(clahe_clip_limit=0)
    np.testing.assert_array_equal(preprocess_image(picture, settings), cv2.resize(picture, (224, 224)))
    same_size = draw(1, 224, 224)
    np.testing.assert_array_equal(preprocess_image(same_size, settings), same_size)


def test_area_averages_where_the_image_shrinks(draw, encode):
    settings = PreprocessingSettings(interpolation="area", clahe_clip_limit=0, image_size=32)
    picture = draw(1, 128, 128)
    means = picture.reshape(32, 4, 32, 4).mean(axis=(1, 3))
    assert np.abs(preprocess_image(picture, settings) - means).max() <= 0.51
    small = draw(1, 20, 128)
    np.testing.assert_array_equal(
        preprocess_image(small, settings), cv2.resize(small, (32, 32), interpolation=cv2.INTER_LINEAR)
    )


def test_equalizing_spreads_the_gray_levels():
    faint = (100 + 10 * np.random.default_rng(1).random((64, 64))).astype(np.uint8)
    before = faint.copy()
    equalized = equalize_contrast(faint)
    assert equalized.std() > 2 * faint.std()
    assert (equalized.shape, equalized.dtype) == (faint.shape, np.uint8)
    np.testing.assert_array_equal(faint, before)


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), np.zeros(4, np.uint8)])
def test_only_gray_levels_are_equalized(image):
    with pytest.raises(ImageError, match="uint8") as caught:
        equalize_contrast(image)
    assert caught.value.reason == "not_gray"


# The set


def test_every_setting_makes_a_set_of_its_own():
    changes = [
        {},
        {"clahe_clip_limit": 2.5},
        {"clahe_num_tiles": 7},
        {"image_size": 225},
        {"interpolation": "area"},
    ]
    assert {next(iter(change)) for change in changes if change} == set(PreprocessingSettings.model_fields)
    assert len({name_set(PreprocessingSettings(**change)) for change in changes}) == len(changes)
    assert name_set(PreprocessingSettings()) == name_set(PreprocessingSettings(clahe_clip_limit=2))


@pytest.mark.parametrize("num_threads", [1, 4])
def test_each_image_is_written_as_the_recipe_has_it(filled, shard, entries, num_threads):
    assert preprocess_images(shard, filled, SETTINGS, num_threads) == len(entries)
    contents = {hash_picture(content): content for content in entries.values()}
    for sha256 in read_shard(shard)["sha256"]:
        written = open_image(filled.preprocessed_file(name_set(SETTINGS), sha256))
        assert (written.mode, written.info) == ("L", {})
        np.testing.assert_array_equal(np.asarray(written), follow_the_recipe(contents[sha256]))


def test_only_missing_images_are_made(filled, shard, entries):
    assert len(find_missing(shard, filled, SETTINGS)) == len(entries)
    preprocess_images(shard, filled, SETTINGS, 1)
    files = sorted((filled.root / "preprocessed").rglob("*.png"))
    assert len(files) == len(entries)
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
    files[3].unlink()
    assert find_missing(shard, filled, SETTINGS) == [files[3].stem]
    assert preprocess_images(shard, filled, SETTINGS, 1) == 1
    assert preprocess_images(shard, filled, SETTINGS, 1) == 0
    assert files[3].read_bytes() == before[files[3]][1]
    assert all(file.stat().st_mtime_ns == before[file][0] for file in files if file != files[3])


def test_other_settings_make_another_set_beside_the_first(filled, shard, entries):
    preprocess_images(shard, filled, SETTINGS, 1)
    first = {file: file.read_bytes() for file in (filled.root / "preprocessed").rglob("*.png")}
    small = PreprocessingSettings(image_size=32)
    assert preprocess_images(shard, filled, small, 1) == len(entries)
    assert find_missing(shard, filled, SETTINGS) == []
    assert {file: file.read_bytes() for file in first} == first
    sizes = {open_image(file).size for file in (filled.root / "preprocessed" / name_set(small)).rglob("*.png")}
    assert sizes == {(32, 32)}


def test_deep_images_are_preprocessed_from_stretched_levels():
    values = np.random.default_rng(1).integers(0, 4096, (50, 60), dtype=np.uint16)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    eight_bit = cv2.imencode(".png", decode_gray(stream.getvalue()))[1].tobytes()
    np.testing.assert_array_equal(
        preprocess_image(decode_gray(stream.getvalue()), SETTINGS), follow_the_recipe(eight_bit)
    )


# The store


def test_a_damaged_stored_image_is_removed_and_restored_by_the_next_ingest(filled, shard, source_file):
    sha256 = read_shard(shard)["sha256"][2]
    file = filled.image_file(sha256)
    original = file.read_bytes()
    file.write_bytes(original[:-1] + b"x")
    with pytest.raises(WorkspaceError, match=rf"^{file} was damaged .*\.damaged"):
        preprocess_images(shard, filled, SETTINGS, 1)
    assert not file.exists()
    with pytest.raises(WorkspaceError, match=rf"^{file} is missing"):
        preprocess_images(shard, filled, SETTINGS, 1)
    ingest_images([Delivery("source", source_file)], filled, 1)
    assert file.read_bytes() == original
    np.testing.assert_array_equal(read_stored_image(sha256, filled), decode_png(original))
    preprocess_images(shard, filled, SETTINGS, 1)
    assert find_missing(shard, filled, SETTINGS) == []
