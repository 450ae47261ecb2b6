"""Searches the images in use for text in their pixels, which can name patients; needs the extra `ocr`."""

import logging
from collections.abc import Callable, Sequence
from typing import Final, cast

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray

from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.preprocessing import read_stored_image
from hip_mri.images.burned_in_text import TextBox, find_text
from hip_mri.storage import replace_file
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

TEXT_COLUMNS: Final = (
    "image_id",  # pseudonym
    "sha256",  # of the pixels
    "num_places",  # number of places with text
    "confidence",  # highest confidence of these, 0-1, or 0
)
"""Columns of `text_in_images.csv`, one row per image that was searched. The text itself is not kept."""

_IMAGES_PER_PART: Final = 256
"""Images after which the table is written, so that a stopped run loses less than a minute of work."""


def find_images_with_text(
    workspace: Workspace,
    num_threads: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    find: Callable[[NDArray[np.uint8]], Sequence[TextBox]] = find_text,
) -> int:
    """Search the images in use for text, each image once.

    Args:
        workspace: Its manifest is read, and `text_in_images.csv` is written.
        num_threads: Threads that search at the same time.
        on_progress: Called with the number of images searched and the number of all to be searched.
        find: Finds text in gray levels.

    Returns:
        Number of images in use with text.

    Raises:
        SettingsError: The extra `ocr` is not installed.
    """
    images = select_ready(read_manifest(workspace.manifest_file))[["image_id", "sha256"]]
    searched = _read_searched(workspace)
    unsearched = list(images.loc[~images["sha256"].isin(searched["sha256"])].itertuples(index=False, name=None))
    done = 0
    with Parallel(n_jobs=num_threads, backend="threading") as parallel:
        for start in range(0, len(unsearched), _IMAGES_PER_PART):
            part = unsearched[start : start + _IMAGES_PER_PART]
            rows = parallel(delayed(_search)(*image, workspace, find) for image in part)
            searched = pd.concat([searched, pd.DataFrame(cast("list[tuple]", rows), columns=list(TEXT_COLUMNS))])
            with replace_file(workspace.text_file, is_private=True) as temporary:
                searched.sort_values("image_id").to_csv(temporary, index=False)
            on_progress(done := done + len(part), len(unsearched))
    has_text = searched["sha256"].isin(images["sha256"]) & (searched["num_places"] > 0)
    if has_text.any():
        logger.warning(
            "%d of %d images have text in their pixels, which can name patients and is not removed; %s lists them",
            *(int(has_text.sum()), len(images), workspace.text_file),
        )
    return int(has_text.sum())


def _search(
    image_id: str, sha256: str, workspace: Workspace, find: Callable[[NDArray[np.uint8]], Sequence[TextBox]]
) -> tuple[str, str, int, float]:
    boxes = find(read_stored_image(sha256, workspace))
    return image_id, sha256, len(boxes), round(max((box.confidence for box in boxes), default=0.0), 3)


def _read_searched(workspace: Workspace) -> pd.DataFrame:
    """Images that were searched before; none where the table is missing or damaged."""
    types = {"image_id": "str", "sha256": "str", "num_places": "int64", "confidence": "float64"}
    try:
        return pd.read_csv(workspace.text_file, dtype=types)[list(TEXT_COLUMNS)]  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError):
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()})
