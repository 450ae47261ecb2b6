"""Finds the order of images in the names of their files: running numbers, and slices of a file.

Names that differ in their numbers alone form a sequence, such as all `normal/hip-normal000123.png`. Folders that differ
in their numbers alone do not end it. Class folders have sequences of their own.
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
_NUMBER: Final = re.compile(r"(\d+)")


def list_sequences(images: pd.DataFrame) -> pd.DataFrame:
    """List the images that have an order.

    Args:
        images: Columns sha256 (unique), delivery, source_name and slice.

    Returns:
        Columns of `ORDER_COLUMNS`, sorted by sequence and place.
    """
    stems = images["source_name"].str.replace(_EXTENSION, "", regex=True)
    parts = [_NUMBER.split(stem) for stem in stems]
    keys = pd.DataFrame(
        {
            "sha256": images["sha256"].to_numpy(),
            "words": [
                "\0".join([delivery, *words[::2]]) for delivery, words in zip(images["delivery"], parts, strict=True)
            ],
            "numbers": [(*map(int, words[1::2]), number) for words, number in zip(parts, images["slice"], strict=True)],
        }
    )
    keys = keys[keys.groupby("words")["sha256"].transform("size") >= MIN_SEQUENCE_IMAGES]
    keys = keys.sort_values(["words", "numbers"], ignore_index=True)
    sequence = keys.groupby("words", sort=True).ngroup()
    return pd.DataFrame(
        {
            "sha256": keys["sha256"],
            "sequence": sequence.astype(np.int64),
            "place": keys.groupby(sequence).cumcount().astype(np.int64),
        }
    )
