"""Chooses the engine and the precision in which features are computed."""

import contextlib
import importlib
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.config import Engine, Precision, PreprocessingSettings
from hip_mri.dataset.preprocessing import read_sample
from hip_mri.errors import SettingsError
from hip_mri.hashes import digest
from hip_mri.models.backbones.backbone import Backbone
from hip_mri.models.backbones.engines import open_engine
from hip_mri.models.backbones.export import import_openvino
from hip_mri.models.keras_settings import BACKEND_VARIABLE, choose_backend, describe_keras, import_keras
from hip_mri.storage import write_json
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

NUM_CHECK_IMAGES: Final = 32
"""Number of images on which the deviation of bfloat16 from float32 is measured."""

JPEG_QUALITY: Final = 95
"""JPEG quality of the reference deviation: a change of images that is common and hardly visible."""

MAX_JPEG_FRACTION: Final = 0.5
"""Largest deviation of bfloat16 features at which bfloat16 is used, as a fraction of the deviation caused by JPEG."""

MAX_KERAS_ROWS: Final = 128
"""Largest number of feature rows that Keras computes on a CPU. For more, OpenVINO is faster including its export: two
cores with AVX-512 computed 22 (Keras), 28 (OpenVINO) and 59 (OpenVINO, bfloat16) rows of a ResNet50 a second, and its
export took 3 s longer than the first call of Keras; with a ResNet101 all times doubled."""

OPENVINO_BACKENDS: Final = ("tensorflow", "torch")
"""Backends of Keras whose networks OpenVINO reads; with JAX the conversion of XlaCallModule fails."""

ENGINE_CHOICE_RECIPE: Final = 3
"""Version of the choice; raised by changes that can alter it."""

ENGINE_SUFFIX: Final = "-engine"
"""Suffix of the folder beside a backbone in which its choices are kept."""

