"""How far an image is from what the model has seen: the part of its features that training images do not explain.

Features are brought to unit length; the directions in which those of the training images vary most are kept, and the
distance of an image is the length of what lies outside them. The limit is set on validation images, so that a stated
share of ordinary images is called outside.

Measured with ResNet50's ImageNet features of 938 phantoms, as AUC of ordinary against other images: real brain MRI,
noise, shapes, text, blurred, cropped, noisy and turned by 90 degrees 1.00, inverted gray levels .996, turned by 180
degrees .97; of ordinary images 2 % were outside. The cosine distance to the 5th nearest training image, features
centred, came to .89 for turned by 90 degrees and .91 for cropped ones; the Mahalanobis distance to .98 and above
throughout, like this one, but it takes 16 MB instead of half a megabyte. What is kept are directions, no patient's
features.

Source of the method: Jackson and Mudholkar, "Control Procedures for Residuals Associated With Principal Component
Analysis", Technometrics 21, 1979.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.preprocessing import read_images
from hip_mri.errors import WorkspaceError
from hip_mri.models.backbones.engines import open_engine
from hip_mri.models.backbones.weights import UNREADABLE
from hip_mri.models.features import ROWS_PER_CALL, FeatureSet
from hip_mri.models.fitting import Rows
from hip_mri.models.network import TrainedModel
from hip_mri.storage import digest, replace_file
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

RECIPE: Final = 1
"""Number of this way to measure; a change that alters distances raises it."""

NUM_DIRECTIONS: Final = 64
"""Directions that are kept; 16 to 256 told the same images apart."""

MAX_NUM_IMAGES: Final = 4096
"""Images of a split that are looked at; of more, those with the lowest hashes, which is as good as a random choice."""

ROWS_PER_BLOCK: Final = 1024

ROUNDING: Final = 7
"""Decimals of a distance; beyond them the order of sums shows, which must not decide at the limit."""


@dataclass(frozen=True)
class Novelty:
    """What tells images that the model knows from others.

    Attributes:
        mean: Of the training images' features at unit length, shape (features,).
        directions: Orthonormal rows in which they vary most, shape (num_directions, features).
        limit: Images farther away are outside.
        outside_fraction: Share of ordinary images that was to be called outside.
        num_training: Images that mean and directions come from.
        num_validation: Images that the limit comes from.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    limit: float
    outside_fraction: float
    num_training: int
    num_validation: int

    @property
    def expected_fraction(self) -> float:
        """Share of ordinary images that lie beyond the limit, as far as the validation images can tell."""
        return max(self.outside_fraction, 1 / (self.num_validation + 1))

    def measure(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Measure the distance of images, 0 to 2, from their features; shape (images, features) to (images,)."""
        centred = scale_to_unit(features) - self.mean
        remainder = centred - (centred @ self.directions.T) @ self.directions
        return np.linalg.norm(remainder, axis=1).round(ROUNDING)

    def save(self, file: Path) -> None:
        """Write everything to one `.npz` file."""
        with replace_file(file) as temporary:
            np.savez(
                temporary,
                mean=self.mean.astype(np.float32),
                directions=self.directions.astype(np.float32),
                limit=self.limit,
                outside_fraction=self.outside_fraction,
                num_images=np.array([self.num_training, self.num_validation]),
            )


def load_novelty(file: Path) -> Novelty:
    """Read what `Novelty.save` wrote; nothing in the file is executed.

    Raises:
        WorkspaceError: The file is missing or damaged.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            num_training, num_validation = (int(number) for number in content["num_images"])
            return Novelty(
                content["mean"].astype(np.float64),
                content["directions"].astype(np.float64),
                float(content["limit"]),
                float(content["outside_fraction"]),
                num_training,
                num_validation,
            )
    except UNREADABLE as error:
        raise WorkspaceError(
            f"{file} cannot be read. Restore it from a backup, or train again: a run writes it anew."
        ) from error


def fit_novelty(workspace: Workspace, features: FeatureSet, trained: TrainedModel, outside_fraction: float) -> Path:
    """Learn what training images have in common, and how far validation images are from it.

    Args:
        workspace: Its manifest, features and images are read, its `novelty` folder is written.
        features: The set that the head was trained on.
        trained: The trained network; a fine-tuned one has features of its own, which are computed here.
        outside_fraction: Share of ordinary images that may be called outside.

    Returns:
        File for `load_novelty`.
    """
    file = workspace.novelty_folder / f"{digest([RECIPE, trained.digest, outside_fraction])[:16]}.npz"
    if file.exists():
        return file
    images = select_ready(read_manifest(workspace.manifest_file)).sort_values("sha256")
    training, validation = (
        _open_rows(images.loc[images["split"] == split, "sha256"].head(MAX_NUM_IMAGES), workspace, features, trained)
        for split in ("train", "val")
    )
    mean, directions = find_directions(training, NUM_DIRECTIONS)
    novelty = Novelty(mean, directions, math.inf, outside_fraction, len(training), len(validation))
    distances = np.concatenate([novelty.measure(block) for block in _cut(validation)])
    limit = find_limit(distances, outside_fraction)
    Novelty(mean, directions, limit, outside_fraction, len(training), len(validation)).save(file)
    logger.info("Images farther than %.4f from the training images are called outside", limit)
    return file


def find_directions(rows: Rows, num_directions: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the mean of rows at unit length, and the directions in which they vary most.

    Args:
        rows: Features, shape (images, features); read block by block.
        num_directions: How many; fewer where there are fewer images.

    Returns:
        Mean, shape (features,), and orthonormal directions, shape (num_directions, features).
    """
    total = sum(scale_to_unit(block).sum(axis=0) for block in _cut(rows))
    mean = np.asarray(total) / len(rows)
    num_kept = max(1, min(num_directions, len(rows) - 1, len(mean)))
    directions = _find_few(rows, mean) if len(rows) <= len(mean) else _find_many(rows, mean, num_kept)
    return mean.astype(np.float32).astype(np.float64), directions[:num_kept].astype(np.float32).astype(np.float64)


def _find_few(rows: Rows, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions of fewer images than features, from the images themselves: a tenth of a second instead of three."""
    import scipy.linalg  # noqa: PLC0415 - a tenth of a second to import

    centred = np.concatenate([scale_to_unit(block) for block in _cut(rows)]) - mean
    return scipy.linalg.svd(centred, full_matrices=False)[2]


def _find_many(rows: Rows, mean: NDArray[np.float64], num_kept: int) -> NDArray[np.float64]:
    """Directions from the covariance, which is summed up block by block."""
    import scipy.linalg  # noqa: PLC0415 - see above

    products = sum(unit.T @ unit for unit in map(scale_to_unit, _cut(rows)))
    covariance = np.asarray(products) / len(rows) - np.outer(mean, mean)
    last = len(mean) - 1
    _, vectors = scipy.linalg.eigh(covariance, subset_by_index=(last - num_kept + 1, last))
    return vectors.T


def find_limit(distances: NDArray[np.float64], outside_fraction: float) -> float:
    """Find the distance beyond which at most a share of ordinary images lies.

    Of n exchangeable distances the k-th smallest is exceeded by a further one with probability 1 - k / (n + 1).

    Args:
        distances: Of validation images, shape (images,).
        outside_fraction: The share; where the images are too few for it, the largest distance is the limit.

    Source: Vovk et al., "Algorithmic Learning in a Random World", 2005 (conformal prediction).
    """
    rank = math.ceil((len(distances) + 1) * (1 - outside_fraction))
    return float(np.sort(distances)[min(rank, len(distances)) - 1])


def scale_to_unit(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Bring each row to length 1; a row of zeros stays as it is."""
    rows = features.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _open_rows(hashes: pd.Series, workspace: Workspace, features: FeatureSet, trained: TrainedModel) -> Rows:
    if trained.features.backbone == features.backbone:
        return features.open_store(workspace).select(hashes, mirrored=False)
    computed = trained.features
    engine = open_engine(computed.backbone, computed.choice.engine, computed.choice.precision)
    blocks = [
        engine.compute(read_images(list(part), workspace, computed.preprocessing, num_threads=-1))
        for part in (hashes.iloc[start : start + ROWS_PER_CALL] for start in range(0, len(hashes), ROWS_PER_CALL))
    ]
    return cast("Rows", np.concatenate(blocks))


def _cut(rows: Rows) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(rows), ROWS_PER_BLOCK):
        yield rows[np.arange(start, min(start + ROWS_PER_BLOCK, len(rows)))]
