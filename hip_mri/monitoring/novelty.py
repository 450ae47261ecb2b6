"""Out-of-distribution detection: measures how far an image is from the training images.

Features are scaled to unit length. The principal components of the training images are kept, and the distance of an
image is the length of its residual, the part of its features outside their span. The limit is set on validation
images, so that a stated fraction of ordinary images lies beyond it.

Measured with ResNet50's ImageNet features of 938 phantoms, as AUC of ordinary against other images: real brain MRI,
noise, shapes, text, blurred, cropped, noisy and images turned by 90 degrees 1.00, inverted gray levels .996, images
turned by 180 degrees .97; 2 % of ordinary images were beyond the limit. The cosine distance to the 5th nearest training
image, features centered, reached .89 for images turned by 90 degrees and .91 for cropped ones. The Mahalanobis distance
reached .98 and above, like this one, but takes 16 MB instead of half a megabyte. The file holds directions, and no
features of a patient.

Source of the method: Jackson and Mudholkar, "Control Procedures for Residuals Associated With Principal Component
Analysis", Technometrics 21, 1979.
"""

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import SPLITS
from hip_mri.dataset.manifest import digest_table, read_manifest, select_ready
from hip_mri.dataset.preprocessing import read_images
from hip_mri.errors import WorkspaceError
from hip_mri.hashes import digest
from hip_mri.models.backbones.engines import open_engine
from hip_mri.models.backbones.hdf5_checks import UNREADABLE
from hip_mri.models.features import ROWS_PER_CALL, FeatureSet
from hip_mri.models.network import TrainedModel
from hip_mri.models.network_inputs import Rows, cut_positions, iterate_blocks
from hip_mri.storage import replace_file
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

NOVELTY_RECIPE: Final = 1
"""Number of this way to measure; a change that alters distances raises it."""

NUM_DIRECTIONS: Final = 64
"""Principal components that are kept; 16 to 256 detected the same images."""

MAX_NUM_IMAGES: Final = 4096
"""Images of a split that are used; of more, those with the lowest hashes, which is as good as a random choice."""

ROWS_PER_BLOCK: Final = 1024

ROUNDING: Final = 7
"""Decimals of a distance. Further ones depend on the order of summation, which must not decide at the limit."""


