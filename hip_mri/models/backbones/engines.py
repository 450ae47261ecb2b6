"""What computes the features: Keras on any device, OpenVINO on the CPU, behind one small interface."""

import contextlib
import functools
import importlib
import json
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.config import Engine, Precision, PreprocessingSettings
from hip_mri.dataset.preprocessing import read_training_sample
from hip_mri.errors import SettingsError
from hip_mri.models.backbones.backbone import Backbone, add_maps, load_backbone
from hip_mri.models.backbones.export import export_openvino, import_openvino
from hip_mri.models.keras_settings import BACKEND_VARIABLE, choose_backend, describe_keras, import_keras
from hip_mri.storage import digest, write_json
from hip_mri.workspace import Workspace

if TYPE_CHECKING:
    import keras
    import openvino

logger = logging.getLogger(__name__)

KERAS_BATCH_SIZE: Final = 16
"""Images per call of Keras. Short batches are filled up, so that every image meets the same arithmetic."""

NUM_CHECK_IMAGES: Final = 32
"""Images on which the deviation of bfloat16 from float32 is measured."""

JPEG_QUALITY: Final = 95
"""Quality at which the same images are saved as JPEG, a change of the images that is common and hardly visible."""

MAX_JPEG_FRACTION: Final = 0.5
"""Largest deviation of bfloat16 features, in parts of the deviation that JPEG causes, at which bfloat16 is taken."""

MAX_KERAS_ROWS: Final = 128
"""Feature rows up to which Keras computes them on a CPU. For more, OpenVINO pays for its export: two cores with
AVX-512 computed 22 (Keras), 28 (OpenVINO) and 59 (OpenVINO, bfloat16) rows of a ResNet50 a second, and its export took
3 s longer than Keras' first call; with a ResNet101 all of it took twice as long."""

BACKENDS_OF_OPENVINO: Final = ("tensorflow", "torch")
"""Backends of Keras whose networks OpenVINO reads; those of JAX end in "no conversion rule for XlaCallModule"."""

CHOICE_RECIPE: Final = 3
"""Number of this way to choose; a change that can alter a choice raises it."""

GPU_DEVICES: Final = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files of NVIDIA's driver, of AMD's, and of Windows' Subsystem for Linux."""

_opening = threading.Lock()

_one_at_a_time = threading.Lock()
"""An engine keeps all cores or the whole device busy; a second one at the same time would only fight it."""


@dataclass(frozen=True)
class EngineChoice:
    """What computes the features, and why.

    Attributes:
        engine: `keras` or `openvino`.
        precision: `float32` or `bfloat16`.
        reason: One sentence for the log and the report.
        deviation: Relative distance (L2 norm) of the bfloat16 features from float32; `None` if not measured.
        jpeg_deviation: The same distance between the features of the images and of their JPEG form.
    """

    engine: Engine
    precision: Precision
    reason: str
    deviation: float | None = None
    jpeg_deviation: float | None = None

    @property
    def version(self) -> str:
        """Version of the engine that is installed here: another one can round otherwise."""
        return describe_version(self.engine)


def describe_version(engine: Engine) -> str:
    """Name the packages that an engine consists of, with their versions."""
    packages = ("keras", choose_backend()) if engine == "keras" else ("openvino",)
    return " ".join(f"{package} {version(package)}" for package in packages)


