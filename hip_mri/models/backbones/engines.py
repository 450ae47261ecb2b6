"""Engines that compute a backbone: Keras on any device, OpenVINO on the CPU."""

import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.config import Engine, Precision
from hip_mri.models.backbones.backbone import Backbone, add_maps, load_backbone
from hip_mri.models.backbones.export import export_openvino, import_openvino
from hip_mri.models.keras_settings import Model, import_keras

if TYPE_CHECKING:
    import openvino

KERAS_BATCH_SIZE: Final = 16
"""Images per call of Keras. Shorter batches are padded, so that every image is computed in the same way."""

_opening = threading.Lock()

_computing = threading.Lock()
"""An engine uses all cores or the whole device; a second one at the same time would only slow it down."""


class FeatureEngine(ABC):
    """Computes a backbone; the result of an image does not depend on the other images."""

    def compute(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Compute the features of gray images, shape (height, width) each; returns shape (len(images), features)."""
        return self._run(0, images)

    def compute_maps(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Compute the output of the last convolution block; shape (len(images), map_height, map_width, channels)."""
        return self._run(1, images)

    @abstractmethod
    def _run(self, output: int, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Compute one of the two outputs of `add_maps`."""


def open_engine(backbone: Backbone, engine: Engine, precision: Precision) -> FeatureEngine:
    """Load a backbone into an engine; it is cached for the next call. Features are float32 in any precision."""
    with _opening:  # shards that start at the same time share one engine
        return _load_engine(backbone, engine, precision)


@functools.lru_cache(maxsize=1)  # a compiled network takes a quarter of a gigabyte
def _load_engine(backbone: Backbone, engine: Engine, precision: Precision) -> FeatureEngine:
    return _KerasEngine(backbone, precision) if engine == "keras" else _OpenVinoEngine(backbone, precision)


class _KerasEngine(FeatureEngine):
    def __init__(self, backbone: Backbone, precision: Precision) -> None:
        self._features = load_backbone(backbone, "mixed_bfloat16" if precision == "bfloat16" else "float32")
        self._image_size = backbone.image_size

    @functools.cached_property
    def _maps(self) -> Model:
        return import_keras().Model(self._features.input, add_maps(self._features).output[1])

    def _run(self, output: int, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        network = self._maps if output else self._features
        import_keras()
        computed = np.empty((len(images), *network.output_shape[1:]), np.float32)
        batch = np.zeros((KERAS_BATCH_SIZE, self._image_size, self._image_size, 1), np.float32)
        for start in range(0, len(images), KERAS_BATCH_SIZE):
            part = images[start : start + KERAS_BATCH_SIZE]
            batch[: len(part), ..., 0] = np.stack(part)
            with _computing:
                outputs = network.predict_on_batch(batch)
            computed[start : start + len(part)] = np.asarray(outputs, np.float32)[: len(part)]
        return computed


class _OpenVinoEngine(FeatureEngine):
    """Computes one image per request, with as many parallel requests as suit the processor."""

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

    def _run(self, output: int, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        computed = np.empty((len(images), *self._compiled.output(output).shape[1:]), np.float32)

        def keep(request: "openvino.InferRequest", row: int) -> None:
            computed[row] = request.get_output_tensor(output).data[0]

        with _computing:
            self._queue.set_callback(keep)
            for row, image in enumerate(images):
                self._queue.start_async(image[None, ..., None].astype(np.float32), row)
            self._queue.wait_all()
        return computed
