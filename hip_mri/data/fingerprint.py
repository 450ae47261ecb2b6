"""What is kept of an image to find its copies: a digest of its pixels, perceptual hashes and a thumbnail.

Fingerprints lie in parts, one NumPy file per written shard, named by the range of image hashes inside. A part appears
whole or not at all, so a killed run loses the part that it was writing and nothing else.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import cv2
import imagehash
import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from PIL import Image

from hip_mri.data.images import decode_gray
from hip_mri.data.preprocess import read_stored_image
from hip_mri.data.shards import Shard, read_shard
from hip_mri.errors import ImageError, WorkspaceError
from hip_mri.storage import digest, replace_file
from hip_mri.workspace import Workspace

FINGERPRINT_RECIPE: Final = 1
"""Number of this way to make fingerprints; a change that alters them raises it, so that old ones are not compared."""

CROPS: Final = ((0.0, 0.0, 0.0, 0.0), *itertools.product((0.005, 0.025), repeat=4))
"""Shares of the image that are cut off left, above, right and below before it is hashed. The hash of a copy that was
cropped by up to 3 % per side is closer to the hash of the nearest of these crops than those of strangers mostly are."""

HASH_SIZE: Final = 16  # coefficients along each axis
NUM_HASH_BYTES: Final = HASH_SIZE**2 // 8
THUMBNAIL_SIZE: Final = 32  # pixels
_CANVAS_SIZE: Final = 4 * HASH_SIZE  # pixels; twice what the hash looks at, so that a crop keeps its detail

ROW: Final = np.dtype(
    [
        ("sha256", "S64"),
        ("pixels_sha256", "S64"),
        ("hashes", np.uint8, (len(CROPS), NUM_HASH_BYTES)),
        ("mirrored_hash", np.uint8, NUM_HASH_BYTES),
        ("thumbnail", np.uint8, (THUMBNAIL_SIZE, THUMBNAIL_SIZE)),
    ]
)
"""One stored fingerprint, 1.7 kB: the SHA-256 of the source file and the fields of `Fingerprint`."""

Rows = NDArray[np.void]
"""Fingerprints of many images, an array of `ROW`."""


@dataclass(frozen=True)
class Fingerprint:
    """What is compared of an image.

    Attributes:
        pixels_sha256: SHA-256 of the decoded gray levels and their shape, 64 hexadecimal digits.
        hashes: Perceptual hash of each of `CROPS`, uint8, shape (len(CROPS), 32); 256 bits each.
        mirrored_hash: Perceptual hash of the whole image, mirrored horizontally, uint8, shape (32,).
        thumbnail: Gray levels 0-255, uint8, shape (32, 32), whatever the image's proportions.
    """

    pixels_sha256: str
    hashes: NDArray[np.uint8]
    mirrored_hash: NDArray[np.uint8]
    thumbnail: NDArray[np.uint8]


def fingerprint_image(image: NDArray[np.uint8]) -> Fingerprint:
    """Make the fingerprint of a decoded image.

    Args:
        image: Gray levels 0-255, shape (height, width).

    Returns:
        The fingerprint; the same for the same pixels.

    Raises:
        ImageError: `image` is not two-dimensional uint8.

    Source: the perceptual hash, by signs of low frequencies, is `imagehash.phash`; Zauner, "Implementation and
        benchmarking of perceptual image hash functions", 2010.
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ImageError("not_gray", f"gray levels of type uint8 are needed, received {image.dtype} {image.shape}")
    pixels = hashlib.sha256(repr(image.shape).encode())
    pixels.update(image.tobytes())
    canvas = _shrink(image, _CANVAS_SIZE)
    return Fingerprint(
        pixels_sha256=pixels.hexdigest(),
        hashes=np.array([_hash(Image.fromarray(canvas), crop) for crop in CROPS]),
        mirrored_hash=_hash(Image.fromarray(canvas[:, ::-1])),
        thumbnail=_shrink(image, THUMBNAIL_SIZE),
    )


def make_row(sha256: str, image: NDArray[np.uint8]) -> tuple:
    """Put the fingerprint of a decoded image together with the SHA-256 of its file, in the order of `ROW`."""
    fingerprint = fingerprint_image(image)
    return (sha256, *(getattr(fingerprint, name) for name in (ROW.names or ())[1:]))