GPU_DEVICES: Final = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files of the drivers of NVIDIA and AMD, and of the Windows Subsystem for Linux."""


@dataclass(frozen=True)
class EngineChoice:
    """Engine and precision of the features, with the reason.

    Attributes:
        engine: `keras` or `openvino`.
        precision: `float32` or `bfloat16`.
        reason: Reason for the log and the report.
        deviation: Relative L2 distance of the bfloat16 features from float32; `None` if not measured.
        jpeg_deviation: The same distance between the features of images and of their JPEG versions.
    """

    engine: Engine
    precision: Precision
    reason: str
    deviation: float | None = None
    jpeg_deviation: float | None = None

    @property
    def version(self) -> str:
        """Installed version of the engine; another version can round differently."""
        return describe_version(self.engine)


def describe_version(engine: Engine) -> str:
    """Return the packages of an engine and their versions."""
    packages = ("keras", choose_backend()) if engine == "keras" else ("openvino",)
    return " ".join(f"{package} {version(package)}" for package in packages)


def choose_engine(
    backbone: Backbone,
    engine: Engine | Literal["auto"],
    precision: Precision | Literal["auto"],
    num_rows: int,
    workspace: Workspace,
    preprocessing: PreprocessingSettings,
    num_threads: int,
) -> EngineChoice:
    """Choose engine and precision, once for a backbone and a sample of images.

    Args:
        backbone: The backbone; its folder keeps the choice.
        engine: See `resolve_engine`.
        precision: `auto` uses bfloat16 if the hardware supports it and the deviation of the features of
            `NUM_CHECK_IMAGES` images is at most `MAX_JPEG_FRACTION` times that caused by JPEG.
        num_rows: Number of feature rows that are needed.
        workspace: Holds the images.
        preprocessing: Preprocessing of the images.
        num_threads: Threads that decode images.
    """
    hashes, images = read_sample(workspace, preprocessing, NUM_CHECK_IMAGES, num_threads)
    engine = resolve_engine(engine, num_rows)
    has_bfloat16 = computes_bfloat16(engine)
    identity = [ENGINE_CHOICE_RECIPE, backbone.digest, engine, precision, has_bfloat16]
    identity += [describe_version(engine), describe_keras(), preprocessing.model_dump(), list(hashes)]
    record = backbone.folder.with_name(f"{backbone.folder.name}{ENGINE_SUFFIX}") / f"{digest(identity)[:16]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):  # missing or damaged
        return EngineChoice(**json.loads(record.read_text()))
    choice = _choose_precision(backbone, engine, precision, images, has_bfloat16=has_bfloat16)
    logger.info("Features are computed by %s in %s: %s", choice.engine, choice.precision, choice.reason)
    write_json(record, asdict(choice))
    return choice


def resolve_engine(engine: Engine | Literal["auto"], num_rows: int, *, is_exported: bool = False) -> Engine:
    """Resolve `auto` to an engine.

    Args:
        engine: `auto` chooses Keras with a GPU, for at most `MAX_KERAS_ROWS` rows without an export, and if OpenVINO
            cannot read networks of the backend of Keras; otherwise OpenVINO.
        num_rows: Number of feature rows that are needed.
        is_exported: Whether the backbone is already exported to OpenVINO's format.

    Raises:
        SettingsError: OpenVINO is set and cannot read networks of Keras's backend.
    """
    backend = choose_backend()
    if engine == "openvino" and backend not in OPENVINO_BACKENDS:
        raise SettingsError(
            f"engine: openvino cannot read a network of the Keras backend {backend}. Set the "
            f"engine to keras, or {BACKEND_VARIABLE} to {' or '.join(OPENVINO_BACKENDS)}."
        )
    if engine != "auto":
        return engine
    if backend not in OPENVINO_BACKENDS:
        return "keras"
    return "keras" if has_gpu() or (num_rows <= MAX_KERAS_ROWS and not is_exported) else "openvino"


def _choose_precision(
    backbone: Backbone,
    engine: Engine,
    precision: Precision | Literal["auto"],
    images: Sequence[NDArray[np.uint8]],
    *,
    has_bfloat16: bool,
) -> EngineChoice:
    if precision != "auto":
        return EngineChoice(engine, precision, f"{precision} is set")
    if not has_bfloat16:
        return EngineChoice(engine, "float32", f"{engine} does not compute bfloat16 in hardware here")
    reference = open_engine(backbone, engine, "float32").compute(images)
    jpeg_images = [_save_as_jpeg(image) for image in images]
    by_jpeg = measure_deviation(reference, open_engine(backbone, engine, "float32").compute(jpeg_images))
    deviation = measure_deviation(reference, open_engine(backbone, engine, "bfloat16").compute(images))
    is_near = deviation <= MAX_JPEG_FRACTION * by_jpeg
    return EngineChoice(
        engine,
        "bfloat16" if is_near else "float32",
        f"features of {len(images)} images deviate by {deviation:.2%} in bfloat16 and by {by_jpeg:.2%} after JPEG of "
        f"quality {JPEG_QUALITY}; bfloat16 is used up to {MAX_JPEG_FRACTION:.0%} of the latter",
        deviation,
        by_jpeg,
    )


def _save_as_jpeg(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), np.uint8)


def measure_deviation(reference: NDArray[np.float32], features: NDArray[np.float32]) -> float:
    """Compute the relative L2 distance of features from their reference; both have shape (images, features)."""
    return float(np.linalg.norm(features - reference) / np.linalg.norm(reference))


def has_gpu() -> bool:
    """Whether Keras finds a GPU. Keras is not loaded if there is no device file, since loading takes seconds."""
    if sys.platform == "linux" and not any(Path(device).exists() for device in GPU_DEVICES):
        return False
    keras = import_keras()
    if choose_backend() == "torch":  # Keras lists no devices for it
        return bool(importlib.import_module("torch").cuda.is_available())
    return bool(keras.distribution.list_devices("gpu"))


def computes_bfloat16(engine: Engine) -> bool:
    """Whether the processor or GPU that the engine uses supports bfloat16 in hardware."""
    if engine == "openvino":
        return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return has_gpu() and _gpu_compute_capability() >= 8.0  # NVIDIA's Ampere of 2020 brought bfloat16


def _gpu_compute_capability() -> float:
    """Return the lowest compute capability of all NVIDIA GPUs; 0 if there is none or it is unknown."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0.0
    query = [command, "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split()
        return min((float(capability) for capability in output), default=0.0)
    except (OSError, subprocess.SubprocessError, ValueError):  # old drivers do not know the query
        return 0.0
