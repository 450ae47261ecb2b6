"""Looks up the file names of a batch of predictions, which can identify patients."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from hip_mri.errors import WorkspaceError

NAMES_FILE: Final = "names.csv"
"""image_id, source_name, slice and examination of each image; readable by its owner only."""


def look_up_prediction_names(predictions_folder: Path, ids: Sequence[str] = ()) -> pd.DataFrame:
    """Look up which source files the images of a batch came from.

    Args:
        predictions_folder: Such as `workspace/predictions/0001`.
        ids: Ids of images or examinations; all images without any.

    Returns:
        The columns of `NAMES_FILE`, one row per image, copies included.

    Raises:
        WorkspaceError: There is no such batch, or its names cannot be read.
    """
    file = predictions_folder / NAMES_FILE
    try:
        names = pd.read_csv(file, dtype="str", keep_default_na=False)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no table"
        raise WorkspaceError(
            f"{file} cannot be read ({reason}). Give the number of a batch in the folder {predictions_folder.parent}, "
            "as its owner."
        ) from error
    is_wanted = names.filter(["image_id", "examination"]).isin(list(ids)).any(axis="columns")
    return names[is_wanted] if ids else names
