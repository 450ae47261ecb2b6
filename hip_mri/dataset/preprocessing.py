"""Preprocesses the images of a shard and reads preprocessed images."""

import contextlib
import hashlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

import cv2
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray

from hip_mri.config import PreprocessingSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.shards import Shard, read_shard
from hip_mri.errors import ImageError, WorkspaceError
from hip_mri.hashes import digest
from hip_mri.images.clahe_and_resizing import preprocess_image
from hip_mri.images.stored_png import decode_png, encode_png, hash_pixels
from hip_mri.storage import flush_file_system, write_small_file
from hip_mri.workspace import Workspace

NUM_READS: Final = 2
"""Reads after which a stored image counts as damaged; a single wrong read may be an error of memory or network."""

PREPROCESSING_RECIPE: Final = 1
"""Version of the preprocessing; raise it with any change that alters pixels, so that images are made again."""

_PNG_HEADER_BYTES: Final = 33
"""Signature and first chunk of a PNG file."""

_CHECK_CHUNK: Final = b"haSH"
"""Type of the PNG chunk that holds a checksum. By the case of its letters it is ancillary and private, so that other
programs skip it, and unsafe to copy, so that editors drop it. Source: PNG specification, section 5.4."""


def name_set(settings: PreprocessingSettings) -> str:
    """Name of the set of images that these settings make, 16 hexadecimal digits."""
    return digest([PREPROCESSING_RECIPE, settings.model_dump()])[:16]


def preprocess_images(shard: Shard, workspace: Workspace, settings: PreprocessingSettings, num_threads: int) -> int:
    """Preprocess the images of a shard that are not there yet.

    Returns:
        Number of images that were written; the others were there.

    Raises:
        WorkspaceError: A stored source image is missing or damaged, or the disk is full.
    """
    cv2.setNumThreads(1)  # joblib's threads use all cores already
    missing = find_missing(shard, workspace, settings)
    Parallel(n_jobs=num_threads, backend="threading")(
        delayed(preprocess_stored)(sha256, workspace, settings) for sha256 in missing
    )
    if missing:
        flush_file_system(workspace.preprocessed_folder)  # on the disk before the shard counts as done
    return len(missing)


def find_missing(shard: Shard, workspace: Workspace, settings: PreprocessingSettings) -> list[str]:
    """SHA-256 of the shard's images whose preprocessed file is missing, or empty after a power cut."""
    name = name_set(settings)
    return [sha256 for sha256 in read_shard(shard)["sha256"] if _is_missing(workspace.preprocessed_file(name, sha256))]


def _is_missing(file: Path) -> bool:
    try:
        return file.stat().st_size == 0
    except OSError:
        return True


def read_stored_image(sha256: str, workspace: Workspace) -> NDArray[np.uint8]:
    """Read a source image by the hash of its pixels, and check them.

    Returns:
        Gray levels 0-255, shape (height, width).

    Raises:
        WorkspaceError: The file is missing or was read with wrong pixels `NUM_READS` times; a damaged file is renamed,
            so that the next run restores it from the source.
    """
    file = workspace.image_file(sha256)
    advice = "Start again: it is restored from the source, where that still holds it."
    for _ in range(NUM_READS):
        try:
            content = file.read_bytes()
        except OSError as error:
            raise WorkspaceError(f"{file} is missing. {advice}") from error
        with contextlib.suppress(ImageError):
            levels = decode_png(content)
            if hash_pixels(levels) == sha256:
                return levels
    os.replace(file, file.with_name(f"{file.name}.damaged"))
    raise WorkspaceError(f"{file} was damaged and is renamed, with the ending .damaged. {advice}")


def preprocess_stored(sha256: str, workspace: Workspace, settings: PreprocessingSettings) -> NDArray[np.uint8]:
    """Preprocess one stored image, write the result, and return its gray levels."""
    levels = preprocess_image(read_stored_image(sha256, workspace), settings)
    write_preprocessed(levels, sha256, workspace, settings)
    return levels


def write_preprocessed(
    levels: NDArray[np.uint8], sha256: str, workspace: Workspace, settings: PreprocessingSettings
) -> None:
    """Write a preprocessed image with a checksum, by which readers notice any change.

    Args:
        levels: Gray levels 0-255, shape (image_size, image_size).
        sha256: Hash of the pixels of the source image.
        workspace: Its set for these settings is written.
        settings: How the image was preprocessed.
    """
    content, set_name = encode_png(levels), name_set(settings)
    check = _make_check(levels, sha256, set_name)
    content = content[:_PNG_HEADER_BYTES] + check + content[_PNG_HEADER_BYTES:]
    write_small_file(workspace.preprocessed_file(set_name, sha256), content)


def _make_check(levels: NDArray[np.uint8], sha256: str, set_name: str) -> bytes:
    """The PNG chunk with the checksum of an image and of what it was made from."""
    checksum = hashlib.sha256(f"{set_name} {sha256} {hash_pixels(levels)}".encode()).digest()
    body = _CHECK_CHUNK + checksum
    return len(checksum).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)


def read_images(
    hashes: Sequence[str], workspace: Workspace, settings: PreprocessingSettings, num_threads: int
) -> list[NDArray[np.uint8]]:
    """Read preprocessed images; one that is missing, damaged or changed is made again.

    Returns:
        Gray levels 0-255, shape (image_size, image_size) each, in the order of `hashes`, the SHA-256 of the source
        images.

    Raises:
        WorkspaceError: An image must be made again and its source image is missing or damaged.
    """
    parallel = Parallel(n_jobs=num_threads, backend="threading")
    images = parallel(delayed(_read_preprocessed)(sha256, workspace, settings) for sha256 in hashes)
    return cast("list[NDArray[np.uint8]]", images)


def read_sample(
    workspace: Workspace, settings: PreprocessingSettings, max_images: int, num_threads: int
) -> tuple[pd.Series, list[NDArray[np.uint8]]]:
    """Read the first images in use by hash: a sample that is random, repeatable and independent of the split.

    Returns:
        Their SHA-256 and their preprocessed images.
    """
    hashes = select_ready(read_manifest(workspace.manifest_file))["sha256"].sort_values().head(max_images)
    return hashes, read_images(list(hashes), workspace, settings, num_threads)


def _read_preprocessed(sha256: str, workspace: Workspace, settings: PreprocessingSettings) -> NDArray[np.uint8]:
    set_name = name_set(settings)
    with contextlib.suppress(OSError, ImageError):
        content = workspace.preprocessed_file(set_name, sha256).read_bytes()
        levels = decode_png(content)
        if content.startswith(_make_check(levels, sha256, set_name), _PNG_HEADER_BYTES):
            return levels
    return preprocess_stored(sha256, workspace, settings)
