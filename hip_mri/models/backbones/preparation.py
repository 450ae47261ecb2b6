"""Prepares the backbone of a run: scaling of its input, weights, calibration."""

import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from hip_mri.config import InputScaling, PreprocessingSettings
from hip_mri.dataset.preprocessing import read_sample
from hip_mri.disk_errors import require_room
from hip_mri.errors import WeightsError
from hip_mri.hashes import digest, digest_file, is_as_recorded
from hip_mri.models.backbones.backbone import (
    BACKBONE_RECIPE,
    BYTES_PER_NUMBER,
    PARTS,
    Backbone,
    build_backbone,
    describe_scaling,
    get_architecture,
    load_weights_file,
    open_backbone,
    write_backbone,
)
from hip_mri.models.backbones.input_scaling import MAX_MISFIT, MIN_RATIO_OF_NOTICE, find_best, measure_misfits
from hip_mri.models.backbones.preset_layer import find_preset, get_tokens
from hip_mri.models.backbones.random_weights import NUM_CALIBRATION_IMAGES, calibrate, draw_weights
from hip_mri.models.backbones.weights import Weights
from hip_mri.models.keras_settings import Model, describe_keras
from hip_mri.storage import publish_folder, write_json
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

SCALING_SUFFIX: Final = "-scaling"
"""Suffix of the folder beside a backbone that keeps how well each scaling fits its weights."""

Misfits = dict[InputScaling, float]
ReadImages = Callable[[], tuple[list[str], list[NDArray[np.uint8]]]]
"""Reads a sample of preprocessed images; returns their SHA-256 and their gray levels."""


@dataclass(frozen=True)
class ScalingChoice:
    """Scaling of the input of a backbone.

    Attributes:
        scaling: The scaling.
        notice: Warning that every output repeats; empty for none.
    """

    scaling: InputScaling
    notice: str = ""


def prepare_backbone(
    weights: Weights,
    workspace: Workspace,
    preprocessing: PreprocessingSettings,
    seed: int,
    num_threads: int = 1,
    scaling: InputScaling | Literal["auto"] = "auto",
) -> Backbone:
    """Store a backbone with its weights in the workspace, unless it is stored already.

    Random weights are calibrated on some of the images, without their labels, once for a workspace, so that later
    images change no features.

    Args:
        weights: From `resolve_weights`, with their architecture.
        workspace: Its `backbones` folder is written; some images are read where they are needed.
        preprocessing: Preprocessing of the images.
        seed: Seed of random weights.
        num_threads: Threads that decode images.
        scaling: Scaling of the input; `auto` chooses it, see `choose_scaling`.

    Raises:
        WeightsError: The file does not fit the architecture, or has changed since `resolve_weights`.
    """
    name, size = weights.architecture, preprocessing.image_size
    origin = {"recipe": BACKBONE_RECIPE, "name": name, "image_size": size, "weights": weights.sha256}
    is_random = weights.file is None
    if is_random:
        origin |= {"seed": seed, "preprocessing": preprocessing.model_dump(), "keras": describe_keras()}

    def read_images() -> tuple[list[str], list[NDArray[np.uint8]]]:
        hashes, images = read_sample(workspace, preprocessing, NUM_CALIBRATION_IMAGES, num_threads)
        return list(hashes), images

    record_file = workspace.backbones_folder / f"{digest(origin)[:16]}{SCALING_SUFFIX}" / "misfits.json"
    choice = choose_scaling(
        weights, scaling, lambda: {} if weights.preset else _compare_scalings(weights, size, record_file, read_images)
    )
    origin |= describe_scaling(choice.scaling)
    folder = workspace.backbones_folder / digest(origin)[:16]
    if not is_as_recorded(folder, PARTS):
        network = build_backbone(name, size, scaling=choice.scaling, standardized=is_random)
        if weights.file is None:
            hashes, images = read_images()
            origin |= {"images": hashes}
            draw_weights(network, seed, get_architecture(name).branch_end)
            calibrate(network, images)
        else:
            _load_unchanged(network, weights.file, weights.sha256)
        require_room(folder, BYTES_PER_NUMBER * network.count_params())
        with publish_folder(folder) as fresh:
            write_backbone(network, fresh, {**origin, "is_standardized": is_random})
    return replace(open_backbone(folder), notice=choice.notice)


def choose_scaling(
    weights: Weights, given: InputScaling | Literal["auto"], compare: Callable[[], Misfits]
) -> ScalingChoice:
    """Choose the scaling of the input of a backbone, and check one that is given.

    Args:
        weights: Weights of the backbone. Published ImageNet weights need the scaling of the table. For random weights
            any scaling will do.
        given: Scaling that is set. `auto` chooses that of the table, unless another one fits weights from a file
            better.
        compare: Measures the misfit of each scaling; see `measure_misfits`. Called for weights from a file.
    """
    usual = get_architecture(weights.architecture).input_scaling
    misfits = compare() if weights.file and not weights.is_published else {}
    best = find_best(misfits, usual) if misfits else usual
    scaling = best if given == "auto" else given
    if misfits:
        fits = ", ".join(f"{name} {misfit:.2g}" for name, misfit in sorted(misfits.items(), key=lambda it: it[1]))
        logger.info("The input is scaled by %s; misfit of each scaling: %s", scaling, fits)
        reason = _explain_misfit(misfits, scaling, best)
    elif weights.is_published and scaling != usual:
        reason = f"the ImageNet weights of {weights.backbone} need {usual}. Set it to auto or {usual}."
    else:
        reason = ""
    notice = reason and f"WRONG INPUT SCALING: model.input_scaling is {scaling}, and {reason}"
    if notice:
        logger.warning("%s", notice)
    return ScalingChoice(scaling, notice)


def _explain_misfit(misfits: Misfits, scaling: InputScaling, best: InputScaling) -> str:
    """Describe why a scaling does not fit the weights; empty if it does."""
    distance = "The distance of what reaches the first layers from the statistics stored in the weights is"
    if misfits[scaling] >= MIN_RATIO_OF_NOTICE * misfits[best]:
        return (
            f"{best} fits the weights far better. {distance} {misfits[scaling]:.2g} with {scaling} and "
            f"{misfits[best]:.2g} with {best}. Set it to auto or {best}."
        )
    if misfits[scaling] > MAX_MISFIT:
        return (
            f"no scaling fits the weights. {distance} {misfits[scaling]:.2g}, at most {MAX_MISFIT} is needed. Give "
            "weights that were trained with one of the scalings of docs/models.md."
        )
    return ""


def _compare_scalings(weights: Weights, image_size: int, record_file: Path, read_images: ReadImages) -> Misfits:
    """Measure how well each scaling fits a weights file, once for a workspace."""
    with contextlib.suppress(OSError, ValueError):  # missing or damaged
        return json.loads(record_file.read_text())
    assert weights.file is not None
    network = build_backbone(weights.architecture, image_size, scaling="none")
    _load_unchanged(network, weights.file, weights.sha256)
    misfits = measure_misfits(network, read_images()[1])
    write_json(record_file, misfits)
    return misfits


def _load_unchanged(network: Model, file: Path, sha256: str) -> None:
    """Load a weights file if it is still the one that `resolve_weights` found."""
    found = digest_file(file)
    if found != sha256:
        raise WeightsError(
            f"model.weights: the SHA-256 of {file} is {found[:12]}, but was {sha256[:12]} at the start of the run. It "
            "is not loaded. Do not change the file during a run, and start again."
        )
    load_weights_file(get_tokens(network) if find_preset(network) else network, file)
