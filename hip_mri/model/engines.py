"""What computes the features: Keras on any device, OpenVINO on the CPU, behind one small interface."""

import contextlib
import functools
import json
import logging
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hip_mri.config import Engine, Precision, PreprocessingSettings
from hip_mri.data.reading import read_training_sample
from hip_mri.model.backbone import NUM_FEATURES, Backbone, load_backbone
from hip_mri.storage import digest, publish_folder, write_json
from hip_mri.workspace import Workspace

if TYPE_CHECKING:
    import openvino

logger = logging.getLogger(__name__)

KERAS_BATCH_SIZE: Final = 16
"""Images per call of Keras. Short batches are filled up, so that every image meets the same arithmetic."""

MAX_DEVIATION: Final = 0.01
"""Largest relative distance (L2 norm) of bfloat16 features from float32 at which bfloat16 is taken."""

NUM_CHECK_IMAGES: Final = 32
"""Images on which the deviation is measured."""

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
    """

    engine: Engine
    precision: Precision
    reason: str
    deviation: float | None = None


class FeatureEngine(Protocol):
    """Computes features; the result for an image does not depend on the images around it."""

    def compute(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Compute the features of gray images, shape (height, width) each; returns shape (len(images), 2048)."""
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
    workspace: Workspace,
    preprocessing: PreprocessingSettings,
    num_threads: int,
) -> EngineChoice:
    """Settle engine and precision, once for a backbone and its training images.

    Args:
        backbone: What is to be computed.
        engine: `auto` takes Keras where Keras sees a GPU, else OpenVINO.
        precision: `auto` takes bfloat16 where the processor computes it in hardware and the features of
            `NUM_CHECK_IMAGES` training images stay within `MAX_DEVIATION` of float32.
        workspace: Where the training images lie.
        preprocessing: How they are made.
        num_threads: Threads that decode the images.

    Returns:
        The choice.
    """
    hashes, images = read_training_sample(workspace, preprocessing, NUM_CHECK_IMAGES, num_threads)
    if engine == "auto":
        engine = "keras" if sees_gpu() else "openvino"
    has_bfloat16 = computes_bfloat16(engine)
    question = [engine, precision, has_bfloat16, version(engine), preprocessing.model_dump(), list(hashes)]
    record = backbone.folder.with_name(f"{backbone.folder.name}-engine") / f"{digest(question)[:16]}.json"
    if record.exists():
        return EngineChoice(**json.loads(record.read_text()))
    choice = _choose_precision(backbone, engine, precision, images, has_bfloat16=has_bfloat16)
    logger.info("Features come from %s in %s: %s", choice.engine, choice.precision, choice.reason)
    write_json(record, asdict(choice))
    return choice


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
        return EngineChoice(engine, "float32", "this processor does not compute bfloat16 in hardware")
    reference = open_engine(backbone, engine, "float32").compute(images)
    reduced = open_engine(backbone, engine, "bfloat16").compute(images)
    deviation = measure_deviation(reference, reduced)
    is_near = deviation <= MAX_DEVIATION
    reason = f"bfloat16 features of {len(images)} images deviate by {deviation:.2%} from float32"
    return EngineChoice(
        engine,
        "bfloat16" if is_near else "float32",
        f"{reason}, {'within' if is_near else 'more than'} the accepted {MAX_DEVIATION:.0%}",
        deviation,
    )


def measure_deviation(reference: NDArray[np.float32], features: NDArray[np.float32]) -> float:
    """Relative L2 distance of features from their reference, over all images; both have shape (images, 2048)."""
    return float(np.linalg.norm(features - reference) / np.linalg.norm(reference))


class _KerasEngine:
    def __init__(self, backbone: Backbone, precision: Precision) -> None:
        self._network = load_backbone(backbone, "mixed_bfloat16" if precision == "bfloat16" else "float32")
        self._image_size = backbone.image_size

    def compute(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        features = np.empty((len(images), NUM_FEATURES), np.float32)
        batch = np.zeros((KERAS_BATCH_SIZE, self._image_size, self._image_size, 1), np.float32)
        for start in range(0, len(images), KERAS_BATCH_SIZE):
            part = images[start : start + KERAS_BATCH_SIZE]
            batch[: len(part), ..., 0] = np.stack(part)
            with _one_at_a_time:
                computed = self._network.predict_on_batch(batch)
            features[start : start + len(part)] = np.asarray(computed, np.float32)[: len(part)]
        return features


class _OpenVinoEngine:
    """One image per request and as many requests at a time as the processor likes: fast, and independent of order."""

    def __init__(self, backbone: Backbone, precision: Precision) -> None:
        import openvino  # noqa: PLC0415 - not needed by the Keras engine

        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "PERFORMANCE_HINT": "THROUGHPUT",
        }
        core = openvino.Core()
        model = core.read_model(_export_openvino(backbone))
        model.reshape([1, backbone.image_size, backbone.image_size, 1])
        self._queue = openvino.AsyncInferQueue(core.compile_model(model, "CPU", settings))

    def compute(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        features = np.empty((len(images), NUM_FEATURES), np.float32)

        def keep(request: "openvino.InferRequest", row: int) -> None:
            features[row] = request.get_output_tensor().data[0]

        with _one_at_a_time:
            self._queue.set_callback(keep)
            for row, image in enumerate(images):
                self._queue.start_async(image[None, ..., None].astype(np.float32), row)
            self._queue.wait_all()
        return features


_export_lock = threading.Lock()


def _export_openvino(backbone: Backbone) -> Path:
    """Let Keras write the backbone in OpenVINO's format, once."""
    folder = backbone.folder.with_name(backbone.folder.name + "-openvino")
    file = folder / "backbone.xml"
    with _export_lock:
        if not file.exists():
            logger.info("Exporting the backbone to OpenVINO, once for these weights")
            with publish_folder(folder) as fresh, contextlib.redirect_stdout(None):
                load_backbone(backbone).export(str(fresh / file.name), format="openvino", verbose=False)
    return file


def sees_gpu() -> bool:
    """Whether Keras sees a GPU."""
    import keras  # noqa: PLC0415 - seconds to import

    return bool(keras.distribution.list_devices("gpu"))


def computes_bfloat16(engine: Engine) -> bool:
    """Whether the processor or GPU that the engine would use computes bfloat16 in hardware."""
    if engine == "openvino":
        import openvino  # noqa: PLC0415 - not needed by the Keras engine

        return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
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
