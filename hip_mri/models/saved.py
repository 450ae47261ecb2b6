"""Networks from files, without running anything that a file says.

A `.keras` file holds a description of a network beside its weights. Keras builds what the description says, and that
may be any Python function. Here the description is only read, as plain data: it must be the one of an architecture
that this project builds. Then the architecture comes from code, and nothing but numbers from the file.
"""

import contextlib
import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, get_args

import h5py

from hip_mri.config import BackboneName
from hip_mri.errors import WeightsError, list_offenders
from hip_mri.models.backbones.backbone import STANDARDIZE
from hip_mri.models.backbones.weights import UNREADABLE, check_numbers_only, tell_cause
from hip_mri.models.head import build_head, build_network
from hip_mri.models.keras_settings import DTYPE_POLICY, SETTINGS, import_keras
from hip_mri.storage import explain_write_errors, require_room

if TYPE_CHECKING:
    import keras

WEIGHTS: Final = "model.weights.h5"
DESCRIPTION: Final = "config.json"
MEMBERS: Final = {"metadata.json", DESCRIPTION, WEIGHTS}
"""All that a network of this project is saved as."""

MOST_DESCRIPTION_BYTES: Final = 20_000_000
"""Forty times what the description of a ResNet152 takes."""

MAX_BYTES_PER_PARAMETER: Final = 12
"""A weight and Adam's two moments of it, as float32."""

MAX_OVERHEAD_BYTES: Final = 2**24
"""What HDF5 may take for the names and places of the numbers; ten times what it takes for a ResNet152."""

LARGEST_IMAGE: Final = 4096
MOST_HIDDEN_UNITS: Final = 65_536

Layer = tuple[str, str, str | None]
"""Class, module and registered name of a layer."""


def load_network(file: Path, sha256: str | None = None) -> "keras.Model":
    """Load a whole network of this project, in float32 and ready to be used.

    Args:
        file: A `model.keras`.
        sha256: Recorded SHA-256 of the file; `None` where there is no record.

    Raises:
        WeightsError: It holds anything else than the weights of such a network, or has another SHA-256; nothing of
            it was run.
    """
    return _load(file, sha256, _build)


def load_head(file: Path, sha256: str | None = None) -> "keras.Model":
    """Load a head that was saved by itself; see `load_network`."""
    return _load(file, sha256, lambda description: build_head(_find_units(description), seed=0))


def load_weights(network: "keras.Model", file: Path) -> None:
    """Copy the numbers of a saved network into one of the same architecture, including those of its optimizer.

    Raises:
        WeightsError: The file holds anything but numbers, or the numbers of another network.
    """
    try:
        with _open_members(_read(file, None), file) as archive:
            _set_weights(network, archive, file)
    except UNREADABLE as error:
        raise _refuse(file, error) from error