class FeatureEngine(Protocol):
    """Computes a backbone; the result for an image does not depend on the images around it."""

    def compute(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Compute the features of gray images, shape (height, width) each; returns shape (len(images), 2048)."""
        ...

    def compute_maps(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Compute the output of the last convolution block; shape (len(images), map_height, map_width, channels)."""
        ...


def open_engine(backbone: Backbone, engine: Engine, precision: Precision) -> FeatureEngine:
    """Load a backbone into an engine; kept in memory for the next call.

    Args:
        backbone: What to compute.
        engine: `keras` or `openvino`.
        precision: Of the arithmetic inside; features are float32 in any case.
    """
    with _opening:  # two shards that start together share one engine
        return _load_engine(backbone, engine, precision)


@functools.lru_cache(maxsize=2)
def _load_engine(backbone: Backbone, engine: Engine, precision: Precision) -> FeatureEngine:
    return _KerasEngine(backbone, precision) if engine == "keras" else _OpenVinoEngine(backbone, precision)


def choose_engine(
    backbone: Backbone,
    engine: Engine | Literal["auto"],
    precision: Precision | Literal["auto"],
    num_rows: int,
    workspace: Workspace,
    preprocessing: PreprocessingSettings,
    num_threads: int,
) -> EngineChoice:
    """Choose engine and precision, once for a backbone and its training images.

    Args:
        backbone: What is to be computed.
        engine: See `settle_engine`.
        precision: `auto` takes bfloat16 where the processor computes it in hardware and it moves the features of
            `NUM_CHECK_IMAGES` training images at most `MAX_JPEG_FRACTION` times as far as saving these images as JPEG
            does.
        num_rows: Feature rows that are needed.
        workspace: Where the training images lie.
        preprocessing: How they are made.
        num_threads: Threads that decode the images.

    Returns:
        The choice.
    """
    hashes, images = read_training_sample(workspace, preprocessing, NUM_CHECK_IMAGES, num_threads)
    engine = settle_engine(engine, num_rows)
    has_bfloat16 = computes_bfloat16(engine)
    question = [CHOICE_RECIPE, backbone.digest, engine, precision, has_bfloat16]
    question += [describe_version(engine), describe_keras(), preprocessing.model_dump(), list(hashes)]
    record = backbone.folder.with_name(f"{backbone.folder.name}-engine") / f"{digest(question)[:16]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):  # none, or a damaged one
        return EngineChoice(**json.loads(record.read_text()))
    choice = _choose_precision(backbone, engine, precision, images, has_bfloat16=has_bfloat16)
    logger.info("Features come from %s in %s: %s", choice.engine, choice.precision, choice.reason)
    write_json(record, asdict(choice))
    return choice


def settle_engine(engine: Engine | Literal["auto"], num_rows: int, *, is_exported: bool = False) -> Engine:
    """Decide what computes a number of feature rows.

    Args:
        engine: `auto` takes Keras where Keras sees a GPU, or where there are at most `MAX_KERAS_ROWS` rows and no
            export, or where OpenVINO cannot read networks of Keras's backend; else OpenVINO.
        num_rows: Feature rows that are needed.
        is_exported: Whether the backbone is there in OpenVINO's format already.

    Raises:
        SettingsError: OpenVINO is asked for and cannot read networks of Keras's backend.
    """
    backend = choose_backend()
    if engine == "openvino" and backend not in BACKENDS_OF_OPENVINO:
        raise SettingsError(
            f"engine: openvino was asked for, and OpenVINO cannot read a network of Keras's backend {backend}. Set the "
            f"engine to keras, or {BACKEND_VARIABLE} to {' or '.join(BACKENDS_OF_OPENVINO)}."
        )
    if engine != "auto":
        return engine
    if backend not in BACKENDS_OF_OPENVINO:
        return "keras"
    return "keras" if sees_gpu() or (num_rows <= MAX_KERAS_ROWS and not is_exported) else "openvino"


def _choose_precision(
    backbone: Backbone,
    engine: Engine,
    precision: Precision | Literal["auto"],
    images: Sequence[NDArray[np.uint8]],
    *,
    has_bfloat16: bool,
) -> EngineChoice:
    if precision != "auto":
        return EngineChoice(engine, precision, f"{precision} was asked for")
    if not has_bfloat16:
        return EngineChoice(engine, "float32", f"{engine} does not compute bfloat16 in hardware here")
    full = open_engine(backbone, engine, "float32")
    reference = full.compute(images)
    by_jpeg = measure_deviation(reference, full.compute([_save_as_jpeg(image) for image in images]))
    deviation = measure_deviation(reference, open_engine(backbone, engine, "bfloat16").compute(images))
    _load_engine.cache_clear()  # two compiled networks take half a gigabyte; one is needed from here on
    is_near = deviation <= MAX_JPEG_FRACTION * by_jpeg
    return EngineChoice(
        engine,
        "bfloat16" if is_near else "float32",
        f"bfloat16 moves the features of {len(images)} images by {deviation:.2%}, saving the images as JPEG of quality "
        f"{JPEG_QUALITY} moves them by {by_jpeg:.2%}; bfloat16 is taken up to {MAX_JPEG_FRACTION:.0%} of that",
        deviation,
        by_jpeg,
    )


def _save_as_jpeg(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), np.uint8)


