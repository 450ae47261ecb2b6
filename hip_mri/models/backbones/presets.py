"""Fetches presets of keras-hub and extracts the weights of their image encoder, once, as a file of numbers.

A preset is a folder: a description of the network as JSON, and weights as HDF5 or safetensors. It comes from Kaggle (by
name), from the Hugging Face hub (`hf://owner/name`) or from a local folder. The description is read as data only; see
`preset_design`. Folders in the format of Transformers (`config.json` with a `model_type`) are converted by keras-hub.
"""

import importlib.util
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py

from hip_mri.config import PRESETS
from hip_mri.errors import WeightsError, list_offenders
from hip_mri.hashes import digest, digest_file, is_as_recorded, record_hashes
from hip_mri.models.backbones.hdf5_checks import UNREADABLE, check_numbers_only, describe_cause
from hip_mri.models.backbones.preset_design import CLASSES, PresetDesign, check_options, make_design, parse_design
from hip_mri.models.backbones.preset_layer import MISSING, build_encoder, cut_encoder, import_keras_hub
from hip_mri.models.keras_settings import Model, list_keras_folders
from hip_mri.storage import publish_folder
from hip_mri.workspace import resolve_path

logger = logging.getLogger(__name__)

EXTRACTION_RECIPE: Final = 1
"""Version of the extraction; raised by changes that alter its result."""

HUB: Final = "hf://"
CONFIG, CONVERTER, WEIGHTS = "config.json", "image_converter.json", "model.weights.h5"
"""Files of a preset in the format of keras-hub."""

PREPROCESSOR, SAFETENSORS = "preprocessor_config.json", "model.safetensors"
"""Files of a preset in the format of Transformers, beside `config.json`."""

EXTRACTED: Final = "tokens.weights.h5"
DESIGN: Final = "design.json"
"""Files of the extraction."""

MAX_DESCRIPTION_BYTES: Final = 1_000_000

_MODULES: Final = {
    "dinov2": "convert_dinov2",
    "dinov2_with_registers": "convert_dinov2",
    "dinov3_vit": "convert_dinov3",
    "vit": "convert_vit",
}
"""Modules of keras-hub that convert a `model_type` of Transformers."""

_TEXT_OPTIONS: Final = (
    *("vocabulary_size", "embedding_dim", "hidden_dim", "num_layers", "num_heads", "intermediate_dim"),
    *("intermediate_activation", "layer_norm_epsilon", "max_sequence_length", "projection_dim"),
)
"""Options of the text encoder of SigLIP, which is built to read the weights of the whole and then dropped."""


@dataclass(frozen=True)
class Preset:
    """An extracted preset.

    Attributes:
        design: Its architecture.
        file: Weights of the image encoder up to its tokens, as Keras saves them.
        digest: Digest of the SHA-256 of its files and of the design, 64 hexadecimal digits.
    """

    design: PresetDesign
    file: Path
    digest: str


def find_preset_folder(address: str) -> Path | None:
    """Find and check the folder of a local preset; `None` for a name of `PRESETS` or an address of the hub.

    Raises:
        WeightsError: There is no such preset, or keras-hub is not installed.
    """
    if importlib.util.find_spec("keras_hub") is None:
        raise WeightsError(MISSING)
    if address in PRESETS or address.startswith(HUB):
        return None
    folder = resolve_path(address, "model.weights")
    if not (folder / CONFIG).is_file():
        raise WeightsError(
            f"model.weights: {folder} holds no {CONFIG}, so it is no preset. With --model.backbone preset, give the "
            f"folder of one, an address hf://OWNER/NAME, or one of {', '.join(PRESETS)}."
        )
    return folder


def fetch_preset(address: str, image_size: int) -> Preset:
    """Fetch a preset and extract its image encoder, unless it was extracted before.

    Args:
        address: A name of `PRESETS`, `hf://owner/name` or a folder.
        image_size: Height and width of the images that it must take.

    Raises:
        WeightsError: It cannot be downloaded, is of a foreign class, is damaged, or does not take such images.
    """
    folder = find_preset_folder(address)
    keras_hub = import_keras_hub()
    config = _read_json(_get_file(address, folder, CONFIG))
    is_native = "registered_name" in config
    files = {CONFIG: _get_file(address, folder, CONFIG)}
    for name in (CONVERTER,) if is_native else (PREPROCESSOR,):
        if found := _get_optional(address, folder, name):
            files[name] = found
    try:
        design = _read_design(config, {name: _read_json(file) for name, file in files.items()})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"model.weights: the preset {address} is not loaded ({describe_cause(error)}). Give a preset of "
            f"{', '.join(CLASSES)}, or of SigLIPBackbone."
        ) from error
    design.check_image_size(image_size)
    weights = WEIGHTS if is_native else SAFETENSORS
    files[weights] = _get_file(address, folder, weights)
    hashes = {name: digest_file(file) for name, file in sorted(files.items())}
    identity = digest([EXTRACTION_RECIPE, keras_hub.__version__, design.name, hashes])
    extracted = list_keras_folders()[0] / "models" / "hip-mri-presets" / identity[:16]
    if not is_as_recorded(extracted, (EXTRACTED, DESIGN)):
        logger.info("Extracting the image encoder of the preset, once")
        tokens = _load_tokens(address, design, config, files[weights])
        with publish_folder(extracted) as fresh:
            tokens.save_weights(fresh / EXTRACTED)
            (fresh / DESIGN).write_text(design.name)
            record_hashes(fresh)
    return Preset(parse_design((extracted / DESIGN).read_text()), extracted / EXTRACTED, identity)


