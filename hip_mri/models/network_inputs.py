"""Rows of network inputs that are read by position: arrays, features on disk or images on disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import PreprocessingSettings
from hip_mri.dataset.preprocessing import read_images
from hip_mri.workspace import Workspace


class Rows(Protocol):
    """Inputs that are indexed with an array of positions."""

    def __len__(self) -> int: ...

    def __getitem__(self, positions: NDArray[np.integer]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Views:
    """Rows of images to score.

    Attributes:
        plain: Rows of the images.
        mirrored: Rows of their mirror images, in the same order, where scores are averaged over both; else `None`.
    """

    plain: Rows
    mirrored: Rows | None = None

    def __len__(self) -> int:
        return len(self.plain)

    def select(self, positions: NDArray[np.integer]) -> "Views":
        """Select images by position."""
        mirrored = None if self.mirrored is None else SelectedRows(self.mirrored, positions)
        return Views(SelectedRows(self.plain, positions), mirrored)


@dataclass(frozen=True)
class SelectedRows:
    """Rows at some positions, in their order."""

    rows: Rows
    positions: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, positions: NDArray[np.integer]) -> NDArray[np.float32]:
        return self.rows[self.positions[positions]]


class ImageRows:
    """Preprocessed images on disk.

    Indexing with an array of positions reads gray levels 0-255, shape (positions, height, width, 1).
    """

    def __init__(
        self, hashes: pd.Series, workspace: Workspace, settings: PreprocessingSettings, *, mirrored: bool
    ) -> None:
        self._hashes = hashes.to_numpy()
        self._workspace, self._settings, self._mirrored = workspace, settings, mirrored

    def __len__(self) -> int:
        return len(self._hashes)

    def __getitem__(self, positions: NDArray[np.integer]) -> NDArray[np.float32]:
        hashes = list(self._hashes[positions])
        images = np.stack(read_images(hashes, self._workspace, self._settings, num_threads=-1))
        return (images[:, :, ::-1] if self._mirrored else images)[..., None].astype(np.float32)


def iterate_blocks(rows: Rows, size: int) -> Iterator[NDArray[np.float32]]:
    """Read all rows in order, in blocks of at most `size` rows."""
    for positions in cut_positions(len(rows), size):
        yield rows[positions]


def cut_positions(total: int, size: int) -> Iterator[NDArray[np.int64]]:
    """Divide the positions 0 to `total` - 1 into consecutive blocks of at most `size`."""
    for start in range(0, total, size):
        yield np.arange(start, min(start + size, total))
