"""Copies of an image as they occur in collections, for tests of the search for copies."""

from collections.abc import Callable, Mapping
from typing import Final

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.dataset.shards import Shard
from hip_mri.storage import write_small_file
from hip_mri.workspace import Workspace
from tests.images.image_files import hash_picture

Image = NDArray[np.uint8]

MAX_CROP: Final = 0.03  # share of the image, per side


def reencode(image: Image, generator: np.random.Generator) -> Image:
    """What is left after JPEG of a quality from 50 to 95."""
    quality = int(generator.integers(50, 96))
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def rescale(image: Image, generator: np.random.Generator) -> Image:
    """Half to twice the size."""
    factor = 2 ** generator.uniform(-1, 1)
    enlarging = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[generator.integers(2)]
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else enlarging)


def mirror(image: Image, generator: np.random.Generator) -> Image:
    return np.ascontiguousarray(image[:, ::-1])


def change_brightness(image: Image, generator: np.random.Generator) -> Image:
    """Up to a quarter more or less contrast and 25 gray levels brighter or darker, cut off at black and white."""
    changed = image * generator.uniform(0.75, 1.25) + generator.uniform(-25, 25)
    return np.clip(changed, 0, 255).round().astype(np.uint8)


def crop(image: Image, generator: np.random.Generator) -> Image:
    """Without up to `MAX_CROP` on each side, drawn side by side."""
    height, width = image.shape
    cuts = generator.uniform(0, MAX_CROP, 4)
    top, left, bottom, right = (int(cut * size) for cut, size in zip(cuts, (height, width) * 2, strict=True))
    return np.ascontiguousarray(image[top : height - bottom, left : width - right])


def crop_to_the_limit(image: Image, generator: np.random.Generator) -> Image:
    """Without `MAX_CROP` on one to four of the sides: as far from the whole image as a crop can be."""
    height, width = image.shape
    cuts = MAX_CROP * (generator.permutation(4) < generator.integers(1, 5))
    top, left, bottom, right = (int(cut * size) for cut, size in zip(cuts, (height, width) * 2, strict=True))
    return np.ascontiguousarray(image[top : height - bottom, left : width - right])


def mirror_and_brighten(image: Image, generator: np.random.Generator) -> Image:
    return change_brightness(mirror(image, generator), generator)


def change_all(image: Image, generator: np.random.Generator) -> Image:
    for change in (crop, mirror, change_brightness, rescale, reencode):
        image = change(image, generator)
    return image


WAYS: Final[dict[str, Callable[[Image, np.random.Generator], Image]]] = {
    way.__name__: way
    for way in (
        reencode, rescale, mirror, change_brightness, crop, crop_to_the_limit, mirror_and_brighten, change_all,
    )
}  # fmt: skip
CROPPING: Final = ("crop", "crop_to_the_limit", "change_all")
"""Ways of which at least 95 % are to be found; of the others, all."""


def plant_copy(image: Image, way: str, seed: int) -> Image:
    """A copy made in one of `WAYS`; the same for the same seed."""
    return WAYS[way](image, np.random.default_rng(seed))


def store_images(contents: Mapping[str, bytes], workspace: Workspace) -> Shard:
    """Put image files by name into a workspace, as if they had been ingested, in one shard."""
    hashes = {name: hash_picture(content) for name, content in contents.items()}
    for name, content in contents.items():
        write_small_file(workspace.image_file(hashes[name]), content)
    rows = pd.DataFrame(
        {"image_id": list(hashes), "sha256": list(hashes.values()), "label": "normal", "split": "train"}
    )
    file = workspace.root / "planted.parquet"
    rows.sort_values("image_id").to_parquet(file, index=False)
    return Shard(name="1 of 1", digest="0" * 64, file=file, num_images=len(rows))
