"""Loads saved networks without executing anything from the file.

A `.keras` file holds a description of a network beside its weights. Keras builds what the description names, which can
be any Python function. Here the description is only read as data: it must match an architecture of this project. The
network is then built from code, and only the weights come from the file.
"""

import contextlib
import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import h5py

from hip_mri.config import ARCHITECTURES, PRESET, BackboneName, HeadDesign
from hip_mri.disk_errors import explain_write_errors, require_room
from hip_mri.errors import WeightsError, list_offenders
from hip_mri.models.backbones.hdf5_checks import UNREADABLE, check_numbers_only, describe_cause
from hip_mri.models.backbones.input_scaling import find_scaling
from hip_mri.models.backbones.preset_design import parse_design
from hip_mri.models.backbones.preset_layer import PRESET_CLASS
from hip_mri.models.backbones.random_weights import STANDARDIZE
from hip_mri.models.heads.head import PREFIX, build_head, build_network, find_head_design
from hip_mri.models.keras_settings import DTYPE_POLICY, SETTINGS, Model, import_keras

WEIGHTS: Final = "model.weights.h5"
DESCRIPTION: Final = "config.json"
MEMBERS: Final = {"metadata.json", DESCRIPTION, WEIGHTS}
"""Members of the file of a saved network."""

MAX_DESCRIPTION_BYTES: Final = 20_000_000
"""Forty times the size for a ResNet152."""

MAX_BYTES_PER_PARAMETER: Final = 12
"""The weight and Adam's two moments, as float32."""

MAX_OVERHEAD_BYTES: Final = 2**24
"""Names and addresses in HDF5; ten times the size for a ResNet152."""

MAX_IMAGE_SIZE: Final = 4096
"""Limit of the architecture that a file may describe; see also `find_head_design`."""

MAX_NUM_FEATURES: Final = 8192
"""Limit of the features of a backbone."""

Layer = tuple[str, str, str | None]
"""Class, module and registered name of a layer."""


def load_network(file: Path, sha256: str | None = None) -> Model:
    """Load a whole network of this project in float32.

    Args:
        file: A `model.keras`.
        sha256: Recorded SHA-256 of the file; `None` if there is no record.

    Raises:
        WeightsError: The file holds anything but such a network, or has another SHA-256. Nothing of it was executed.
    """
    return _load(file, sha256, _build)


def load_head(file: Path, sha256: str | None = None) -> Model:
    """Load a saved head; see `load_network`."""
    return _load(file, sha256, lambda description: build_head(_find_width(description), _find_head(description), 0))


def load_weights(network: Model, file: Path) -> None:
    """Load the weights of a saved network, and the state of its optimizer, into a network of the same architecture.

    Raises:
        WeightsError: The file holds anything but numbers, or weights of another network.
    """
    with _explain_damage(file), _open_members(_read(file, None), file) as archive:
        _set_weights(network, archive, file)


def list_foreign_settings(file: Path) -> list[str]:
    """List the Keras settings of a saved network that differ from those of this pipeline.

    Args:
        file: A `model.keras`; only its description is read, without Keras.

    Returns:
        Settings such as `data_format channels_first`; empty if none differ.

    Raises:
        WeightsError: It is not a saved network.
    """
    with _explain_damage(file), zipfile.ZipFile(file) as archive:
        return _find_foreign_settings(_read_description(archive))


def _find_foreign_settings(description: dict[str, Any]) -> list[str]:
    found: set[str] = set()
    for layer in description["config"]["layers"]:
        data_format, dtype = layer["config"].get("data_format"), layer["config"].get("dtype")
        if data_format not in (None, SETTINGS["image_data_format"]):
            found.add(f"data_format {str(data_format)[:40]}")
        policy = dtype["config"]["name"] if isinstance(dtype, dict) else dtype
        if policy not in (None, DTYPE_POLICY):
            found.add(f"dtype {str(policy)[:40]}")
    return sorted(found)


def _load(file: Path, sha256: str | None, build: Callable[[dict[str, Any]], Model]) -> Model:
    """Read a file once; check, build and load the network from the same bytes."""
    with _explain_damage(file), _open_members(_read(file, sha256), file) as archive:
        description = _read_description(archive)
        if foreign := _find_foreign_settings(description):
            raise WeightsError(
                f"model: {file} is not loaded: its layers have {list_offenders(foreign)}, "
                f"{SETTINGS['image_data_format']} and {DTYPE_POLICY} are needed. An earlier version built it with the "
                "settings of a keras.json, which alter its scores. Train it again."
            )
        network = build(description)
        _check_layers(file, _list_layers(description), network)
        _set_weights(network, archive, file)
        return network


def _read(file: Path, sha256: str | None) -> bytes:
    if sha256 is None:
        return file.read_bytes()
    content = file.read_bytes() if file.is_file() else None
    found = "none" if content is None else hashlib.sha256(content).hexdigest()
    if content is None or found != sha256:
        raise WeightsError(
            f"model: the SHA-256 of {file} is {found[:12]}, {sha256[:12]} was recorded. It is not loaded. "
            "Restore it from a backup, or give another model."
        )
    return content