def fingerprint_images(shard: Shard, workspace: Workspace, num_threads: int) -> int:
    """Make and store the fingerprints of a shard's images that are not there yet.

    Args:
        shard: Which images.
        workspace: Images are read from its store, fingerprints written to its folder of fingerprints.
        num_threads: Threads that share the images.

    Returns:
        Number of fingerprints that were made; the others were there.

    Raises:
        WorkspaceError: A stored source image is missing or damaged, or the disk is full.
    """
    cv2.setNumThreads(1)  # the threads here keep the cores busy; OpenCV's own would fight them
    missing = find_unfingerprinted(shard, workspace)
    made = Parallel(n_jobs=num_threads, backend="threading")(
        delayed(_fingerprint_stored)(sha256, workspace) for sha256 in missing
    )
    if missing:
        _write_part(np.array(cast("list[tuple]", made), ROW), _name_folder(workspace))
    return len(missing)


def find_unfingerprinted(shard: Shard, workspace: Workspace) -> list[str]:
    """SHA-256 of the shard's images whose fingerprint is not stored."""
    wanted = list(read_shard(shard)["sha256"])
    return sorted(set(wanted).difference(list_fingerprinted(wanted, workspace)))


def list_fingerprinted(hashes: Sequence[str], workspace: Workspace) -> list[str]:
    """Those of the images, by SHA-256, whose fingerprint is stored; sorted."""
    parts = _open_parts(_name_folder(workspace), min(hashes, default=""), max(hashes, default=""))
    stored = {sha256.decode() for part in parts for sha256 in part["sha256"]}
    return sorted(stored.intersection(hashes))


def read_fingerprints(hashes: Sequence[str], workspace: Workspace) -> Rows:
    """Read fingerprints into memory.

    Args:
        hashes: SHA-256 of the source images, in any order.
        workspace: Where they are stored.

    Returns:
        One row per image, sorted by SHA-256.

    Raises:
        WorkspaceError: Some are not stored.
    """
    wanted = np.unique(np.array(hashes, ROW["sha256"]))
    rows, is_found = np.zeros(len(wanted), ROW), np.zeros(len(wanted), bool)
    for part in _open_parts(_name_folder(workspace), min(hashes, default=""), max(hashes, default="")):
        places = np.searchsorted(wanted, part["sha256"]).clip(max=len(wanted) - 1)
        is_wanted = wanted[places] == part["sha256"]
        rows[places[is_wanted]] = part[is_wanted]
        is_found[places[is_wanted]] = True
    if not is_found.all():
        raise WorkspaceError(
            f"fingerprints: {np.sum(~is_found)} of {len(wanted)} images have none. Start again: they are made anew."
        )
    return rows


def _shrink(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _hash(canvas: Image.Image, crop: Sequence[float] = CROPS[0]) -> NDArray[np.uint8]:
    """Perceptual hash of a part of a picture, packed into bytes."""
    left, top, right, bottom = (share * _CANVAS_SIZE for share in crop)
    box = (left, top, _CANVAS_SIZE - right, _CANVAS_SIZE - bottom)
    cropped = canvas.resize((2 * HASH_SIZE, 2 * HASH_SIZE), Image.Resampling.LANCZOS, box)
    return np.packbits(imagehash.phash(cropped, HASH_SIZE, highfreq_factor=2).hash)


def _fingerprint_stored(sha256: str, workspace: Workspace) -> tuple:
    return make_row(sha256, decode_gray(read_stored_image(sha256, workspace)))


def _name_folder(workspace: Workspace) -> Path:
    return workspace.fingerprints_folder / str(FINGERPRINT_RECIPE)


def _write_part(rows: Rows, folder: Path) -> None:
    hashes = [sha256.decode() for sha256 in rows["sha256"]]
    name = f"{min(hashes)[:8]}-{max(hashes)[:8]}-{digest(hashes)[:16]}.npy"
    with replace_file(folder / name) as temporary:
        np.save(temporary, rows, allow_pickle=False)


def _open_parts(folder: Path, low: str, high: str) -> Iterator[Rows]:
    """Parts that can hold images from hash `low` to `high`, left on disk; damaged ones are passed over."""
    for file in sorted(folder.glob("[!.]*.npy")):
        part_low, part_high, _ = file.stem.split("-")
        if part_low <= high[:8] and part_high >= low[:8] and (part := _open_part(file)) is not None:
            yield part


def _open_part(file: Path) -> Rows | None:
    try:
        part = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return part if part.dtype == ROW else None
