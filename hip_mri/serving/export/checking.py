"""Checks an export: hashes, metadata, preprocessing, and the scores of its graph."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hip_mri.config import PreprocessingSettings
from hip_mri.errors import ExportError, list_offenders
from hip_mri.hashes import find_changed, hash_files
from hip_mri.images.clahe_and_resizing import preprocess_image
from hip_mri.models.predict import predict
from hip_mri.serving.export.exported_network import load_exported
from hip_mri.serving.export.formats import FORMATS, INPUT, OUTPUT, check_packages
from hip_mri.serving.export.metadata import (
    METADATA_FILE,
    REFERENCE_FILE,
    Metadata,
    compare_with_model,
    describe_export,
    read_metadata,
)
from hip_mri.serving.served_model import ServedModel

MAX_LEVELS: Final = 1
"""Largest difference of a preprocessed gray level, by which versions of OpenCV may round."""


class Check(NamedTuple):
    """Result of a check of an export.

    Attributes:
        metadata: Its metadata.
        inputs: Preprocessed reference images, float32, shape (num_images, height, width, 1).
        scores: Recorded scores of Keras, shape (num_images,).
        difference: Largest difference of the scores of the graph.
        problems: What is wrong; empty if nothing is.
    """

    metadata: Metadata
    inputs: NDArray[np.float32]
    scores: NDArray[np.float32]
    difference: float
    problems: list[str]


def check_export(folder: Path) -> Check:
    """Check an export without its model: files, preprocessing, and the scores of the graph against the recorded ones.

    Raises:
        ExportError: The metadata or the runtime is missing, or files were changed, so that nothing is loaded.
    """
    metadata = read_metadata(folder)
    needed = {*FORMATS[metadata.format].files, REFERENCE_FILE}
    if metadata.graph != FORMATS[metadata.format].files[0]:
        raise ExportError(
            f"export: {METADATA_FILE} names the graph {metadata.graph[:60]!r}, needed is "
            f"{FORMATS[metadata.format].files[0]}. Nothing was loaded. Export again."
        )
    found = hash_files(folder).keys() - {METADATA_FILE}
    wrong = {
        "missing or changed": find_changed(folder, metadata.files),
        "not recorded": sorted((needed | found) - metadata.files.keys()),
    }
    if problems := [f"{list_offenders(names)} {what}" for what, names in wrong.items() if names]:
        raise ExportError(f"export: {folder} is not as it was written: {'; '.join(problems)}. Export again.")
    check_packages([FORMATS[metadata.format].runtime], f"export: the format {metadata.format}")
    inputs, scores, problems = _read_reference(folder / REFERENCE_FILE, metadata)
    difference, further = compare_scores(folder, metadata, inputs, scores)
    return Check(metadata, inputs, scores, difference, problems + further)


def compare_scores(
    folder: Path, metadata: Metadata, inputs: NDArray[np.float32], scores: NDArray[np.float32]
) -> tuple[float, list[str]]:
    """Compare the scores of an exported graph with those of Keras, in one batch and image by image.

    Returns:
        The largest difference, and what is wrong.
    """
    try:
        runtime = FORMATS[metadata.format].load(folder / metadata.graph)
        found = runtime.describe()
        needed = {
            name: ([None, *shape[1:]], "float32")
            for name, shape in ((INPUT, metadata.input.shape), (OUTPUT, metadata.output.shape))
        }
        if found != needed:
            return float("nan"), [f"inputs and outputs of the graph are {found}, needed are {needed}"]
        computed = runtime.score(inputs), np.concatenate([runtime.score(image[None]) for image in inputs])
    except Exception as error:  # runtimes raise errors of many classes
        return float("nan"), [f"the graph cannot be run ({type(error).__name__}: {str(error)[:200]})"]
    difference = float(max(np.abs(it - scores).max() for it in computed))
    return difference, describe_difference(difference, metadata.max_difference)


def check_against_model(check: Check, model: ServedModel) -> list[str]:
    """Compare an export with its model: metadata, and the scores of the model's network by Keras.

    Returns:
        What differs.

    Raises:
        WeightsError: The model's file was changed.
    """
    metadata = check.metadata
    if metadata.model.sha256 != model.network.sha256:
        return [f"model of {METADATA_FILE} is another one than {model.name}"]
    network, scaling = load_exported(model.network)
    needed = describe_export(model, scaling, metadata.format, metadata.graph, metadata.files)
    difference = float(np.abs(predict(network, check.inputs) - check.scores).max())
    problems = describe_difference(difference, metadata.max_difference)
    return compare_with_model(metadata, needed) + [f"by the model, {problem}" for problem in problems]


def describe_difference(difference: float, max_difference: float) -> list[str]:
    """Say that scores differ too much; empty if they do not. A difference that is no number is too large."""
    if difference <= max_difference:
        return []
    return [f"scores differ by {difference:.2g}, at most {max_difference:g} is allowed"]


def _read_reference(file: Path, metadata: Metadata) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str]]:
    """Read the reference images, preprocess them again, and describe where the result differs."""
    with np.load(file, allow_pickle=False) as stored:
        inputs, scores = stored["inputs"], stored["scores"]
        images = [stored[f"image_{number}"] for number in range(len(scores))]
    settings = read_preprocessing(metadata)
    levels = max(
        int(np.abs(preprocess_image(image, settings).astype(int) - level).max())
        for image, level in zip(images, inputs, strict=True)
    )
    recorded = metadata.tools.get("opencv-python-headless", "unknown")
    problems = [f"OpenCV preprocesses images differently here, by {levels} gray levels; {recorded} made the export"]
    return inputs[..., None].astype(np.float32), scores, problems if levels > MAX_LEVELS else []


def read_preprocessing(metadata: Metadata) -> PreprocessingSettings:
    """Read the settings of the preprocessing from the steps before the graph."""
    parameters: dict[str, Any] = {"clip_limit": 0.0, "num_tiles": 8}
    for step in metadata.before_graph:
        parameters |= step.parameters
    return PreprocessingSettings(
        clahe_clip_limit=parameters["clip_limit"],
        clahe_num_tiles=parameters["num_tiles"],
        image_size=parameters["size"],
        interpolation=parameters["interpolation"],
    )
