"""Computes and stores fingerprints of images, by which their copies are found: perceptual hashes and a thumbnail.

Fingerprints are stored in parts, one NumPy file per shard that was computed, named by the range of image hashes inside.
Parts are written atomically, so a killed run loses only the part that it was writing.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import cv2
import imagehash
import numpy as np
from joblib import Parallel, delayed
from numpy.lib.recfunctions import repack_fields
from numpy.typing import NDArray
from PIL import Image

from hip_mri.dataset.preprocessing import read_stored_image
from hip_mri.dataset.shards import Shard, read_shard
from hip_mri.dataset.tables import load_array
from hip_mri.errors import ImageError, WorkspaceError
from hip_mri.storage import digest, replace_file
from hip_mri.workspace import Workspace

FINGERPRINT_RECIPE: Final = 2
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
        ("sha256", "S64"),
        ("hashes", np.uint8, (len(CROPS), NUM_HASH_BYTES)),
        ("mirrored_hash", np.uint8, NUM_HASH_BYTES),
        ("thumbnail", np.uint8, (THUMBNAIL_SIZE, THUMBNAIL_SIZE)),
    ]
)
"""One fingerprint, 1.7 kB.

sha256: SHA-256 of the pixels of the image.
hashes: Perceptual hash of each of `CROPS`, 256 bits each.
mirrored_hash: Perceptual hash of the whole image, mirrored horizontally.
thumbnail: Gray levels 0-255, whatever the proportions of the image.
"""

SEARCHED: Final = repack_fields(ROW[["sha256", "hashes", "mirrored_hash"]])
"""The fields of a fingerprint that a search needs of every image: 0.7 kB."""

Rows = NDArray[np.void]
"""Fingerprints, an array of `ROW` or of `SEARCHED`."""

MAX_OPEN_PARTS: Final = 256
"""Parts that stay memory-mapped; each needs a file descriptor, of which many systems allow a process 1,024."""


class Thumbnails:
    """Thumbnails of images, read from disk on access, since few images have a likely copy.

    Indexing with an array of positions gives gray levels 0-255, uint8, shape (positions, 32, 32).
    """

    def __init__(self, parts: Sequence[Path], part_of_image: NDArray[np.int32], row_in_part: NDArray[np.int64]) -> None:
        self._parts = parts
        self._part_of_image = part_of_image
        self._row_in_part = row_in_part
        self._open = functools.lru_cache(MAX_OPEN_PARTS)(_open_part)

    def __len__(self) -> int:
        return len(self._part_of_image)

    def __getitem__(self, positions: NDArray[np.integer]) -> NDArray[np.uint8]:
        parts, rows = self._part_of_image[positions], self._row_in_part[positions]
        thumbnails = np.empty((len(parts), THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.uint8)
        for part in np.unique(parts):
            chosen, stored = parts == part, self._open(self._parts[part])
            if stored is None:
                raise WorkspaceError(f"{self._parts[part]} is damaged. Start again: it is made anew.")
            thumbnails[chosen] = stored["thumbnail"][rows[chosen]]
        return thumbnails


@dataclass(frozen=True)
class StoredFingerprints:
    """Fingerprints of many images, sorted by SHA-256.

    Attributes:
        rows: One row of `SEARCHED` per image, in memory.
        thumbnails: Their thumbnails, on disk.
    """

    rows: Rows
    thumbnails: Thumbnails


def fingerprint_image(image: NDArray[np.uint8], sha256: str = "") -> Rows:
    """Compute the fingerprint of a decoded image.

    Args:
        image: Gray levels 0-255, shape (height, width).
        sha256: SHA-256 of its pixels, which is stored.

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
    row["sha256"] = sha256
    row["hashes"] = [_hash(Image.fromarray(canvas), crop) for crop in CROPS]
    row["mirrored_hash"] = _hash(Image.fromarray(canvas[:, ::-1]))
    row["thumbnail"] = _shrink(image, THUMBNAIL_SIZE)
    return row


