"""Stores one array per image on disk, such as features or a fingerprint, as memory-mapped rows.

A store is a folder. Its rows are stored in parts of two files: `<part>.npy` holds the values, `<part>.parquet` the
image and flip of each row. The second is written last, so that an interrupted run loses at most one part. The name of a
part begins with the range of its image hashes, so that reading a shard of images opens only the parts that can contain
them.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.dataset.table_files import UNREADABLE, load_array
from hip_mri.errors import WorkspaceError
from hip_mri.hashes import digest
from hip_mri.storage import replace_file

KEY_COLUMNS: Final = ["sha256", "mirrored"]
"""Columns that identify a row: SHA-256 of the source image, and whether it is mirrored."""

MAX_OPEN_PARTS: Final = 512
"""Parts that stay mapped. Each needs a file descriptor, of which many systems allow a process 1,024."""


@dataclass(frozen=True)
class RowStore:
    """Rows of one kind in a folder, which need not exist."""

    folder: Path

    def find_missing(self, keys: pd.DataFrame) -> pd.DataFrame:
        """List the rows of `keys` (columns sha256, mirrored) that are not stored."""
        stored = self._read_index(keys["sha256"])
        marked = keys[KEY_COLUMNS].merge(stored[KEY_COLUMNS], how="left", on=KEY_COLUMNS, indicator="found")
        return marked.loc[marked["found"] == "left_only", KEY_COLUMNS]

    def add(self, keys: pd.DataFrame, values: NDArray) -> None:
        """Store rows as one part.

        Args:
            keys: Columns sha256 (of the source image) and mirrored.
            values: One row for each key.

        Raises:
            WorkspaceError: The disk is full.
        """
        keys = keys[KEY_COLUMNS].reset_index(drop=True)
        low, high = keys["sha256"].min()[:8], keys["sha256"].max()[:8]
        part = self.folder / f"{low}-{high}-{digest(keys.to_dict('list'))[:16]}"
        with replace_file(part.with_suffix(".npy")) as temporary:
            np.save(temporary, np.ascontiguousarray(values), allow_pickle=False)
        with replace_file(part.with_suffix(".parquet")) as temporary:
            keys.to_parquet(temporary, index=False)

    def select(self, hashes: pd.Series, *, mirrored: bool) -> "StoredRows":
        """Select the rows of images, in the order of `hashes`.

        Args:
            hashes: SHA-256 of the source images.
            mirrored: Whether to select the rows of the mirrored images.

        Returns:
            The rows, still on disk.

        Raises:
            WorkspaceError: Some are not stored.
        """
        index = self._read_index(hashes)
        index = index[index["mirrored"] == mirrored].drop_duplicates("sha256").set_index("sha256")
        found = index.reindex(hashes)
        num_missing = int(found["part"].isna().sum())
        if num_missing:
            raise WorkspaceError(
                f"{self.folder}: {num_missing} of {len(hashes)} rows are missing. Start again: they are computed again."
            )
        files = sorted(found["part"].unique())
        return StoredRows(
            parts=tuple(self.folder / f"{file}.npy" for file in files),
            part_of_row=found["part"].map(files.index).to_numpy(np.int32),
            row_in_part=found["row"].to_numpy(np.int64),
        )

    def _read_index(self, hashes: Iterable[str]) -> pd.DataFrame:
        """Locate the rows of the parts that can contain these images; columns sha256, mirrored, part and row."""
        low, high = min(hashes, default="")[:8], max(hashes, default="")[:8]
        frames = [pd.DataFrame({"sha256": pd.Series(dtype="str"), "mirrored": pd.Series(dtype=bool)})]
        for file in sorted(self.folder.glob("[!.]*.parquet")):
            part_low, part_high, _ = file.stem.split("-")
            if part_low <= high and part_high >= low and (keys := _read_keys(file)) is not None:
                frames.append(keys.assign(part=file.stem, row=np.arange(len(keys))))
        return pd.concat(frames[1:] or [frames[0].assign(part="", row=0)], ignore_index=True)


@dataclass(frozen=True)
class StoredRows:
    """Rows on disk.

    Indexing with an array of positions reads their values.

    Attributes:
        parts: The `.npy` files.
        part_of_row: Place in `parts` of each row's file.
        row_in_part: Place of each row in its file.
        field: Field of the values that is read, if they have several.
    """

    parts: tuple[Path, ...]
    part_of_row: NDArray[np.int32]
    row_in_part: NDArray[np.int64]
    field: str | None = None

    def __len__(self) -> int:
        return len(self.part_of_row)

    def __getitem__(self, positions: NDArray[np.integer] | slice) -> NDArray:
        part_of_row, rows = self.part_of_row[positions], self.row_in_part[positions]
        values = None
        for part in np.unique(part_of_row):
            chosen, content = part_of_row == part, _open_part(self.parts[part])
            content = content if self.field is None else content[self.field]
            if values is None:
                values = np.empty((len(rows), *content.shape[1:]), content.dtype)
            values[chosen] = content[rows[chosen]]
        return np.empty((0, 0), np.float32) if values is None else values


def _read_keys(file: Path) -> pd.DataFrame | None:
    """Read the keys of a part; `None` if its two files do not match, so that it is computed again."""
    try:
        keys, values = pd.read_parquet(file), load_array(file.with_suffix(".npy"), mmap_mode="r")
    except (*UNREADABLE, EOFError):
        return None
    return keys if len(keys) == len(values) else None


@functools.lru_cache(maxsize=MAX_OPEN_PARTS)
def _open_part(file: Path) -> NDArray:
    return load_array(file, mmap_mode="r")
