"""Reads arrays from files in several threads."""

from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

_NUM_TRIES: Final = 10


def load_array(file: Path, mmap_mode: Literal["r"] | None = None) -> NDArray:
    """Read an array that `numpy.save` wrote; never unpickles.

    Python before 3.11.8 and 3.12.1 can raise a `SystemError` in a thread that parses the header while another thread
    parses anything (https://github.com/python/cpython/issues/106905), whatever the file; reading is repeated.

    Args:
        file: Ends in `.npy`.
        mmap_mode: `r` leaves the values on disk.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: It is damaged; `EOFError` where it is empty.
    """
    for tries_left in reversed(range(_NUM_TRIES)):
        try:
            return np.load(file, mmap_mode=mmap_mode, allow_pickle=False)
        except SystemError:
            if not tries_left:
                raise
    raise AssertionError
