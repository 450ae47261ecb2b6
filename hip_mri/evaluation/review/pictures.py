"""Encodes the pictures of the page as JPEG, within a number of bytes.

JPEG takes 0.3 ms per picture of 224 pixels where WebP takes 17 ms; WebP files of the same images are 15 % smaller.
"""

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from hip_mri.errors import WorkspaceError
from hip_mri.run_files import REVIEW_FILE

if TYPE_CHECKING:  # they load Matplotlib, which the scoring of new images does not need
    from hip_mri.evaluation.charts.image_sheets import ExplainedCase
    from hip_mri.evaluation.figure_data import RunImages

logger = logging.getLogger(__name__)

SMALL_SIZE: Final = 96
"""Height and width of a thumbnail in pixels."""

LARGE_SIZE: Final = 224
"""Largest height and width of a large picture in pixels."""

JPEG_QUALITY: Final = 60
"""About 2.5 KB per thumbnail, and 16 KB for the two large pictures of an image."""

HEAT_OPACITY: Final = 0.6
"""Opacity of a heat map where it is 1."""

NUM_PER_BATCH: Final = 64
"""Images that are encoded before the size is looked at again."""


@dataclass(frozen=True)
class EncodedPictures:
    """Pictures as base64 of JPEG files.

    Attributes:
        small: Thumbnails by image id, of the images without large pictures.
        large: Large pictures by image id: `input` of the network, `original`, and `heat` if there is a heat map.
    """

    small: dict[str, str]
    large: dict[str, dict[str, str]]


def encode_pictures(
    image_ids: Sequence[str],
    images: "RunImages",
    explained: Sequence["ExplainedCase"],
    max_characters: int,
    num_threads: int,
) -> EncodedPictures:
    """Encode the pictures of a page: large ones for as many images as fit, thumbnails for the others.

    Args:
        image_ids: The images, those first that get large pictures first.
        images: Reads them.
        explained: Images with heat maps, which always get large pictures.
        max_characters: Maximum size of all pictures; thumbnails alone may exceed it.
        num_threads: Threads that read and encode.
    """
    parallel = Parallel(n_jobs=num_threads, backend="threading")
    small = dict(zip(image_ids, parallel(delayed(_encode_small)(it, images) for it in image_ids), strict=True))
    heat = {case.image_id: encode_jpeg(draw_overlay(case.image, case.heat)) for case in explained}
    ordered = sorted(image_ids, key=lambda image_id: image_id not in heat)
    large: dict[str, dict[str, str]] = {}
    used = sum(map(len, small.values())) + sum(map(len, heat.values()))
    for start in range(0, len(ordered), NUM_PER_BATCH):
        batch = ordered[start : start + NUM_PER_BATCH]
        for image_id, pictures in zip(batch, parallel(delayed(_encode_large)(it, images) for it in batch), strict=True):
            used += sum(map(len, pictures.values())) - len(small[image_id])
            if used > max_characters:
                return EncodedPictures(small, large)
            large[image_id] = pictures | ({"heat": heat[image_id]} if image_id in heat else {})
            del small[image_id]
    return EncodedPictures(small, large)


def _encode_small(image_id: str, images: "RunImages") -> str:
    return encode_jpeg(_shrink(images.read([image_id])[0], SMALL_SIZE))


def _encode_large(image_id: str, images: "RunImages") -> dict[str, str]:
    pictures = {"input": images.read([image_id])[0]}
    try:
        pictures["original"] = images.read_original(image_id)
    except WorkspaceError as error:  # scores and metrics do not need it
        logger.warning("%s does not show the original of image %s: %s", REVIEW_FILE, image_id, error)
    return {kind: encode_jpeg(_shrink(picture, LARGE_SIZE)) for kind, picture in pictures.items()}


def _shrink(image: NDArray[np.uint8], max_size: int) -> NDArray[np.uint8]:
    """Reduce an image to a maximum height and width; a smaller one is unchanged."""
    scale = max_size / max(image.shape)
    if scale >= 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)


def draw_overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw a heat map over an image.

    Args:
        image: Gray levels 0-255, shape (height, width).
        heat: 0-1, any height and width.

    Returns:
        Colors in OpenCV's order, shape (height, width, 3); where the heat is 0 the image is unchanged.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR).astype(np.float32)
    level = np.clip(cv2.resize(heat, gray.shape[1::-1], interpolation=cv2.INTER_LINEAR), 0, 1)
    color = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_PLASMA).astype(np.float32)
    opacity = HEAT_OPACITY * level[..., None]
    return (gray * (1 - opacity) + color * opacity).astype(np.uint8)


def encode_jpeg(pixels: NDArray[np.uint8]) -> str:
    """Encode gray levels or colors as base64 of a JPEG file."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    return base64.b64encode(cv2.imencode(".jpg", pixels, settings)[1].tobytes()).decode("ascii")
