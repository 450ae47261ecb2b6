"""Resolves the weights of the backbone, and checks that they fit before other work begins."""

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import h5py

from hip_mri.config import ARCHITECTURES, KERAS_ADDRESS, PRESET, BackboneName, PreprocessingSettings
from hip_mri.errors import WeightsError
from hip_mri.hashes import digest_file
from hip_mri.images.file_kinds import LFS_ADVICE, NUM_BYTES_NEEDED, is_lfs_pointer, is_web_page
from hip_mri.models.backbones.hdf5_checks import UNREADABLE, check_numbers_only, count_parameters, describe_cause
from hip_mri.models.backbones.presets import fetch_preset, find_preset_folder
from hip_mri.models.keras_settings import choose_backend, list_keras_folders
from hip_mri.storage import replace_file
from hip_mri.workspace import resolve_path

logger = logging.getLogger(__name__)

DOWNLOAD_TIMEOUT_SECONDS: Final = 20
"""Time without an answer after which the download fails."""

DEFAULT_IMAGE_SIZE: Final = PreprocessingSettings().image_size

FALLBACK_BACKBONE: Final[BackboneName] = "ResNet50"
"""Backbone of the demo without downloaded weights: the smallest; with random weights a larger one is no better."""

FALLBACK_NOTICE: Final = (
    f"RANDOM WEIGHTS: the ImageNet weights could not be downloaded, so this demo runs on a {FALLBACK_BACKBONE} with "
    "random weights. Its metrics do not reflect the performance of a pretrained network."
)
RANDOM_NOTICE: Final = (
    "RANDOM WEIGHTS: the backbone has random weights, as set in model.weights. Its metrics do not reflect the "
    "performance of a pretrained network."
)

_OPTIMIZER_GROUPS: Final = ("optimizer", "optimizer_weights")
"""Groups in which Keras 3 and older versions store the state of an optimizer, which is not read."""


@dataclass(frozen=True)
class Weights:
    """Resolved weights.

    Attributes:
        name: `imagenet`, `random`, or the SHA-256 of the file that the user gave; of a preset the digest of its files.
        backbone: Architecture that they belong to, as in `model.backbone`.
        file: The weights file; `None` for random weights.
        sha256: SHA-256 of the file; empty for random weights.
        notice: Warning that every output repeats; empty for none.
        is_published: Whether the file is that of the ImageNet weights of `keras.applications`.
        preset: Design of the preset; empty for architectures of the table.
    """

    name: str
    backbone: BackboneName
    file: Path | None
    sha256: str
    notice: str = ""
    is_published: bool = False
    preset: str = ""

    @property
    def architecture(self) -> BackboneName:
        """Name of the architecture for `build_backbone`."""
        return self.preset or self.backbone


def resolve_weights(
    weights: str, backbone: BackboneName, *, fall_back_to_random: bool, image_size: int = DEFAULT_IMAGE_SIZE
) -> Weights:
    """Find the weights of the backbone.

    Args:
        weights: `imagenet`, `random`, or the path of a Keras weights file without top; of a preset its name, address or
            folder.
        backbone: Architecture that they belong to.
        fall_back_to_random: Whether to use random weights of the smallest network, with a notice, if the ImageNet
            weights cannot be downloaded. For the demo only.
        image_size: Height and width of the images, which a preset must take.

    Returns:
        The weights, with an existing file of the right number of parameters.

    Raises:
        WeightsError: The file is missing or does not fit, or the download is not possible.
        SettingsError: The path begins with an unknown home folder, or the backend of Keras cannot be used.
    """
    choose_backend()
    if backbone == PRESET:
        preset = fetch_preset(weights, image_size)
        return Weights(preset.digest, backbone, preset.file, digest_file(preset.file), preset=preset.design.name)
    if weights == "random":
        return Weights("random", backbone, None, "", RANDOM_NOTICE)
    if given := find_weights_file(weights, backbone):
        sha256 = digest_file(given)
        is_published = _has_published_hash(given, ARCHITECTURES[backbone].imagenet_hash)
        return Weights(sha256, backbone, given, sha256, is_published=is_published)
    try:
        file = _download_imagenet(backbone)
    except OSError as error:
        return _replace_imagenet(error, backbone, fall_back_to_random)
    return Weights("imagenet", backbone, file, digest_file(file), is_published=True)


def find_weights_file(weights: str, backbone: BackboneName) -> Path | None:
    """Find and check the weights file of the user, or the folder of a preset; `None` for names and addresses.

    See `resolve_weights`.
    """
    if backbone == PRESET:
        return find_preset_folder(weights)
    if weights in ("imagenet", "random"):
        return None
    file = resolve_path(weights, "model.weights")
    _check_file(file, backbone)
    return file


def _replace_imagenet(error: OSError, backbone: BackboneName, fall_back_to_random: bool) -> Weights:
    if fall_back_to_random:
        logger.warning("%s", FALLBACK_NOTICE)
        return Weights("random", FALLBACK_BACKBONE, None, "", FALLBACK_NOTICE)
    raise WeightsError(
        f"model.weights: the ImageNet weights of {backbone} could not be downloaded ({error}). Where there is no "
        f"internet, fetch `{ARCHITECTURES[backbone].imagenet_name}` (keras.io, 'Keras Applications') "
        "on another machine and give its path with --model.weights, or 'random' for a dry run."
    ) from error