def fingerprint_images(shard: Shard, workspace: Workspace, num_threads: int) -> int:
    """Compute and store the missing fingerprints of a shard's images.

    Args:
        shard: Which images.
        workspace: Its images are read, its fingerprints are written.
        num_threads: Threads that share the images.

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
        _write_part(np.stack(cast("list[Rows]", rows)), _name_folder(workspace))
    return len(missing)


def find_unfingerprinted(shard: Shard, workspace: Workspace) -> list[str]:
    """SHA-256 of the shard's images whose fingerprint is not stored."""
    wanted = list(read_shard(shard)["sha256"])
    return sorted(set(wanted).difference(list_fingerprinted(wanted, workspace)))


def list_fingerprinted(hashes: Sequence[str], workspace: Workspace) -> list[str]:
    """Those of the images, by SHA-256, whose fingerprint is stored; sorted."""
    files = _list_parts(_name_folder(workspace), hashes)
    stored = {sha256.decode() for file in files if (part := _open_part(file)) is not None for sha256 in part["sha256"]}
    return sorted(stored.intersection(hashes))


def read_fingerprints(hashes: Sequence[str], workspace: Workspace) -> StoredFingerprints:
    """Read the fingerprints of images; thumbnails stay on disk.

    Args:
        hashes: SHA-256 of the source images, in any order.
        workspace: Where they are stored.

    Returns:
        One row per image, sorted by SHA-256.

    Raises:
        WorkspaceError: Some are not stored.
    """
    wanted = np.unique(np.array(hashes, ROW["sha256"]))
    rows, row_in_part = np.zeros(len(wanted), SEARCHED), np.zeros(len(wanted), np.int64)
    part_of_image = np.full(len(wanted), -1, np.int32)
    files = _list_parts(_name_folder(workspace), hashes)
    for number, file in enumerate(files):
        if (part := _open_part(file)) is None:
            continue
        places = np.searchsorted(wanted, part["sha256"]).clip(max=len(wanted) - 1)
        found = np.flatnonzero(wanted[places] == part["sha256"])
        rows[places[found]] = part[list(SEARCHED.names or ())][found]
        part_of_image[places[found]], row_in_part[places[found]] = number, found
    num_missing = int((part_of_image < 0).sum())
    if num_missing:
        raise WorkspaceError(
            f"fingerprints: {num_missing} of {len(wanted)} images have none. Start again: they are made anew."
        )
    return StoredFingerprints(rows, Thumbnails(files, part_of_image, row_in_part))


def _shrink(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _hash(canvas: Image.Image, crop: Sequence[float] = CROPS[0]) -> NDArray[np.uint8]:
    """Perceptual hash of a part of a picture, packed into bytes."""
    left, top, right, bottom = (fraction * _CANVAS_SIZE for fraction in crop)
    box = (left, top, _CANVAS_SIZE - right, _CANVAS_SIZE - bottom)
    cropped = canvas.resize((2 * HASH_SIZE, 2 * HASH_SIZE), Image.Resampling.LANCZOS, box)
    return np.packbits(imagehash.phash(cropped, HASH_SIZE, highfreq_factor=2).hash)


def _fingerprint_stored(sha256: str, workspace: Workspace) -> Rows:
    return fingerprint_image(read_stored_image(sha256, workspace), sha256)


def _name_folder(workspace: Workspace) -> Path:
    return workspace.fingerprints_folder / str(FINGERPRINT_RECIPE)


def _write_part(rows: Rows, folder: Path) -> None:
    hashes = [sha256.decode() for sha256 in rows["sha256"]]
    name = f"{min(hashes)[:8]}-{max(hashes)[:8]}-{digest(hashes)[:16]}.npy"
    with replace_file(folder / name) as temporary:
        np.save(temporary, rows, allow_pickle=False)


def _list_parts(folder: Path, hashes: Sequence[str]) -> list[Path]:
    """Parts whose names, ranges of hashes, may include any of the images."""
    low, high = min(hashes, default="")[:8], max(hashes, default="")[:8]
    ranges = {file: file.stem.split("-") for file in sorted(folder.glob("[!.]*.npy"))}
    return [file for file, (part_low, part_high, _) in ranges.items() if part_low <= high and part_high >= low]


def _open_part(file: Path) -> Rows | None:
    """Map a part into memory; `None` where it is damaged, so that its fingerprints are computed again."""
    try:
        part = load_array(file, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return part if part.dtype == ROW else None
