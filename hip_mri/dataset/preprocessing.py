"""Preprocesses the images of a shard and reads preprocessed images."""

import contextlib
import os
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
from hip_mri.images.contrast import preprocess_image
from hip_mri.images.png import decode_png, encode_png, hash_pixels
from hip_mri.storage import digest, flush_file_system, write_small_file
from hip_mri.workspace import Workspace

NUM_READS: Final = 2
"""A single wrong read may be the memory's fault, or the network's; the file is condemned after this many."""

PREPROCESSING_RECIPE: Final = 1
"""Number of this way to preprocess; a change that alters pixels raises it, so that old images are not taken for new."""


def name_set(settings: PreprocessingSettings) -> str:
    """Name of the set of images that these settings make, 16 hexadecimal digits."""
    return digest([PREPROCESSING_RECIPE, settings.model_dump()])[:16]


def preprocess_images(shard: Shard, workspace: Workspace, settings: PreprocessingSettings, num_threads: int) -> int:
    """Preprocess the images of a shard that are not there yet.

    Args:
        shard: Which images.
        workspace: Images are read from its store and written to its set for these settings.
        settings: What to do.
        num_threads: Threads that share the images.

    Returns:
        Number of images that were written; the others were there.

    Raises:
        WorkspaceError: A stored source image is missing or damaged, or the disk is full.
    """
    cv2.setNumThreads(1)  # the threads here keep the cores busy; OpenCV's own would fight them
    missing = find_missing(shard, workspace, settings)
    Parallel(n_jobs=num_threads, backend="threading")(
        delayed(preprocess_stored)(sha256, workspace, settings) for sha256 in missing
    )
    if missing:
        flush_file_system(workspace.preprocessed_folder)  # on the disk before the shard counts as done
    return len(missing)


def find_missing(shard: Shard, workspace: Workspace, settings: PreprocessingSettings) -> list[str]:
    """SHA-256 of the shard's images whose preprocessed file is not there, or is empty after a power cut."""
    name = name_set(settings)
    return [sha256 for sha256 in read_shard(shard)["sha256"] if _is_missing(workspace.preprocessed_file(name, sha256))]


def _is_missing(file: Path) -> bool:
    try:
        return file.stat().st_size == 0
    except OSError:
        return True


def read_stored_image(sha256: str, workspace: Workspace) -> NDArray[np.uint8]:
    """Read a source image from the store and check its pixels.

    Args:
        sha256: Hash of its pixels.
        workspace: Where it is stored.

    Returns:
        Gray levels 0-255, shape (height, width).

    Raises:
        WorkspaceError: The file is missing, or its pixels are not the ones that were stored, twice; a damaged file is
            renamed, so that the next run restores it from the source.
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
    raise WorkspaceError(f"{file} was damaged, and is set aside with the ending .damaged. {advice}")


def preprocess_stored(sha256: str, workspace: Workspace, settings: PreprocessingSettings) -> NDArray[np.uint8]:
    """Preprocess one stored image, write the result, and return its gray levels."""
    levels = preprocess_image(read_stored_image(sha256, workspace), settings)
    write_small_file(workspace.preprocessed_file(name_set(settings), sha256), encode_png(levels))
    return levels


def read_images(
    hashes: Sequence[str], workspace: Workspace, settings: PreprocessingSettings, num_threads: int
) -> list[NDArray[np.uint8]]:
    """Read preprocessed images; one that is missing or damaged is made again.

    Args:
        hashes: SHA-256 of the source images.
        workspace: Where they lie.
        settings: The settings of the set.
        num_threads: Threads that decode.

    Returns:
        Gray levels 0-255, shape (image_size, image_size) each, in the order of `hashes`.

    Raises:
        WorkspaceError: An image must be made again and its source image is missing or damaged.
    """
    parallel = Parallel(n_jobs=num_threads, backend="threading")
    images = parallel(delayed(_read_preprocessed)(sha256, workspace, settings) for sha256 in hashes)
    return cast("list[NDArray[np.uint8]]", images)


def read_training_sample(
    workspace: Workspace, settings: PreprocessingSettings, most: int, num_threads: int
) -> tuple[pd.Series, list[NDArray[np.uint8]]]:
    """Read the first training images by hash, which is as good as a random choice, and repeatable.

    Returns:
        Their SHA-256 and their preprocessed images.
    """
    images = select_ready(read_manifest(workspace.manifest_file))
    hashes = images.loc[images["split"] == "train", "sha256"].sort_values().head(most)
    return hashes, read_images(list(hashes), workspace, settings, num_threads)


def _read_preprocessed(sha256: str, workspace: Workspace, settings: PreprocessingSettings) -> NDArray[np.uint8]:
    with contextlib.suppress(OSError, ImageError):
        return decode_png(workspace.preprocessed_file(name_set(settings), sha256).read_bytes())
    return preprocess_stored(sha256, workspace, settings)