@dataclass(frozen=True)
class Novelty:
    """A fitted out-of-distribution detector.

    Attributes:
        mean: Mean of the training images' features at unit length, shape (features,).
        directions: Their principal components, orthonormal rows, shape (num_directions, features).
        limit: Images with a larger distance are outside.
        outside_fraction: Fraction of ordinary images that may be outside.
        num_training: Number of images that mean and directions come from.
        num_validation: Number of images that the limit comes from.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    limit: float
    outside_fraction: float
    num_training: int
    num_validation: int

    @property
    def expected_fraction(self) -> float:
        """Fraction of ordinary images beyond the limit, as far as the number of validation images resolves it."""
        return max(self.outside_fraction, 1 / (self.num_validation + 1))

    def measure(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Measure the distance of images, 0 to 2; features of shape (images, features) to shape (images,)."""
        centered = scale_to_unit(features) - self.mean
        remainder = centered - (centered @ self.directions.T) @ self.directions
        return np.linalg.norm(remainder, axis=1).round(ROUNDING)

    def save(self, file: Path) -> None:
        """Write the detector to one `.npz` file."""
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
    """Load a detector that `Novelty.save` wrote; nothing in the file is executed.

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
            f"{file} cannot be read. Restore it from a backup, or train again: a run writes a new one."
        ) from error


def fit_novelty(workspace: Workspace, features: FeatureSet, trained: TrainedModel, outside_fraction: float) -> Path:
    """Fit the detector: directions from training images, the limit from validation images.

    Args:
        workspace: Its manifest, features and images are read, its `novelty` folder is written.
        features: The set that the head was trained on.
        trained: The trained network. A fine-tuned one has other features, which are computed here.
        outside_fraction: Fraction of ordinary images that may be outside.

    Returns:
        File for `load_novelty`.
    """
    file = workspace.novelty_folder / f"{digest([NOVELTY_RECIPE, trained.digest, outside_fraction])[:16]}.npz"
    if file.exists():
        return file
    images = select_ready(read_manifest(workspace.manifest_file)).sort_values("sha256")
    training, validation = (
        _open_rows(images.loc[images["split"] == split, "sha256"].head(MAX_NUM_IMAGES), workspace, features, trained)
        for split in ("train", "val")
    )
    mean, directions = find_directions(training, NUM_DIRECTIONS)
    unlimited = Novelty(mean, directions, math.inf, outside_fraction, len(training), len(validation))
    distances = np.concatenate([unlimited.measure(block) for block in iterate_blocks(validation, ROWS_PER_BLOCK)])
    limit = find_limit(distances, outside_fraction)
    replace(unlimited, limit=limit).save(file)
    logger.info("Images with a distance above %.4f from the training images are out of distribution", limit)
    return file


def measure_distances(workspace: Workspace, features: FeatureSet, trained: TrainedModel, novelty_file: Path) -> Path:
    """Measure the images of each split; of training images, which the directions come from, a little too small.

    Args:
        workspace: As in `fit_novelty`.
        features: As in `fit_novelty`.
        trained: As in `fit_novelty`.
        novelty_file: Result of `fit_novelty`.

    Returns:
        CSV with the columns image_id, distance and is_outside; at most `MAX_NUM_IMAGES` images of a split.
    """
    images = select_ready(read_manifest(workspace.manifest_file)).sort_values("sha256")
    images = images[images["split"].isin(SPLITS)].groupby("split").head(MAX_NUM_IMAGES)
    identity = digest([NOVELTY_RECIPE, novelty_file.stem, digest_table(images[["image_id", "sha256"]])])
    file = novelty_file.with_name(f"{identity[:16]}.csv")
    if file.exists():
        return file
    novelty, rows = load_novelty(novelty_file), _open_rows(images["sha256"], workspace, features, trained)
    distances = np.concatenate([novelty.measure(block) for block in iterate_blocks(rows, ROWS_PER_BLOCK)])
    table = pd.DataFrame({"image_id": images["image_id"], "distance": distances})
    with replace_file(file) as temporary:
        table.assign(is_outside=distances > novelty.limit).to_csv(temporary, index=False)
    return file


def find_directions(rows: Rows, num_directions: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the mean and the principal components of rows at unit length.

    ARPACK computes only the components that are kept, to rounding errors: 10 s for 4,096 rows on two cores, where a
    full decomposition takes 24 s. `IncrementalPCA` takes 41 s and moves distances by up to 0.006, the randomized solver
    by 0.005.

    Args:
        rows: Features, shape (images, features), two or more of each.
        num_directions: Number of components; fewer if there are fewer images or features.

    Returns:
        Mean, shape (features,), and orthonormal directions, shape (num_directions, features).
    """
    from sklearn.decomposition import PCA  # noqa: PLC0415 - a second to import

    unit_rows = scale_to_unit(rows[np.arange(len(rows))])
    num_kept = min(num_directions, len(unit_rows) - 1, unit_rows.shape[1] - 1)
    if np.ptp(unit_rows, axis=0).any():
        directions = PCA(num_kept, svd_solver="arpack", random_state=0).fit(unit_rows).components_
    else:  # a network with constant output, for which ARPACK fails
        directions = np.eye(num_kept, unit_rows.shape[1])
    mean, directions = (part.astype(np.float32).astype(np.float64) for part in (unit_rows.mean(axis=0), directions))
    return mean, directions


def find_limit(distances: NDArray[np.float64], outside_fraction: float) -> float:
    """Find the distance beyond which at most a fraction of ordinary images lies.

    Of n exchangeable distances the k-th smallest is exceeded by a further one with probability 1 - k / (n + 1).

    Args:
        distances: Distances of validation images, shape (images,).
        outside_fraction: The fraction; with too few images for it, the limit is the largest distance.

    Source: Vovk et al., "Algorithmic Learning in a Random World", 2005 (conformal prediction).
    """
    rank = math.ceil((len(distances) + 1) * (1 - outside_fraction))
    return float(np.sort(distances)[min(rank, len(distances)) - 1])


def scale_to_unit(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scale each row to length 1; a row of zeros is unchanged."""
    rows = features.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _open_rows(hashes: pd.Series, workspace: Workspace, features: FeatureSet, trained: TrainedModel) -> Rows:
    if trained.features.backbone == features.backbone:
        return features.open_store(workspace).select(hashes, mirrored=False)
    computed = trained.features
    engine = open_engine(computed.backbone, computed.choice.engine, computed.choice.precision)
    blocks = [
        engine.compute(read_images(list(hashes.iloc[part]), workspace, computed.preprocessing, num_threads=-1))
        for part in cut_positions(len(hashes), ROWS_PER_CALL)
    ]
    return cast("Rows", np.concatenate(blocks))
