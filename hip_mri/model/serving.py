"""A saved network made ready to score many images: split where the features are, so that an engine computes them.

Everything comes from the one file of the network, so that a version serves on a machine that has nothing else. The
parts are kept under the SHA-256 of that file; the engine's own export follows from them like that of any backbone.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from hip_mri.config import BackboneName, Engine, Precision, PreprocessingSettings
from hip_mri.errors import WeightsError
from hip_mri.hashes import is_as_recorded, record_hashes
from hip_mri.model.backbone import BYTES_PER_PARAMETER, IDENTITY_NAME, WEIGHTS_NAME, Backbone, build_backbone
from hip_mri.model.engines import EngineChoice, computes_bfloat16, sees_gpu
from hip_mri.model.features import FeatureSet
from hip_mri.model.fitting import Rows
from hip_mri.model.head import FIRST_HEAD_LAYER, build_head
from hip_mri.model.network import predict
from hip_mri.model.saved import load_head, load_network
from hip_mri.storage import digest, digest_file, publish_folder, read_json, require_room, write_json
from hip_mri.workspace import Workspace

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

RECIPE: Final = 1
"""Number of this way to split; a change that alters the parts raises it."""

HEAD_NAME: Final = "head.keras"

ROWS_PER_BLOCK: Final = 4096
"""Feature rows that are scored at a time, 8 KB each."""


@dataclass(frozen=True)
class SavedNetwork:
    """A network on disk, and what it is known to be.

    Attributes:
        file: The whole network, as Keras saved it.
        sha256: Of the file, as it was recorded.
        backbone: Architecture.
        preprocessing: How images reach it.
    """

    file: Path
    sha256: str
    backbone: BackboneName
    preprocessing: PreprocessingSettings


@dataclass(frozen=True)
class SplitNetwork:
    """A saved network in two parts.

    Attributes:
        features: The set of features that its backbone computes.
        head_file: The rest of it: features to a probability.
    """

    features: FeatureSet
    head_file: Path

    def score(self, rows: Rows) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Score images, block by block.

        Args:
            rows: Their features, shape (images, 2048).

        Yields:
            The features of a block, and the probability of a lesion for each of its rows.
        """
        head = load_head(self.head_file)
        for start in range(0, len(rows), ROWS_PER_BLOCK):
            block = rows[np.arange(start, min(start + ROWS_PER_BLOCK, len(rows)))]
            yield block, predict(head, block)


def split_network(network: SavedNetwork, choice: EngineChoice, workspace: Workspace) -> SplitNetwork:
    """Split a saved network, once for its hash.

    Args:
        network: The file is read only if its bytes have the recorded hash.
        choice: What is to compute its features.
        workspace: Its `backbones` folder keeps the parts.

    Returns:
        The parts.

    Raises:
        WeightsError: The file is not the recorded one, or is no network of this architecture.
    """
    identity = {"recipe": RECIPE, "model_sha256": network.sha256, "name": network.backbone}
    folder = workspace.backbones_folder / f"model-{digest(identity)[:16]}"
    if not is_as_recorded(folder, [WEIGHTS_NAME, HEAD_NAME, IDENTITY_NAME]):
        _write_parts(network, folder, identity)
    is_standardized = read_json(folder / IDENTITY_NAME)["is_standardized"]
    size = network.preprocessing.image_size
    backbone = Backbone(network.backbone, size, digest(identity), is_standardized, folder)
    return SplitNetwork(FeatureSet(backbone, network.preprocessing, choice, with_mirrored=False), folder / HEAD_NAME)


def choose_serving_engine(
    engine: Engine | Literal["auto"], precision: Precision | Literal["auto"], evaluated: Precision
) -> EngineChoice:
    """Settle what computes the features of new images.

    Args:
        engine: `auto` takes Keras where Keras sees a GPU, else OpenVINO.
        precision: `auto` takes the one that the model was evaluated in, where this machine computes it in hardware.
        evaluated: Precision behind the model's figures and threshold.
    """
    if engine == "auto":
        engine = "keras" if sees_gpu() else "openvino"
    if precision != "auto":
        return EngineChoice(engine, precision, f"{precision} was asked for")
    if evaluated == "bfloat16" and not computes_bfloat16(engine):
        return EngineChoice(engine, "float32", "the model was evaluated in bfloat16, which this machine does not have")
    return EngineChoice(engine, evaluated, f"the model was evaluated in {evaluated}")


def _write_parts(network: SavedNetwork, folder: Path, identity: dict[str, object]) -> None:
    logger.info("Splitting the network into backbone and head, once for this model")
    whole = _load(network)
    hidden = whole.get_layer(FIRST_HEAD_LAYER)
    is_standardized = any(layer.name == "standardize" for layer in whole.layers)
    backbone = build_backbone(network.backbone, network.preprocessing.image_size, standardized=is_standardized)
    head = build_head(hidden.units, seed=0)
    for part in (backbone, head):
        for layer in part.layers:
            if layer.weights:
                layer.set_weights(whole.get_layer(layer.name).get_weights())
    require_room(folder, BYTES_PER_PARAMETER * whole.count_params())
    with publish_folder(folder) as fresh:
        backbone.save_weights(fresh / WEIGHTS_NAME)
        head.save(fresh / HEAD_NAME)
        write_json(fresh / IDENTITY_NAME, {**identity, "is_standardized": is_standardized})
        record_hashes(fresh)


def check_file(network: SavedNetwork) -> None:
    """See that a saved network is the recorded one, before anything loads it.

    Raises:
        WeightsError: The file is missing or has other bytes.
    """
    found = digest_file(network.file) if network.file.is_file() else "none"
    if found != network.sha256:
        raise WeightsError(
            f"model: the SHA-256 of {network.file} is {found[:12]}, {network.sha256[:12]} was recorded. It is not "
            "loaded. Restore it from a backup, or give another model."
        )


def _load(network: SavedNetwork) -> "keras.Model":
    check_file(network)
    whole = load_network(network.file)
    expected = f"hip_mri_{network.backbone.lower()}"
    if whole.name != expected:
        raise WeightsError(
            f"model: {network.file} holds {whole.name}, {expected} was recorded. Give the model of a finished run."
        )
    return whole
