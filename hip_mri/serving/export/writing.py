"""Exports a served model with its metadata and reference scores, and checks the export before it is published."""

import logging
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hip_mri.config import PreprocessingSettings
from hip_mri.disk_errors import require_room
from hip_mri.errors import ExportError, list_offenders
from hip_mri.hashes import hash_files
from hip_mri.images.clahe_and_resizing import preprocess_image
from hip_mri.models.backbones.backbone import BYTES_PER_NUMBER
from hip_mri.models.predict import predict
from hip_mri.serving.export.checking import compare_scores
from hip_mri.serving.export.exported_network import load_exported, to_network_input
from hip_mri.serving.export.formats import FORMATS, FormatName, check_backend, check_packages
from hip_mri.serving.export.metadata import METADATA_FILE, REFERENCE_FILE, Metadata, describe_export
from hip_mri.serving.served_model import ServedModel
from hip_mri.storage import publish_folder, write_json
from hip_mri.synthetic.demo import draw_demo

logger = logging.getLogger(__name__)

_SHAPES: Final = ((224, 224), (224, 180), (150, 224), (97, 131), (200, 200), (64, 64))
"""Sizes of the reference images, so that resizing in both directions is checked; the demo's have 224 or more."""

_SEED: Final = 20260101
"""Seed of the reference images."""


class Reference(NamedTuple):
    """Synthetic images with which an export is checked.

    Attributes:
        images: Gray levels 0-255, uint8, of several sizes.
        inputs: What preprocessing makes of them, uint8, shape (num_images, image_size, image_size).
    """

    images: tuple[NDArray[np.uint8], ...]
    inputs: NDArray[np.uint8]


def export_model(model: ServedModel, format_name: FormatName, folder: Path) -> Metadata:
    """Export the whole network of a model, from gray levels to the probability of a lesion, into a new folder.

    Mirror averaging, if the model was evaluated with it, is part of the graph. Before the folder is published, the
    graph is loaded by the runtime of its format and its scores are compared with those of Keras.

    Args:
        model: From `find_model`.
        format_name: Format of the graph.
        folder: Must not exist.

    Raises:
        ExportError: The folder exists, a package is missing, Keras has another backend than TensorFlow, or the scores
            of the graph differ.
        WeightsError: The model's file was changed.
        DiskError: The disk is full, read-only or broken.
    """
    exported = FORMATS[format_name]
    if folder.exists():
        raise ExportError(f"export: {folder} exists already. Give a new folder; nothing is overwritten.")
    check_packages((*exported.writers, exported.runtime), f"export: the format {format_name}")
    check_backend()
    network, scaling = load_exported(model.network)
    reference = draw_reference(model.network.preprocessing)
    scores = predict(network, to_network_input(reference.inputs))
    with publish_folder(folder) as fresh:
        require_room(fresh, 2 * BYTES_PER_NUMBER * network.count_params())
        exported.write(network, fresh)
        _write_reference(fresh / REFERENCE_FILE, reference, scores)
        metadata = describe_export(model, scaling, format_name, exported.files[0], hash_files(fresh))
        write_json(fresh / METADATA_FILE, metadata.model_dump(mode="json"))
        difference, problems = compare_scores(fresh, metadata, to_network_input(reference.inputs), scores)
        if problems:
            raise ExportError(
                f"export: the graph is not as needed: {list_offenders(problems)}. Nothing is kept. Choose another "
                "format."
            )
    logger.info("Exported %s; scores differ from those of Keras by at most %.1e", model.name, difference)
    return metadata


def draw_reference(settings: PreprocessingSettings) -> Reference:
    """Draw phantoms of several sizes and noise, and preprocess them. No image of a patient leaves the workspace."""
    drawn = draw_demo(_SEED, num_patients=len(_SHAPES))
    phantoms = [image.pixels[:height, :width] for (height, width), image in zip(_SHAPES, drawn, strict=False)]
    noise = np.random.default_rng(_SEED).integers(0, 256, (120, 90), np.uint8)
    images = tuple(map(np.ascontiguousarray, (*phantoms, noise)))
    return Reference(images, np.stack([preprocess_image(image, settings) for image in images]))


def _write_reference(file: Path, reference: Reference, scores: NDArray[np.float32]) -> None:
    images = {f"image_{number}": image for number, image in enumerate(reference.images)}
    np.savez_compressed(file, inputs=reference.inputs, scores=scores, allow_pickle=False, **images)