def _open_members(content: bytes, file: Path) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(io.BytesIO(content))
    foreign = {entry.filename for entry in archive.infolist()} ^ MEMBERS
    if foreign:
        raise WeightsError(f"model: {file} is not loaded: {list_offenders(sorted(foreign))} {_FOREIGN}")
    return archive


def _set_weights(network: Model, archive: zipfile.ZipFile, file: Path) -> None:
    """Check the weights in memory and let Keras read the same bytes from a plain file.

    Keras reads HDF5 from a zip file slowly: `zipfile` reads from the start again for each backward seek.
    """
    if archive.getinfo(WEIGHTS).file_size > MAX_BYTES_PER_PARAMETER * network.count_params() + MAX_OVERHEAD_BYTES:
        raise ValueError("its weights are larger than those of the network")
    weights = archive.read(WEIGHTS)
    with h5py.File(io.BytesIO(weights), "r") as content:
        check_numbers_only(content, file)
    with _write_temporary(weights) as plain:
        network.load_weights(plain)


@contextlib.contextmanager
def _write_temporary(weights: bytes) -> Iterator[Path]:
    """Write weights to a temporary file that is removed at the end of the block.

    Raises:
        DiskError: There is no room in the folder of temporary files.
        WorkspaceError: There is no folder for temporary files.
    """
    place = Path(tempfile.gettempdir())
    require_room(place, len(weights))
    with explain_write_errors(place):
        folder = tempfile.TemporaryDirectory(prefix="hip-mri-", ignore_cleanup_errors=True)
    with folder:
        file = Path(folder.name, WEIGHTS)
        with explain_write_errors(place):
            file.write_bytes(weights)
        yield file


def _read_description(archive: zipfile.ZipFile) -> dict[str, Any]:
    if archive.getinfo(DESCRIPTION).file_size > MAX_DESCRIPTION_BYTES:
        raise ValueError("its description is too large")
    return json.loads(archive.read(DESCRIPTION))


def _build(description: dict[str, Any]) -> Model:
    """Build the architecture that a description names."""
    known: dict[str, BackboneName] = {f"{PREFIX}{name.lower()}": name for name in ARCHITECTURES}
    found = description["config"]["name"]
    layers = description["config"]["layers"]
    if found == f"{PREFIX}{PRESET}":
        known[found] = _find_preset(layers)
    if found not in known:
        raise ValueError(f"it describes {str(found)[:40]!r}, which is not a network of this pipeline")
    size = layers[0]["config"]["batch_shape"][1]
    if not (isinstance(size, int) and 0 < size <= MAX_IMAGE_SIZE):
        raise ValueError(f"its images have the size {str(size)[:20]}")
    names = [layer["config"]["name"] for layer in layers]
    return build_network(
        known[found],
        size,
        _find_head(description),
        scaling=find_scaling(names),
        standardized=STANDARDIZE in names,
    )


def _find_preset(layers: Sequence[dict[str, Any]]) -> BackboneName:
    """Find the design of a preset among the descriptions of layers, and check it."""
    designs = [layer["config"]["design"] for layer in layers if layer["class_name"] == PRESET_CLASS]
    return parse_design(designs[0]).name


def _find_width(description: dict[str, Any]) -> int:
    """Find the number of features, the input of a head."""
    width = description["config"]["layers"][0]["config"]["batch_shape"][1]
    if not (isinstance(width, int) and 0 < width <= MAX_NUM_FEATURES):
        raise ValueError(f"its input has the width {str(width)[:20]}")
    return width


def _find_head(description: dict[str, Any]) -> HeadDesign:
    return find_head_design(description["config"]["layers"])


def _list_layers(description: dict[str, Any]) -> list[Layer]:
    """List the network itself and its layers, in order."""
    parts = [description, *description["config"]["layers"]]
    return [(part["class_name"], part["module"], part["registered_name"]) for part in parts]


def _check_layers(file: Path, found: Sequence[Layer], network: Model) -> None:
    keras = import_keras()
    needed = _list_layers(cast("dict[str, Any]", keras.saving.serialize_keras_object(network)))
    if list(found) != needed:
        foreign = sorted({str(layer[0])[:40] for layer in set(found) - set(needed)}) or ["another order of layers"]
        raise WeightsError(f"model: {file} is not loaded: {list_offenders(foreign)} {_FOREIGN}")


_FOREIGN: Final = "is not part of a network of this pipeline. Give the model of a finished run."


@contextlib.contextmanager
def _explain_damage(file: Path) -> Iterator[None]:
    """Turn errors from damaged files into a `WeightsError`."""
    try:
        yield
    except UNREADABLE as error:
        raise WeightsError(
            f"model: {file} cannot be loaded ({describe_cause(error)}). Give the model of a finished run."
        ) from error
