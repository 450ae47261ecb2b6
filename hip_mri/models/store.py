"""Stores features on disk, as memory-mapped rows.

A set is a folder, named by the digest of what determines its rows. Its rows are stored in parts of two files:
`<part>.npy` holds the features, `<part>.parquet` the image and flip of each row. The second is written last, so that an
interrupted run loses at most one part. The name of a part begins with the range of its image hashes, so that reading a
shard of images opens only the parts that can contain them.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.dataset.tables import load_array
from hip_mri.errors import WorkspaceError
from hip_mri.storage import digest, replace_file

KEY_COLUMNS: Final = ["sha256", "mirrored"]
"""Columns that identify a row: SHA-256 of the source image, and whether it is mirrored."""

MAX_OPEN_PARTS: Final = 512
"""Parts that stay mapped. Each needs a file descriptor, of which many systems allow a process 1,024."""


@dataclass(frozen=True)
class FeatureStore:
    """One set of feature rows.

    Attributes:
        folder: Folder of the set, which need not exist.
    """

    folder: Path

    def find_missing(self, keys: pd.DataFrame) -> pd.DataFrame:
        """List the rows of `keys` (columns sha256, mirrored) that are not stored."""
        stored = self._read_index(keys["sha256"].min(), keys["sha256"].max())
        marked = keys[KEY_COLUMNS].merge(stored[KEY_COLUMNS], how="left", on=KEY_COLUMNS, indicator="found")
        return marked.loc[marked["found"] == "left_only", KEY_COLUMNS]

    def add(self, keys: pd.DataFrame, features: NDArray[np.float32]) -> None:
        """Store rows as one part.

        Args:
            keys: Columns sha256 (of the source image) and mirrored.
            features: Shape (len(keys), features).

        Raises:
            WorkspaceError: A value is not finite, or the disk is full.
        """
        if not np.isfinite(features).all():
            raise WorkspaceError("features: some values are not finite. The weights do not fit the architecture.")
        keys = keys[KEY_COLUMNS].reset_index(drop=True)
        low, high = keys["sha256"].min()[:8], keys["sha256"].max()[:8]
        part = self.folder / f"{low}-{high}-{digest(keys.to_dict('list'))[:16]}"
        with replace_file(part.with_suffix(".npy")) as temporary:
            np.save(temporary, np.ascontiguousarray(features, np.float32))
        with replace_file(part.with_suffix(".parquet")) as temporary:
            keys.to_parquet(temporary, index=False)

    def select(self, hashes: pd.Series, *, mirrored: bool) -> "FeatureRows":
        """Select the rows of images, in the order of `hashes`.

        Args:
            hashes: SHA-256 of the source images.
            mirrored: Whether to select the rows of the mirrored images.

        Returns:
            The rows, still on disk.

        Raises:
            WorkspaceError: Some are not stored.
        """
        index = self._read_index(hashes.min(), hashes.max())
        index = index[index["mirrored"] == mirrored].drop_duplicates("sha256").set_index("sha256")
        found = index.reindex(hashes)
        num_missing = int(found["part"].isna().sum())
        if num_missing:
            raise WorkspaceError(f"features: {num_missing} of {len(hashes)} rows are missing. Start again.")
        files = sorted(found["part"].unique())
        return FeatureRows(
            parts=tuple(self.folder / f"{file}.npy" for file in files),
            part_of_row=found["part"].map(files.index).to_numpy(np.int32),
            row_in_part=found["row"].to_numpy(np.int64),
        )

    def _read_index(self, low: str, high: str) -> pd.DataFrame:
        """Locate the rows of images with hashes from `low` to `high`; columns sha256, mirrored, part and row."""
        frames = []
        for file in sorted(self.folder.glob("[!.]*.parquet")):
            part_low, part_high, _ = file.stem.split("-")
            if part_low <= high[:8] and part_high >= low[:8] and (keys := _read_part(file)) is not None:
                frames.append(keys.assign(part=file.stem, row=np.arange(len(keys))))
        if not frames:
            return pd.DataFrame(
                {"sha256": pd.Series(dtype="str"), "mirrored": pd.Series(dtype=bool), "part": "", "row": 0}
            )
        return pd.concat(frames, ignore_index=True)


class FeatureRows:
    """Rows of a set on disk.

    Indexing with an array of positions reads an array of shape (positions, features).
    """

    def __init__(self, parts: tuple[Path, ...], part_of_row: NDArray[np.int32], row_in_part: NDArray[np.int64]) -> None:
        self._parts = parts
        self._part_of_row = part_of_row
        self._row_in_part = row_in_part

    def __len__(self) -> int:
        return len(self._part_of_row)

    def __getitem__(self, positions: NDArray[np.integer] | slice) -> NDArray[np.float32]:
        parts, rows = self._part_of_row[positions], self._row_in_part[positions]
        features: NDArray[np.float32] | None = None
        for part in np.unique(parts):
            chosen = parts == part
            content = _open_part(self._parts[part])
            if features is None:
                features = np.empty((len(parts), content.shape[1]), np.float32)
            features[chosen] = content[rows[chosen]]
        return features if features is not None else np.empty((0, 0), np.float32)


def _read_part(file: Path) -> pd.DataFrame | None:
    """Read the keys of a part; `None` if its two files do not match, so that it is computed again."""
    try:
        keys = pd.read_parquet(file)
        features = load_array(file.with_suffix(".npy"), mmap_mode="r")
    except (OSError, ValueError):
        return None
    return keys if len(keys) == len(features) else None


@functools.lru_cache(maxsize=MAX_OPEN_PARTS)
def _open_part(file: Path) -> NDArray[np.float32]:
    return load_array(file, mmap_mode="r")
