"""Reads and writes the tables and arrays of a workspace, Parquet and NumPy files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.errors import WorkspaceError
from hip_mri.storage import replace_file

UNREADABLE: Final = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""Raised by Pandas for a Parquet file that is missing or damaged, its metadata included."""

_NUM_TRIES: Final = 10


def read_table(
    file: Path, columns: Sequence[str], advice: str, *, is_optional: bool = True, added: Mapping[str, object] = {}
) -> pd.DataFrame:
    """Read a table that `write_table` wrote.

    Args:
        file: The Parquet file.
        columns: Columns that it must have.
        advice: Next step for the user if it cannot be read; ends the error message.
        is_optional: Whether a missing file stands for a table without rows.
        added: Columns that earlier versions did not write, with the value that they get then.

    Returns:
        The table; without a file, no rows and the columns as text.

    Raises:
        WorkspaceError: The file is missing or damaged.
    """
    if is_optional and not file.exists():
        return pd.DataFrame({column: [] for column in columns}, dtype="str")
    try:
        table = pd.read_parquet(file)
    except UNREADABLE as error:
        raise WorkspaceError(f"{file} cannot be read. {advice}") from error
    table = table.assign(**{column: value for column, value in added.items() if column not in table.columns})
    if missing := [column for column in columns if column not in table.columns]:
        raise WorkspaceError(f"{file} has no column {', '.join(missing)}. {advice}")
    return table


def write_table(file: Path, table: pd.DataFrame) -> None:
    """Write a table atomically, without its index, readable by its owner alone."""
    with replace_file(file, is_private=True) as temporary:
        table.to_parquet(temporary, index=False)


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