def _get_file(address: str, folder: Path | None, name: str) -> Path:
    found = _get_optional(address, folder, name)
    if found is None:
        sharded = " Weights in several files are not supported." if name in (WEIGHTS, SAFETENSORS) else ""
        raise WeightsError(f"model.weights: the preset {address} has no file {name}.{sharded} Give another preset.")
    return found


def _get_optional(address: str, folder: Path | None, name: str) -> Path | None:
    """Return a file of a preset, downloaded if needed; `None` if the preset has no such file."""
    if folder:
        return folder / name if (folder / name).is_file() else None
    utilities = importlib.import_module("keras_hub.src.utils.preset_utils")
    try:
        return Path(utilities.get_file(address, name))
    except FileNotFoundError:
        return None
    except Exception as error:  # the clients of both hubs raise errors of many libraries
        raise WeightsError(
            f"model.weights: {name} of the preset {address} could not be downloaded ({type(error).__name__}: "
            f"{describe_cause(error)}). Where there is no internet, fetch the folder of the preset on another machine "
            "and give its path with --model.weights."
        ) from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_DESCRIPTION_BYTES:
            raise ValueError(f"it is larger than {MAX_DESCRIPTION_BYTES:,} bytes")
        content = json.loads(file.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"model.weights: {file} cannot be read ({describe_cause(error)}). Fetch the preset again."
        ) from error
    return content


def _read_design(config: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> PresetDesign:
    """Read the design from the description of a network; see `preset_design`."""
    if "registered_name" in config:
        kind, options = _find_encoder(config)
        scaling = files.get(CONVERTER, {}).get("config", {})
        mean, deviation = _invert(scaling.get("scale"), scaling.get("offset"))
    else:
        module = _find_converter(config)
        kind, options = module.backbone_cls.__name__, module.convert_backbone_config(dict(config))
        scaling = files.get(PREPROCESSOR, {})
        mean, deviation = scaling.get("image_mean"), scaling.get("image_std")
    usual = CLASSES[kind]
    chosen = {name: _as_json(options[name]) for name in usual.options if options.get(name) is not None}
    return make_design(kind, chosen, mean or usual.mean, deviation or usual.deviation)


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _find_encoder(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Find class and options of the image encoder in a description by keras-hub."""
    kind = str(config["registered_name"]).removeprefix("keras_hub>")
    if kind == "SigLIPBackbone":
        return _find_encoder(config["config"]["vision_encoder"])
    if kind not in CLASSES or config["registered_name"] != f"keras_hub>{kind}":
        raise ValueError(f"{str(config['registered_name'])[:60]!r} is a foreign class")
    return kind, config["config"]


def _find_converter(config: Mapping[str, Any]) -> Any:
    kind = config.get("model_type")
    if kind not in _MODULES:
        raise ValueError(f"the model_type {str(kind)[:40]!r} is none of {list_offenders(list(_MODULES))}")
    return importlib.import_module(f"keras_hub.src.utils.transformers.{_MODULES[kind]}")


def _invert(scale: Any, offset: Any) -> tuple[list[float] | None, list[float] | None]:
    """Convert x · scale + offset to the mean and the deviation of gray levels of 0-1."""
    if scale is None:
        return None, None
    scales = scale if isinstance(scale, list) else [scale] * 3
    offsets = offset if isinstance(offset, list) else [offset or 0.0] * 3
    deviation = [1 / (255 * it) for it in scales]
    return [-shift * width for shift, width in zip(offsets, deviation, strict=True)], deviation


def _load_tokens(address: str, design: PresetDesign, config: Mapping[str, Any], file: Path) -> Model:
    """Build the encoder and load its weights."""
    encoder = build_encoder(design)
    try:
        if file.name == SAFETENSORS:
            loader = importlib.import_module("keras_hub.src.utils.transformers.safetensor_utils").SafetensorLoader
            with loader(str(file.parent)) as tensors:
                _find_converter(config).convert_weights(encoder, tensors, dict(config))
        else:
            with h5py.File(file, "r") as content:
                check_numbers_only(content, file)
            whole = _join_text_encoder(encoder, config)
            whole.load_weights(file)
    except (*UNREADABLE, ImportError) as error:
        raise WeightsError(
            f"model.weights: the weights of the preset {address} do not fit {design.kind} ({describe_cause(error)}). "
            "Fetch the preset again."
        ) from error
    return cut_encoder(design, encoder)


def _join_text_encoder(encoder: Model, config: Mapping[str, Any]) -> Model:
    """Join the image encoder of a SigLIP with its text encoder, whose weights the same file holds."""
    if config["registered_name"] != "keras_hub>SigLIPBackbone":
        return encoder
    models = import_keras_hub().models
    given = config["config"]["text_encoder"]["config"]
    options = {name: given[name] for name in _TEXT_OPTIONS if given.get(name) is not None}
    check_options(options, _TEXT_OPTIONS)
    return models.SigLIPBackbone(encoder, models.SigLIPTextEncoder(**options))
