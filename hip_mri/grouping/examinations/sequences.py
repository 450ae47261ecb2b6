"""Finds the order of images: by DICOM files, running numbers in the names of files, and slices of a file.

Names that differ in their numbers alone form a sequence, such as all `normal/hip-normal000123.png`. Folders that differ
in their numbers alone do not end it. Class folders have sequences of their own.

DICOM files with a time of acquisition are sorted by it instead of by their name. Images of one study or series follow
each other, from the place of the first one, and those of a series by instance number.
"""

import re
from typing import Final

import numpy as np
import pandas as pd

ORDER_COLUMNS: Final = ("sha256", "sequence", "place")
"""SHA-256 of the image, number of its sequence, and its place in it, from 0; without a gap."""

MIN_SEQUENCE_IMAGES: Final = 3
"""Images of a shorter sequence count as images without an order."""

_EXTENSION: Final = re.compile(r"\.[A-Za-z]\w*(\.gz)?$")
_FILE_NAME: Final = re.compile(r"[^/]*$")
_NUMBER: Final = re.compile(r"(\d+)")
_IN_SERIES: Final = ["instance_number", "slice", "position"]


def list_sequences(images: pd.DataFrame) -> pd.DataFrame:
    """List the images that have an order.

    Args:
        images: Columns sha256 (unique), delivery, source_name, slice, study, series, series_number, instance_number,
            acquired and position; see `manifest.MANIFEST_COLUMNS`.

    Returns:
        Columns of `ORDER_COLUMNS`, sorted by sequence and place.
    """
    keys = images.assign(**_divide_names(images))
    keys = keys[keys.groupby("words")["sha256"].transform("size") >= MIN_SEQUENCE_IMAGES]
    keys = keys.sort_values(["words", "numbers", "acquired", "series_number", *_IN_SERIES], ignore_index=True)
    keys["place"] = np.arange(len(keys))
    series = keys["series"].where(keys["series"] != "", keys["sha256"])
    study = keys["study"].where(keys["study"] != "", series)
    starts = {"study_start": _find_start(keys, study), "series_start": _find_start(keys, series)}
    keys = keys.assign(**starts).sort_values(["words", *starts, *_IN_SERIES, "place"], ignore_index=True)
    sequence = keys.groupby("words", sort=True).ngroup()
    return pd.DataFrame(
        {
            "sha256": keys["sha256"],
            "sequence": sequence.astype(np.int64),
            "place": keys.groupby(sequence).cumcount().astype(np.int64),
        }
    )


def _divide_names(images: pd.DataFrame) -> dict[str, list]:
    """What the names of a sequence have in common, and the numbers by which they are sorted.

    Of images with a time of acquisition the names of their folders count alone.
    """
    stems = images["source_name"].str.replace(_EXTENSION, "", regex=True)
    stems = stems.mask(images["acquired"].notna(), images["source_name"].str.replace(_FILE_NAME, "", regex=True))
    parts = [_NUMBER.split(stem) for stem in stems]
    return {
        "words": [
            "\0".join([delivery, *words[::2]]) for delivery, words in zip(images["delivery"], parts, strict=True)
        ],
        "numbers": [tuple(map(int, words[1::2])) for words in parts],
    }


def _find_start(keys: pd.DataFrame, names: pd.Series) -> pd.Series:
    """Place of the first image with the same name of its study or series, and in the same sequence."""
    return keys["place"].groupby([keys["words"], names]).transform("min")
