"""A saved network made ready to score many images: split where the features are, so that an engine computes them.

What training left in the workspace is used: the backbone, its export and the head. Without it everything comes from
the one file of the network, so that a version serves on a machine that has nothing else. The parts are kept under the
SHA-256 of that file.
"""

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from hip_mri.config import BackboneName, Engine, Precision, PreprocessingSettings
from hip_mri.errors import WeightsError, WorkspaceError
from hip_mri.hashes import HASHES, is_as_recorded, read_hashes, record_hashes
from hip_mri.models.backbones.backbone import (
    BYTES_PER_PARAMETER,
    PARTS,
    Backbone,
    find_backbone,
    open_backbone,
    write_backbone,
)
from hip_mri.models.backbones.engine_choice import EngineChoice, computes_bfloat16, resolve_engine
from hip_mri.models.backbones.export import has_export, link_export
from hip_mri.models.backbones.random_weights import STANDARDIZE
from hip_mri.models.features import FeatureSet
from hip_mri.models.head import PREFIX, cut_network
from hip_mri.models.network import HEAD_NAME, MODEL_NAME, TUNED_BACKBONE
from hip_mri.models.saved import load_network
from hip_mri.models.scoring import SplitNetwork
from hip_mri.storage import digest, link_or_copy, publish_folder, read_json, require_room
from hip_mri.workspace import Workspace

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

SERVED_NETWORK_RECIPE: Final = 2
"""Number of this way to split; a change that alters the parts raises it. Below 2 the user's settings of Keras could
alter them."""


@dataclass(frozen=True)
class SavedNetwork:
    """A network on disk, and what it is known to be.

    Attributes:
        file: The whole network, as Keras saved it.
        sha256: Of the file, as it was recorded.
        backbone: Architecture.
        preprocessing: How images reach it.
        precision: In which its figures and its threshold were computed.
    """

    file: Path
    sha256: str
    backbone: BackboneName
    preprocessing: PreprocessingSettings
    precision: Precision


def prepare_network(
    network: SavedNetwork,
    engine: Engine | Literal["auto"],
    precision: Precision | Literal["auto"],
    num_images: int,
    workspace: Workspace,
) -> SplitNetwork:
    """Split a saved network, once for its hash, and choose what computes its features.

    Args:
        network: The file is read only if its bytes have the recorded hash.
        engine: `auto` takes OpenVINO where the backbone is exported already, or where it alone computes the wanted
            precision; else see `resolve_engine`.
        precision: `auto` takes the one that the model was evaluated in, where this machine computes it in hardware.
        num_images: Images to score.
        workspace: Where it was trained, perhaps; the `backbones` folder of its `serving` part keeps the parts.

    Returns:
        The parts.

    Raises:
        WeightsError: The file is not the recorded one, or is no network of this architecture.
    """
    identity = {"recipe": SERVED_NETWORK_RECIPE, "model_sha256": network.sha256, "name": network.backbone}
    folder = workspace.serving.backbones_folder / f"model-{digest(identity)[:16]}"
    if not (is_as_recorded(folder, [*PARTS, HEAD_NAME]) or _link_parts(network, folder, workspace)):
        _write_parts(network, folder)
    backbone = open_backbone(folder)
    wanted = network.precision if precision == "auto" else precision
    # On a CPU OpenVINO alone computes bfloat16, so that the number of images does not change the precision.
    pays_anyway = has_export(backbone) or (wanted == "bfloat16" and computes_bfloat16("openvino"))
    choice = choose_serving_engine(
        resolve_engine(engine, num_images, is_exported=pays_anyway), precision, network.precision
    )
    return SplitNetwork(FeatureSet(backbone, network.preprocessing, choice, with_mirrored=False), folder / HEAD_NAME)


def choose_serving_engine(engine: Engine, precision: Precision | Literal["auto"], evaluated: Precision) -> EngineChoice:
    """Choose the precision in which an engine computes the features of new images; see `prepare_network`."""
    if precision != "auto":
        return EngineChoice(engine, precision, f"{precision} was asked for")
    if evaluated == "bfloat16" and not computes_bfloat16(engine):
        return EngineChoice(
            engine, "float32", f"the model was evaluated in bfloat16, which {engine} does not compute in hardware here"
        )
    return EngineChoice(engine, evaluated, f"the model was evaluated in {evaluated}")


def _link_parts(network: SavedNetwork, folder: Path, workspace: Workspace) -> bool:
    """Take over what training left in the workspace: backbone, export and head; whether it was there."""
    left = _find_trained(network, workspace)
    if left is None:
        return False
    backbone, head_file = left
    with publish_folder(folder) as fresh:
        for file in (*(backbone.folder / name for name in PARTS), head_file):
            link_or_copy(file, fresh / file.name)
        record_hashes(fresh)
    link_export(backbone, folder)
    return True


def _find_trained(network: SavedNetwork, workspace: Workspace) -> tuple[Backbone, Path] | None:
    """The backbone and the head file that training left beside the same model file."""
    for hashes in workspace.models_folder.glob(f"*/{HASHES}"):
        with contextlib.suppress(WorkspaceError, KeyError, TypeError):
            folder = hashes.parent
            if read_hashes(folder)[MODEL_NAME] != network.sha256 or not is_as_recorded(folder, [HEAD_NAME]):
                continue
            wanted = read_json(folder / "identity.json")["backbone"]
            backbone = find_backbone(wanted, (*workspace.backbones_folder.glob("[!.]*"), folder / TUNED_BACKBONE))
            if backbone is not None:
                return backbone, folder / HEAD_NAME
    return None


def _write_parts(network: SavedNetwork, folder: Path) -> None:
    logger.info("Splitting the network into backbone and head, once for this model")
    whole = _load(network)
    backbone, head = cut_network(whole)
    is_standardized = any(layer.name == STANDARDIZE for layer in whole.layers)
    size = network.preprocessing.image_size
    require_room(folder, BYTES_PER_PARAMETER * whole.count_params())
    with publish_folder(folder) as fresh:
        head.save(fresh / HEAD_NAME)
        write_backbone(
            backbone, fresh, {"name": network.backbone, "image_size": size, "is_standardized": is_standardized}
        )


def _load(network: SavedNetwork) -> "keras.Model":
    whole = load_network(network.file, network.sha256)
    expected = f"{PREFIX}{network.backbone.lower()}"
    if whole.name != expected:
        raise WeightsError(
            f"model: {network.file} holds {whole.name}, {expected} was recorded. Give the model of a finished run."
        )
    return whole