def _download_imagenet(backbone: BackboneName) -> Path:
    """Download the ImageNet weights to the folder of Keras, unless they are in one of its folders.

    Raises:
        OSError: The download is not possible.
    """
    import httpx  # noqa: PLC0415 - a tenth of a second that most runs do not need

    architecture = ARCHITECTURES[backbone]
    files = [folder / "models" / architecture.imagenet_name for folder in list_keras_folders()]
    for file in files:
        if file.is_file() and _has_published_hash(file, architecture.imagenet_hash):
            return file
    file = next((file for file in files if _is_writable(file.parent)), files[-1])
    logger.info("Downloading the ImageNet weights of %s to %s", backbone, file)
    try:
        with replace_file(file) as temporary:
            _download(KERAS_ADDRESS + architecture.imagenet_path, temporary)
            found = _digest_as(architecture.imagenet_hash, temporary)
            if found != architecture.imagenet_hash:
                raise ValueError(f"the hash of the download is {found}, {architecture.imagenet_hash} is needed")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, ImportError) as error:  # the last of unusable proxies
        raise OSError(describe_cause(error)) from error
    return file


def _has_published_hash(file: Path, published: str) -> bool:
    return _digest_as(published, file) == published


def _digest_as(published: str, file: Path) -> str:
    """Compute the hash of a file by the algorithm of a published one: MD5, or SHA-256 with its 64 digits."""
    if len(published) == hashlib.sha256().digest_size * 2:
        return digest_file(file)
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _download(address: str, file: Path) -> None:
    import httpx  # noqa: PLC0415 - see above

    with (
        httpx.stream("GET", address, timeout=DOWNLOAD_TIMEOUT_SECONDS, follow_redirects=True) as response,
        file.open("wb") as stream,
    ):
        response.raise_for_status()
        for part in response.iter_bytes():
            stream.write(part)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _check_file(file: Path, backbone: BackboneName) -> None:
    if not file.is_file():
        raise WeightsError(
            f"model.weights: no file at {file}. Give the path of a Keras {backbone} weights file without top, "
            "or 'imagenet' to download."
        )
    if advice := _explain_other_kind(file):
        raise WeightsError(f"model.weights: {file.name} {advice}")
    try:
        with h5py.File(file, "r") as content:
            check_numbers_only(content, file)
            num_parameters = count_parameters(content)
            num_of_optimizer = sum(count_parameters(content[name]) for name in _OPTIMIZER_GROUPS if name in content)
            is_model = "model_config" in content.attrs or "model_weights" in content
    except UNREADABLE as error:
        raise WeightsError(
            f"model.weights: {file.name} is not a readable HDF5 file ({describe_cause(error)}). Fetch it again."
        ) from error
    if num_parameters - num_of_optimizer != ARCHITECTURES[backbone].num_parameters:
        raise WeightsError(_explain_count(file, backbone, num_parameters, num_of_optimizer, is_model=is_model))


def _explain_other_kind(file: Path) -> str:
    """Describe a file that is not HDF5 by its name or first bytes; empty for others."""
    with file.open("rb") as stream:
        start = stream.read(NUM_BYTES_NEEDED)
    if is_lfs_pointer(start):
        return f"is a Git LFS pointer, not the weights. {LFS_ADVICE}"
    if is_web_page(start):
        return "is a web page and not the weights. Download the file itself."
    suffix = file.suffix.lower()
    if suffix == ".keras":
        return (
            "is a whole model. Save the weights of its backbone alone with `backbone.save_weights('NAME.weights.h5')`, "
            "and give that file."
        )
    if suffix not in (".h5", ".hdf5"):
        return "does not end in .weights.h5 or .h5. Give a weights file that Keras saved."
    return ""


def _explain_count(
    file: Path, backbone: BackboneName, num_parameters: int, num_of_optimizer: int, *, is_model: bool
) -> str:
    """Describe a file with another number of parameters, and what to give instead."""
    num_weights = num_parameters - num_of_optimizer
    optimizer = f" beside {num_of_optimizer:,} numbers of an optimizer" if num_of_optimizer else ""
    fitting = [name for name, known in ARCHITECTURES.items() if known.num_parameters == num_weights]
    if fitting:
        advice = f"It fits --model.backbone {fitting[0]}."
    elif is_model or num_of_optimizer:
        advice = (
            "It is a whole model, as `model.save` writes it: save the weights of its backbone alone, without top, with "
            "`backbone.save_weights('NAME.weights.h5')`."
        )
    else:
        advice = "Give a file saved with include_top=False."
    return (
        f"model.weights: {file.name} holds {num_weights:,} parameters{optimizer}, {backbone} without top has "
        f"{ARCHITECTURES[backbone].num_parameters:,}. {advice}"
    )