def list_foreign_settings(file: Path) -> list[str]:
    """List the settings of Keras that a saved network was built with and that are not those of this pipeline.

    Args:
        file: A `model.keras`; only its description is read, without Keras.

    Returns:
        Such as `data_format channels_first`; empty where all layers have the right settings.

    Raises:
        WeightsError: It is no saved network.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _find_foreign_settings(_read_description(archive))
    except UNREADABLE as error:
        raise _refuse(file, error) from error


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


def _check_settings(file: Path, description: dict[str, Any]) -> None:
    if foreign := _find_foreign_settings(description):
        raise WeightsError(
            f"model: {file} is not loaded: its layers have {list_offenders(foreign)}, {SETTINGS['image_data_format']} "
            f"and {DTYPE_POLICY} are needed. An earlier version built it with the settings of a keras.json, so its "
            "scores are not those of this architecture. Train it again."
        )


def _load(file: Path, sha256: str | None, build: Callable[[dict[str, Any]], "keras.Model"]) -> "keras.Model":
    """Read a file once; check, build and load from the same bytes."""
    try:
        with _open_members(_read(file, sha256), file) as archive:
            description = _read_description(archive)
            _check_settings(file, description)
            network = build(description)
            _check_layers(file, _list_layers(description), network)
            _set_weights(network, archive, file)
    except UNREADABLE as error:
        raise _refuse(file, error) from error
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
        raise WeightsError(f"model: {file} is not loaded: {list_offenders(sorted(foreign))} {_OTHER}")
    return archive


def _set_weights(network: "keras.Model", archive: zipfile.ZipFile, file: Path) -> None:
    """Check the weights in memory and let Keras read the same bytes from a plain file.

    Not from the zip file: `zipfile` answers a backward seek by reading from the start, and HDF5 seeks all the time.
    """
    if archive.getinfo(WEIGHTS).file_size > MAX_BYTES_PER_PARAMETER * network.count_params() + MAX_OVERHEAD_BYTES:
        raise ValueError("it holds more numbers than the network has")
    weights = archive.read(WEIGHTS)
    with h5py.File(io.BytesIO(weights), "r") as content:
        check_numbers_only(content, file)
    with _write_plain(weights) as plain:
        network.load_weights(plain)


@contextlib.contextmanager
def _write_plain(weights: bytes) -> Iterator[Path]:
    """Write weights to a file that is removed with the block.

    Raises:
        DiskError: There is no room for it among the system's temporary files.
        WorkspaceError: There is no place for temporary files.
    """
    place = Path(tempfile.gettempdir())
    require_room(place, len(weights))
    with explain_write_errors(place):
        folder = tempfile.mkdtemp(prefix="hip-mri-")
    try:
        with explain_write_errors(place):
            Path(folder, WEIGHTS).write_bytes(weights)
        yield Path(folder, WEIGHTS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read_description(archive: zipfile.ZipFile) -> dict[str, Any]:
    if archive.getinfo(DESCRIPTION).file_size > MOST_DESCRIPTION_BYTES:
        raise ValueError("its description is too large")
    return json.loads(archive.read(DESCRIPTION))


def _build(description: dict[str, Any]) -> "keras.Model":
    """The architecture that a description claims to be, from code."""
    known = {f"hip_mri_{name.lower()}": name for name in get_args(BackboneName)}
    claimed = description["config"]["name"]
    if claimed not in known:
        raise ValueError(f"it describes {str(claimed)[:40]!r}, which is no network of this pipeline")
    name = cast(BackboneName, known[claimed])
    layers = description["config"]["layers"]
    size = layers[0]["config"]["batch_shape"][1]
    if not (isinstance(size, int) and 0 < size <= LARGEST_IMAGE):
        raise ValueError(f"its images have the size {str(size)[:20]}")
    is_standardized = any(layer["config"]["name"] == STANDARDIZE for layer in layers)
    return build_network(name, size, _find_units(description), standardized=is_standardized)


def _find_units(description: dict[str, Any]) -> int:
    units = description["config"]["layers"][-2]["config"]["units"]
    if not (isinstance(units, int) and 0 < units <= MOST_HIDDEN_UNITS):
        raise ValueError(f"its head has the width {str(units)[:20]}")
    return units


def _list_layers(description: dict[str, Any]) -> list[Layer]:
    """What Keras would build, in order; the network itself comes first."""
    parts = [description, *description["config"]["layers"]]
    return [(part["class_name"], part["module"], part["registered_name"]) for part in parts]


def _check_layers(file: Path, found: Sequence[Layer], network: "keras.Model") -> None:
    keras = import_keras()
    needed = _list_layers(cast("dict[str, Any]", keras.saving.serialize_keras_object(network)))
    if list(found) != needed:
        foreign = sorted({str(layer[0])[:40] for layer in set(found) - set(needed)}) or ["another order of layers"]
        raise WeightsError(f"model: {file} is not loaded: {list_offenders(foreign)} {_OTHER}")


_OTHER: Final = "is not what a network of this pipeline consists of. Give the model of a finished run."


def _refuse(file: Path, error: Exception) -> WeightsError:
    return WeightsError(f"model: {file} cannot be loaded ({tell_cause(error)}). Give the model of a finished run.")
