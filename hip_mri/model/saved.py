"""Networks from files, without running anything that a file says.

A `.keras` file holds a description of a network beside its weights. Keras builds what the description says, and that
may be any Python function. Here the description is only read, as plain data: it must be the one of an architecture
that this project builds. Then the architecture comes from code, and nothing but numbers from the file.
"""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, get_args

import h5py

from hip_mri.config import BackboneName
from hip_mri.errors import WeightsError, list_offenders
from hip_mri.model.head import build_head, build_network
from hip_mri.model.weights import UNREADABLE, check_numbers_only, tell_cause

if TYPE_CHECKING:
    import keras

WEIGHTS: Final = "model.weights.h5"
MEMBERS: Final = {"metadata.json", "config.json", WEIGHTS}
"""All that a network of this project is saved as."""

MOST_DESCRIPTION_BYTES: Final = 20_000_000
"""Forty times what the description of a ResNet152 takes."""

LARGEST_IMAGE: Final = 4096
MOST_HIDDEN_UNITS: Final = 65_536

Layer = tuple[str, str, str | None]
"""Class, module and registered name of a layer."""


def load_network(file: Path) -> "keras.Model":
    """Load a whole network of this project, in float32 and ready to be used.

    Args:
        file: A `model.keras`.

    Raises:
        WeightsError: It holds anything else than the weights of such a network; nothing of it was run.
    """
    try:
        description = _read_description(file)
        built = _build(description)
        _check_layers(file, _list_layers(description), built)
        load_weights(built, file)
    except UNREADABLE as error:
        raise _refuse(file, error) from error
    return built


def load_head(file: Path) -> "keras.Model":
    """Load a head that was saved by itself; see `load_network`."""
    try:
        description = _read_description(file)
        built = build_head(_find_units(description), seed=0)
        _check_layers(file, _list_layers(description), built)
        load_weights(built, file)
    except UNREADABLE as error:
        raise _refuse(file, error) from error
    return built


def load_weights(network: "keras.Model", file: Path) -> None:
    """Take the numbers of a saved network into one of the same architecture, the optimizer's included if it has one.

    Raises:
        WeightsError: The file holds anything but numbers, or the numbers of another network.
    """
    try:
        with zipfile.ZipFile(file) as archive, archive.open(WEIGHTS) as content, h5py.File(content, "r") as weights:
            check_numbers_only(weights, file)
        network.load_weights(str(file))
    except UNREADABLE as error:
        raise _refuse(file, error) from error


def _read_description(file: Path) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        foreign = {entry.filename for entry in archive.infolist()} ^ MEMBERS
        if foreign:
            raise WeightsError(f"model: {file} is not loaded: {list_offenders(sorted(foreign))} {_OTHER}")
        if archive.getinfo("config.json").file_size > MOST_DESCRIPTION_BYTES:
            raise ValueError("its description is too large")
        return json.loads(archive.read("config.json"))


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
    is_standardized = any(layer["config"]["name"] == "standardize" for layer in layers)
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
    import keras  # noqa: PLC0415 - seconds to import

    needed = _list_layers(cast("dict[str, Any]", keras.saving.serialize_keras_object(network)))
    if list(found) != needed:
        foreign = sorted({str(layer[0])[:40] for layer in set(found) - set(needed)}) or ["another order of layers"]
        raise WeightsError(f"model: {file} is not loaded: {list_offenders(foreign)} {_OTHER}")


_OTHER: Final = "is not what a network of this pipeline consists of. Give the model of a finished run."


def _refuse(file: Path, error: Exception) -> WeightsError:
    return WeightsError(f"model: {file} cannot be loaded ({tell_cause(error)}). Give the model of a finished run.")
