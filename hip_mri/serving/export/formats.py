"""Writes a network in other formats, and runs what was written in the runtime of each format."""

import contextlib
import importlib.util
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from hip_mri.errors import ExportError
from hip_mri.models.backbones.export import import_openvino
from hip_mri.models.keras_settings import BACKEND_VARIABLE, Model, choose_backend, import_keras

FormatName = Literal["onnx", "openvino", "tflite"]

INPUT: Final = "image"
OUTPUT: Final = "probability"
"""Names of the input and the output of every exported graph."""

OPSET: Final = 17
"""Version of the operators of ONNX; runtimes since 2022 know it."""


class Runtime(ABC):
    """A graph that is loaded by the runtime of its format."""

    @abstractmethod
    def describe(self) -> dict[str, tuple[list[int | None], str]]:
        """Shape and dtype of each input and output, by name; `None` where a dimension is free."""

    @abstractmethod
    def score(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score gray levels 0-255, shape (batch, height, width, 1); returns shape (batch,)."""


class ExportFormat(ABC):
    """A format of exported networks.

    Attributes:
        files: Names of the files, that of the graph first.
        writers: Modules that write it, beside those that are always installed.
        runtime: Module that runs it.
    """

    files: tuple[str, ...]
    writers: tuple[str, ...] = ()
    runtime: str

    @abstractmethod
    def write(self, network: Model, folder: Path) -> None:
        """Write a network to a folder, with a free batch dimension."""

    @abstractmethod
    def load(self, file: Path) -> Runtime:
        """Load a graph on the CPU, in float32."""


class _OnnxFormat(ExportFormat):
    files = ("model.onnx",)
    writers = ("tf2onnx", "onnx")
    runtime = "onnxruntime"

    def write(self, network: Model, folder: Path) -> None:
        import tf2onnx  # noqa: PLC0415 - of the extra `export`

        frozen = _freeze(network)
        with _without_messages("tf2onnx", "tensorflow"):
            tf2onnx.convert.from_graph_def(
                frozen.graph.as_graph_def(),
                input_names=[frozen.inputs[0].name],
                output_names=[frozen.outputs[0].name],
                tensors_to_rename={frozen.inputs[0].name: INPUT, frozen.outputs[0].name: OUTPUT},
                custom_op_handlers={"Erfc": (_replace_erfc, [])},
                opset=OPSET,
                output_path=str(folder / self.files[0]),
            )

    def load(self, file: Path) -> Runtime:
        import onnxruntime  # noqa: PLC0415 - of the extra `export`

        return _OnnxRuntime(onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]))


class _OnnxRuntime(Runtime):
    def __init__(self, session: Any) -> None:
        self._session = session

    def describe(self) -> dict[str, tuple[list[int | None], str]]:
        return {
            it.name: (
                [size if isinstance(size, int) else None for size in it.shape],
                "float32" if it.type == "tensor(float)" else str(it.type),
            )
            for it in (*self._session.get_inputs(), *self._session.get_outputs())
        }

    def score(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._session.run([OUTPUT], {INPUT: images})[0][:, 0]


class _OpenVinoFormat(ExportFormat):
    files = ("model.xml", "model.bin")
    runtime = "openvino"

    def write(self, network: Model, folder: Path) -> None:
        openvino = import_openvino()
        converted = openvino.convert_model(_trace(network))
        graph = openvino.Model([converted.outputs[0]], converted.get_parameters())  # some networks show inner outputs
        for port, name in ((graph.inputs[0], INPUT), (graph.outputs[0], OUTPUT)):
            port.tensor.set_names({name})
        openvino.save_model(graph, str(folder / self.files[0]), compress_to_fp16=False)

    def load(self, file: Path) -> Runtime:
        compiled = import_openvino().Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return _OpenVinoRuntime(compiled)


class _OpenVinoRuntime(Runtime):
    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def describe(self) -> dict[str, tuple[list[int | None], str]]:
        return {
            port.any_name: (
                [None if size.is_dynamic else size.get_length() for size in port.partial_shape],
                "float32" if port.element_type.get_type_name() == "f32" else str(port.element_type),
            )
            for port in (*self._compiled.inputs, *self._compiled.outputs)
        }

    def score(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._compiled({INPUT: images})[OUTPUT][:, 0]


class _TfliteFormat(ExportFormat):
    files = ("model.tflite",)
    runtime = "ai_edge_litert"

    def write(self, network: Model, folder: Path) -> None:
        import tensorflow as tf  # noqa: PLC0415 - which Keras has loaded by then

        with _without_messages("absl"):
            content = tf.lite.TFLiteConverter.from_concrete_functions([_freeze(network)], network).convert()
        (folder / self.files[0]).write_bytes(content)

    def load(self, file: Path) -> Runtime:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - of the extra `export`

        return _TfliteRuntime(Interpreter(str(file)))


class _TfliteRuntime(Runtime):
    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._input, self._output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def describe(self) -> dict[str, tuple[list[int | None], str]]:
        ends = ((INPUT, self._input), (OUTPUT, self._output))  # an input and an output are found by their order
        return {
            name: ([None if size < 0 else int(size) for size in end["shape_signature"]], np.dtype(end["dtype"]).name)
            for name, end in ends
        }

    def score(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self._interpreter.resize_tensor_input(self._input["index"], images.shape)
        self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(self._input["index"], images)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])[:, 0]


FORMATS: Final[Mapping[FormatName, ExportFormat]] = MappingProxyType(
    {"onnx": _OnnxFormat(), "openvino": _OpenVinoFormat(), "tflite": _TfliteFormat()}
)


def check_packages(modules: Sequence[str], purpose: str) -> None:
    """Check that modules are installed.

    Raises:
        ExportError: Some are not.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ExportError(
            f"{purpose} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. "
            "Install the extra, pip install -e '.[export]'."
        )


def check_backend() -> None:
    """Check that Keras computes with TensorFlow, whose graphs are converted.

    Raises:
        ExportError: Another backend is chosen.
    """
    if (backend := choose_backend()) != "tensorflow":
        raise ExportError(f"{BACKEND_VARIABLE}: an export needs tensorflow, {backend} is chosen. Unset the variable.")


def _trace(network: Model) -> Any:
    """Trace a network as a function of TensorFlow."""
    import_keras()
    import tensorflow as tf  # noqa: PLC0415 - which Keras has loaded by then

    image = tf.TensorSpec((None, *network.input_shape[1:]), tf.float32, name=INPUT)
    function = tf.function(lambda image: tf.identity(network(image, training=False), OUTPUT), input_signature=[image])
    # Keras compiles convolutions in groups as functions of their own, which no converter reads; this opens them.
    tf.config.run_functions_eagerly(True)
    try:
        return function.get_concrete_function()
    finally:
        tf.config.run_functions_eagerly(False)


def _freeze(network: Model) -> Any:
    """Trace a network with constants in place of its variables."""
    traced = _trace(network)
    from tensorflow.python.framework import convert_to_constants  # noqa: PLC0415 - likewise

    return convert_to_constants.convert_variables_to_constants_v2(
        traced, lower_control_flow=False, aggressive_inlining=True
    )


def _replace_erfc(graph: Any, node: Any, name: str, _: Any) -> None:
    """Write erfc(x), the exact GELU of TensorFlow, as 1 - erf(x), which ONNX has."""
    from tf2onnx.utils import make_name  # noqa: PLC0415 - of the extra `export`

    node.type, node.domain = "Erf", ""
    one, output = graph.make_const(make_name("one"), np.float32(1)), node.output[0]
    graph.insert_new_node_on_output("Sub", output, name=make_name(name), inputs=[one.output[0], output])


@contextlib.contextmanager
def _without_messages(*loggers: str) -> Iterator[None]:
    """Silence what converters log below errors, such as deprecations of their own calls."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name in loggers:
            logging.getLogger(name).setLevel(logging.ERROR)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
