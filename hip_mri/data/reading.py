"""Reading preprocessed images for the network."""

import contextlib
from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray

from hip_mri.config import PreprocessingSettings
from hip_mri.data.manifest import read_manifest, select_ready
from hip_mri.data.preprocess import name_set, preprocess_stored
from hip_mri.errors import ImageError
from hip_mri.images.png import decode_png
from hip_mri.workspace import Workspace


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
    images = parallel(delayed(_read_image)(sha256, workspace, settings) for sha256 in hashes)
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


def _read_image(sha256: str, workspace: Workspace, settings: PreprocessingSettings) -> NDArray[np.uint8]:
    with contextlib.suppress(OSError, ImageError):
        return decode_png(workspace.preprocessed_file(name_set(settings), sha256).read_bytes())
    return preprocess_stored(sha256, workspace, settings)
