"""Splits a saved network into backbone and head, so that an engine can compute the features of new images.

If the workspace has the backbone, its export and the head from training, these are used. Otherwise they are made from
the file of the network, so that a version can score on any machine. The parts are stored with the SHA-256 of that file.
"""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from hip_mri.config import BackboneName, Engine, Precision, PreprocessingSettings
from hip_mri.disk_errors import require_room
from hip_mri.errors import WeightsError, WorkspaceError
from hip_mri.hashes import HASHES, digest, is_as_recorded, read_hashes, record_hashes
from hip_mri.models.backbones.backbone import (
    BYTES_PER_NUMBER,
    IDENTITY_NAME,
    PARTS,
    Backbone,
    describe_architecture,
    find_backbone,
    open_backbone,
    write_backbone,
)
from hip_mri.models.backbones.engine_choice import EngineChoice, computes_bfloat16, resolve_engine
from hip_mri.models.backbones.export import has_export, link_export
from hip_mri.models.backbones.input_scaling import find_scaling
from hip_mri.models.backbones.preset_layer import find_preset
from hip_mri.models.backbones.random_weights import STANDARDIZE
from hip_mri.models.features import FeatureSet
from hip_mri.models.heads.head import PREFIX, cut_network
from hip_mri.models.loading import load_network
from hip_mri.models.network import HEAD_NAME, TUNED_BACKBONE
from hip_mri.models.scoring import SplitNetwork
from hip_mri.registry.prune_caches import SERVED_NETWORK
from hip_mri.run_files import MODEL_FILE
from hip_mri.storage import link_or_copy, publish_folder, read_json, write_json
from hip_mri.workspace import Workspace

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

SERVED_NETWORK_RECIPE: Final = 2
"""Version of the splitting; increased by changes that alter the parts. Before 2 the user's settings of Keras could
alter them."""


@dataclass(frozen=True)
class SavedNetwork:
    """A network on disk and its recorded properties.

    Attributes:
        file: The whole network, as Keras saved it.
        sha256: Recorded SHA-256 of the file.
        backbone: Architecture.
        preprocessing: Preprocessing of its images.
        precision: Precision in which its metrics and its threshold were computed.
        averages_mirrored: Whether its scores are averaged over an image and its mirror image.
    """

    file: Path
    sha256: str
    backbone: BackboneName
    preprocessing: PreprocessingSettings
    precision: Precision
    averages_mirrored: bool = False


def prepare_network(
    network: SavedNetwork,
    engine: Engine | Literal["auto"],
    precision: Precision | Literal["auto"],
    num_images: int,
    workspace: Workspace,
) -> SplitNetwork:
    """Split a saved network, once per SHA-256, and choose the engine that computes its features.

    Args:
        network: The file is loaded only if it has the recorded SHA-256.
        engine: `auto` chooses OpenVINO where the backbone is exported already, or where only OpenVINO computes the
            precision in hardware; otherwise see `resolve_engine`.
        precision: `auto` chooses the one that the model was evaluated in, where this machine computes it in hardware.
        num_images: Images to score.
        workspace: The parts are stored in the `backbones` folder of its `serving` part.

    Raises:
        WeightsError: The file was changed, or is not a network of this architecture.
    """
    identity = {"recipe": SERVED_NETWORK_RECIPE, "model_sha256": network.sha256, "name": network.backbone}
    folder = workspace.serving.backbones_folder / f"model-{digest(identity)[:16]}"
    if not _has_parts(folder, identity):
        _make_parts(network, folder, identity, workspace)
    backbone = open_backbone(folder)
    wanted = network.precision if precision == "auto" else precision
    # On a CPU only OpenVINO computes bfloat16; it is chosen for few images too, so that they get the same precision.
    prefers_openvino = has_export(backbone) or (wanted == "bfloat16" and computes_bfloat16("openvino"))
    chosen = resolve_engine(engine, num_images, is_exported=prefers_openvino)
    choice = choose_serving_engine(chosen, precision, network.precision)
    features = FeatureSet(
        backbone,
        network.preprocessing,
        choice,
        with_mirrored=False,
        averages_mirrored=network.averages_mirrored,
    )
    return SplitNetwork(features, folder / HEAD_NAME)


def choose_serving_engine(engine: Engine, precision: Precision | Literal["auto"], evaluated: Precision) -> EngineChoice:
    """Choose the precision in which an engine computes the features of new images; see `prepare_network`."""
    if precision != "auto":
        return EngineChoice(engine, precision, f"{precision} was asked for")
    if evaluated == "bfloat16" and not computes_bfloat16(engine):
        return EngineChoice(
            engine, "float32", f"the model was evaluated in bfloat16, which {engine} does not compute in hardware here"
        )
    return EngineChoice(engine, evaluated, f"the model was evaluated in {evaluated}")


def _has_parts(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a folder has the unchanged parts of this model."""
    needed = (*PARTS, HEAD_NAME, SERVED_NETWORK)
    return is_as_recorded(folder, needed) and read_json(folder / SERVED_NETWORK) == identity


def _make_parts(network: SavedNetwork, folder: Path, identity: Mapping[str, Any], workspace: Workspace) -> None:
    """Link the parts from training if the workspace has them; otherwise split the network."""
    trained = _find_trained(network, workspace)
    with publish_folder(folder) as fresh:
        write_json(fresh / SERVED_NETWORK, identity)
        if trained:
            backbone, head_file = trained
            for file in (*(backbone.folder / name for name in PARTS), head_file):
                link_or_copy(file, fresh / file.name)
            record_hashes(fresh)
        else:
            _split(network, fresh)
    if trained:
        link_export(trained[0], folder)


def _find_trained(network: SavedNetwork, workspace: Workspace) -> tuple[Backbone, Path] | None:
    """Find backbone and head file of the training that wrote the model file."""
    for hashes in workspace.models_folder.glob(f"*/{HASHES}"):
        with contextlib.suppress(WorkspaceError, KeyError, TypeError):
            folder = hashes.parent
            if read_hashes(folder)[MODEL_FILE] != network.sha256 or not is_as_recorded(folder, [HEAD_NAME]):
                continue
            wanted = read_json(folder / IDENTITY_NAME)["backbone"]
            backbone = find_backbone(wanted, (*workspace.backbones_folder.glob("[!.]*"), folder / TUNED_BACKBONE))
            if backbone is not None:
                return backbone, folder / HEAD_NAME
    return None


def _split(network: SavedNetwork, folder: Path) -> None:
    """Fill a folder that is about to be published with the parts."""
    logger.info("Splitting the network into backbone and head, once for this model")
    whole = load_whole_network(network)
    require_room(folder, BYTES_PER_NUMBER * whole.count_params())
    backbone, head = cut_network(whole)
    head.save(folder / HEAD_NAME)
    names, size = [layer.name for layer in whole.layers], network.preprocessing.image_size
    name = find_preset(whole) or network.backbone
    identity = describe_architecture(name, size, find_scaling(names), standardized=STANDARDIZE in names)
    write_backbone(backbone, folder, identity)


def load_whole_network(network: SavedNetwork) -> "keras.Model":
    """Load a saved network in float32.

    Raises:
        WeightsError: The file was changed, or is not a network of this architecture.
    """
    whole = load_network(network.file, network.sha256)
    expected = f"{PREFIX}{network.backbone.lower()}"
    if whole.name != expected:
        raise WeightsError(
            f"model: {network.file} holds {whole.name}, {expected} was recorded. Give the model of a finished run."
        )
    return whole
