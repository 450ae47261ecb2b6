"""Computes and stores the features of images, once per image and flip."""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from hip_mri.config import FeatureSettings, PreprocessingSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.preprocessing import name_set, read_images
from hip_mri.dataset.row_store import RowStore
from hip_mri.dataset.shards import Shard, read_shard
from hip_mri.disk_errors import require_room
from hip_mri.errors import WorkspaceError
from hip_mri.hashes import digest
from hip_mri.models.backbones.backbone import BYTES_PER_NUMBER, Backbone
from hip_mri.models.backbones.engine_choice import EngineChoice, choose_engine
from hip_mri.models.backbones.engines import open_engine
from hip_mri.models.keras_settings import describe_keras
from hip_mri.models.network_inputs import Views, cut_positions
from hip_mri.workspace import Workspace

FEATURE_RECIPE: Final = 2
"""Version of the features; raised by changes that alter rows. Before 2 the user's Keras settings could alter them."""

ROWS_PER_CALL: Final = 256
"""Images that are decoded and held in memory at once, 50 KB each."""


@dataclass(frozen=True)
class FeatureSet:
    """A set of features: everything that determines its rows.

    Attributes:
        backbone: The frozen network.
        preprocessing: Preprocessing of its input.
        choice: Engine and precision.
        with_mirrored: Whether mirrored training images are needed, too; rows do not depend on it.
        averages_mirrored: Whether an image's score is averaged with that of its mirror image, so that all images are
            needed mirrored; rows do not depend on it.
    """

    backbone: Backbone
    preprocessing: PreprocessingSettings
    choice: EngineChoice
    with_mirrored: bool
    averages_mirrored: bool = False

    @property
    def digest(self) -> str:
        """Name of the set, 16 hexadecimal digits."""
        choice = self.choice
        computed_by = [choice.engine, choice.precision, choice.version, describe_keras()]
        return digest([FEATURE_RECIPE, self.backbone.digest, name_set(self.preprocessing), *computed_by])[:16]

    def describe(self) -> dict[str, Any]:
        """Describe the features for `metrics.json`: engine, precision, reason, and the names of the sets on disk."""
        return asdict(self.choice) | {
            "engine_version": self.choice.version,
            "input_scaling": self.backbone.scaling,
            "averages_mirrored": self.averages_mirrored,
            "set": self.digest,
            "preprocessed": name_set(self.preprocessing),
        }

    def open_store(self, workspace: Workspace) -> RowStore:
        """Open the store of this set."""
        return RowStore(workspace.features_folder / self.digest)

    def open_views(self, workspace: Workspace, hashes: pd.Series) -> Views:
        """Open the features of images to score, in the order of `hashes`."""
        store = self.open_store(workspace)
        mirrored = store.select(hashes, mirrored=True) if self.averages_mirrored else None
        return Views(store.select(hashes, mirrored=False), mirrored)


def choose_features(
    backbone: Backbone,
    settings: FeatureSettings,
    preprocessing: PreprocessingSettings,
    workspace: Workspace,
    num_threads: int,
    *,
    with_mirrored: bool,
    averages_mirrored: bool,
) -> FeatureSet:
    """Choose the features of a run; see `choose_engine`."""
    num_images = len(select_ready(read_manifest(workspace.manifest_file)))
    # The split, which decides what is mirrored, is drawn later.
    num_rows = num_images * (2 if with_mirrored or averages_mirrored else 1)
    choice = choose_engine(
        backbone, settings.engine, settings.precision, num_rows, workspace, preprocessing, num_threads
    )
    return FeatureSet(backbone, preprocessing, choice, with_mirrored, averages_mirrored)


def list_rows(images: pd.DataFrame, features: FeatureSet) -> pd.DataFrame:
    """List the feature rows that images need; columns sha256 and mirrored.

    Args:
        images: Columns sha256 and split, which is empty until it is drawn.
        features: The set.
    """
    plain = images[["sha256"]].assign(mirrored=False)
    if not (features.with_mirrored or features.averages_mirrored):
        return plain
    chosen = images if features.averages_mirrored else images[images["split"] == "train"]
    return pd.concat([plain, chosen[["sha256"]].assign(mirrored=True)], ignore_index=True)


def find_missing_rows(shard: Shard, workspace: Workspace, features: FeatureSet) -> pd.DataFrame:
    """List the rows of a shard of images that are not stored; columns sha256 and mirrored."""
    rows = list_rows(read_shard(shard), features)
    return features.open_store(workspace).find_missing(rows)


def extract_features(shard: Shard, workspace: Workspace, features: FeatureSet, num_threads: int) -> int:
    """Compute and store the missing features of a shard of images.

    Args:
        shard: The images.
        workspace: Its preprocessed images are read, its `features` folder is written.
        features: The set that the rows belong to.
        num_threads: Threads that decode images; the engine uses all cores.

    Returns:
        Number of computed rows.

    Raises:
        DiskError: There is no room for the rows. Nothing was computed.
        WorkspaceError: A value is not finite.
    """
    missing = find_missing_rows(shard, workspace, features)
    if missing.empty:
        return 0
    require_room(workspace.features_folder, len(missing) * features.backbone.num_features * BYTES_PER_NUMBER)
    engine = open_engine(features.backbone, features.choice.engine, features.choice.precision)
    computed = []
    for positions in cut_positions(len(missing), ROWS_PER_CALL):
        part = missing.iloc[positions]
        images = read_images(list(part["sha256"]), workspace, features.preprocessing, num_threads)
        mirrored = part["mirrored"]
        computed.append(engine.compute([np.fliplr(i) if m else i for i, m in zip(images, mirrored, strict=True)]))
    rows = np.concatenate(computed)
    if not np.isfinite(rows).all():
        raise WorkspaceError("features: some values are not finite. The weights do not fit the architecture.")
    features.open_store(workspace).add(missing, rows)
    return len(missing)