def measure_deviation(reference: NDArray[np.float32], features: NDArray[np.float32]) -> float:
    """Relative L2 distance of features from their reference, over all images; both have shape (images, 2048)."""
    return float(np.linalg.norm(features - reference) / np.linalg.norm(reference))


class _KerasEngine:
    def __init__(self, backbone: Backbone, precision: Precision) -> None:
        self._network = load_backbone(backbone, "mixed_bfloat16" if precision == "bfloat16" else "float32")
        self._image_size = backbone.image_size

    def compute(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return self._run(self._network, images)

    def compute_maps(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return self._run(self._maps, images)

    @functools.cached_property
    def _maps(self) -> "keras.Model":
        keras = import_keras()
        return keras.Model(self._network.input, add_maps(self._network).output[1])

    def _run(self, network: "keras.Model", images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        import_keras()
        computed = np.empty((len(images), *network.output_shape[1:]), np.float32)
        batch = np.zeros((KERAS_BATCH_SIZE, self._image_size, self._image_size, 1), np.float32)
        for start in range(0, len(images), KERAS_BATCH_SIZE):
            part = images[start : start + KERAS_BATCH_SIZE]
            batch[: len(part), ..., 0] = np.stack(part)
            with _one_at_a_time:
                outputs = network.predict_on_batch(batch)
            computed[start : start + len(part)] = np.asarray(outputs, np.float32)[: len(part)]
        return computed


class _OpenVinoEngine:
    """One image per request and as many requests at a time as the processor likes: fast, and independent of order."""

    def __init__(self, backbone: Backbone, precision: Precision) -> None:
        openvino = import_openvino()
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "PERFORMANCE_HINT": "THROUGHPUT",
        }
        core = openvino.Core()
        model = core.read_model(export_openvino(backbone))
        model.reshape([1, backbone.image_size, backbone.image_size, 1])
        self._compiled = core.compile_model(model, "CPU", settings)
        self._queue = openvino.AsyncInferQueue(self._compiled)

    def compute(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return self._run(0, images)

    def compute_maps(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return self._run(1, images)

    def _run(self, output: int, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        computed = np.empty((len(images), *self._compiled.output(output).shape[1:]), np.float32)

        def keep(request: "openvino.InferRequest", row: int) -> None:
            computed[row] = request.get_output_tensor(output).data[0]

        with _one_at_a_time:
            self._queue.set_callback(keep)
            for row, image in enumerate(images):
                self._queue.start_async(image[None, ..., None].astype(np.float32), row)
            self._queue.wait_all()
        return computed


def sees_gpu() -> bool:
    """Whether Keras sees a GPU; where the system has none, Keras is not asked, since loading it takes seconds."""
    if sys.platform == "linux" and not any(Path(device).exists() for device in GPU_DEVICES):
        return False
    keras = import_keras()
    if choose_backend() == "torch":  # for which Keras lists no devices
        return bool(importlib.import_module("torch").cuda.is_available())
    return bool(keras.distribution.list_devices("gpu"))


def computes_bfloat16(engine: Engine) -> bool:
    """Whether the processor or GPU that the engine would use computes bfloat16 in hardware."""
    if engine == "openvino":
        return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return sees_gpu() and _gpu_compute_capability() >= 8.0  # NVIDIA's Ampere of 2020 brought bfloat16


def _gpu_compute_capability() -> float:
    """Compute capability of the weakest NVIDIA GPU; 0 where there is none or one does not say."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0.0
    asked = [command, "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.split()
        return min((float(capability) for capability in answer), default=0.0)
    except (OSError, subprocess.SubprocessError, ValueError):  # old drivers answer in words that they do not know
        return 0.0
