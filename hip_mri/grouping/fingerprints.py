"""Computes and stores fingerprints of images, by which their copies are found: perceptual hashes and a thumbnail."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

import cv2
import imagehash
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray
from PIL import Image

from hip_mri.dataset.preprocessing import read_stored_image
from hip_mri.dataset.row_store import RowStore, StoredRows
from hip_mri.dataset.shards import Shard, read_shard
from hip_mri.errors import ImageError
from hip_mri.workspace import Workspace

FINGERPRINT_RECIPE: Final = 3
"""Version of the fingerprints; raise it with any change that alters them, so that old ones are not compared."""

CROPS: Final = ((0.0, 0.0, 0.0, 0.0), *itertools.product((0.005, 0.025), repeat=4))
"""Fractions of the image that are cut off left, above, right and below before it is hashed. A copy that was cropped by
up to 3 % per side is mostly closer to the nearest of these crops than images of other patients are."""

HASH_SIZE: Final = 16  # coefficients along each axis
NUM_HASH_BYTES: Final = HASH_SIZE**2 // 8
THUMBNAIL_SIZE: Final = 32  # pixels
_CANVAS_SIZE: Final = 4 * HASH_SIZE  # pixels; twice what the hash looks at, so that a crop keeps its detail

ROW: Final = np.dtype(
    [
        ("hashes", np.uint8, (len(CROPS), NUM_HASH_BYTES)),
        ("mirrored_hash", np.uint8, NUM_HASH_BYTES),
        ("thumbnail", np.uint8, (THUMBNAIL_SIZE, THUMBNAIL_SIZE)),
    ]
)
"""One fingerprint, 1.7 kB.

hashes: Perceptual hash of each of `CROPS`, 256 bits each.
mirrored_hash: Perceptual hash of the whole image, mirrored horizontally.
thumbnail: Gray levels 0-255, whatever the proportions of the image.
"""


@dataclass(frozen=True)
class StoredFingerprints:
    """Fingerprints of many images, sorted by SHA-256.

    Attributes:
        sha256: SHA-256 of the images.
        hashes: Perceptual hash of each of `CROPS`, shape (images, crops, 32).
        mirrored_hashes: Perceptual hash of each mirrored image, shape (images, 32).
        thumbnails: Gray levels 0-255, in memory or on disk; indexing with positions gives shape (positions, 32, 32).
    """

    sha256: NDArray
    hashes: NDArray[np.uint8]
    mirrored_hashes: NDArray[np.uint8]
    thumbnails: NDArray[np.uint8] | StoredRows


def fingerprint_image(image: NDArray[np.uint8]) -> NDArray[np.void]:
    """Compute the fingerprint of a decoded image.

    Args:
        image: Gray levels 0-255, shape (height, width).

    Returns:
        One row of `ROW`, shape (); the same for the same pixels.

    Raises:
        ImageError: `image` is not two-dimensional uint8.

    Source: the perceptual hash, by signs of low frequencies, is `imagehash.phash`; Zauner, "Implementation and
        benchmarking of perceptual image hash functions", 2010.
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ImageError("not_gray", f"gray levels of type uint8 are needed, received {image.dtype} {image.shape}")
    canvas = _shrink(image, _CANVAS_SIZE)
    row = np.zeros((), ROW)
    row["hashes"] = [_hash(Image.fromarray(canvas), crop) for crop in CROPS]
    row["mirrored_hash"] = _hash(Image.fromarray(canvas[:, ::-1]))
    row["thumbnail"] = _shrink(image, THUMBNAIL_SIZE)
    return row


def fingerprint_images(shard: Shard, workspace: Workspace, num_threads: int) -> int:
    """Compute and store the missing fingerprints of a shard's images.

    Returns:
        Number of fingerprints that were computed.

    Raises:
        WorkspaceError: A stored source image is missing or damaged, or the disk is full.
    """
    cv2.setNumThreads(1)  # joblib's threads use all cores already
    missing = find_unfingerprinted(shard, workspace)
    rows = Parallel(n_jobs=num_threads, backend="threading")(
        delayed(_fingerprint_stored)(sha256, workspace) for sha256 in missing
    )
    if missing:
        open_fingerprints(workspace).add(_list_keys(missing), np.stack(cast("list[NDArray[np.void]]", rows)))
    return len(missing)


def find_unfingerprinted(shard: Shard, workspace: Workspace) -> list[str]:
    """SHA-256 of the shard's images whose fingerprint is not stored."""
    return _find_missing(list(read_shard(shard)["sha256"]), workspace)


def list_fingerprinted(hashes: Sequence[str], workspace: Workspace) -> list[str]:
    """Those of the images, by SHA-256, whose fingerprint is stored; sorted."""
    return sorted(set(hashes).difference(_find_missing(hashes, workspace)))


def read_fingerprints(hashes: Sequence[str], workspace: Workspace) -> StoredFingerprints:
    """Read the fingerprints of images, by SHA-256; thumbnails stay on disk, since few images have a likely copy.

    Raises:
        WorkspaceError: Some are not stored.
    """
    names = pd.Series(sorted(set(hashes)), dtype="str")
    rows = open_fingerprints(workspace).select(names, mirrored=False)
    fields = {name: replace(rows, field=name) for name in ROW.names or ()}
    if names.empty:
        return StoredFingerprints(names.to_numpy(), *(np.zeros(0, ROW)[name] for name in fields))
    return StoredFingerprints(names.to_numpy(), fields["hashes"][:], fields["mirrored_hash"][:], fields["thumbnail"])


def _shrink(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _hash(canvas: Image.Image, crop: Sequence[float] = CROPS[0]) -> NDArray[np.uint8]:
    """Perceptual hash of a part of a picture, packed into bytes."""
    left, top, right, bottom = (fraction * _CANVAS_SIZE for fraction in crop)
    box = (left, top, _CANVAS_SIZE - right, _CANVAS_SIZE - bottom)
    cropped = canvas.resize((2 * HASH_SIZE, 2 * HASH_SIZE), Image.Resampling.LANCZOS, box)
    return np.packbits(imagehash.phash(cropped, HASH_SIZE, highfreq_factor=2).hash)


def _fingerprint_stored(sha256: str, workspace: Workspace) -> NDArray[np.void]:
    return fingerprint_image(read_stored_image(sha256, workspace))


def open_fingerprints(workspace: Workspace) -> RowStore:
    """Open the store of fingerprints, rows of `ROW`."""
    return RowStore(workspace.fingerprints_folder / str(FINGERPRINT_RECIPE))


def _list_keys(hashes: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame({"sha256": pd.Series(hashes, dtype="str"), "mirrored": False})


def _find_missing(hashes: Sequence[str], workspace: Workspace) -> list[str]:
    return sorted(open_fingerprints(workspace).find_missing(_list_keys(hashes))["sha256"])
