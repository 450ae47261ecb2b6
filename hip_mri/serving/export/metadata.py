"""What an export needs to be used: input, preprocessing, output, threshold, notices and hashes (`metadata.json`)."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hip_mri.config import LABELS, InputScaling, PreprocessingSettings
from hip_mri.errors import ExportError, list_offenders
from hip_mri.evaluation.conformal import UNCERTAIN, DecisionRule
from hip_mri.images.reading import DECODING_RECIPE
from hip_mri.models.backbones.input_scaling import FACTORS
from hip_mri.serving.export.formats import INPUT, OUTPUT, FormatName
from hip_mri.serving.scorer import list_notices
from hip_mri.serving.served_model import ServedModel

METADATA_FILE: Final = "metadata.json"
REFERENCE_FILE: Final = "reference.npz"
"""Synthetic images, what preprocessing makes of them, and their scores by Keras."""

RECIPE: Final = 1
"""Version of the metadata."""

MAX_DIFFERENCE: Final = 1e-4
"""Largest difference between a score of an exported graph and that of Keras."""

_TOOLS: Final = ("hip-mri", "keras", "tensorflow", "openvino", "tf2onnx", "onnx", "onnxruntime", "ai-edge-litert")
_IMAGE_TOOLS: Final = ("opencv-python-headless", "numpy")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Model(_Part):
    """Which network was exported, in which precision its metrics and threshold were computed, and its SHA-256."""

    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    backbone: str
    evaluated_precision: Literal["float32", "bfloat16"]


class Input(_Part):
    """Input of the graph; the first dimension is free."""

    name: str
    shape: tuple[Literal["batch"], int, int, int]
    axes: tuple[str, ...]
    channels: tuple[str, ...]
    dtype: Literal["float32"]
    range: tuple[int, int]


class Step(_Part):
    """A step before the graph: what it does, by which call, and with which parameters."""

    step: str
    call: str
    parameters: dict[str, Any]


class InGraph(_Part):
    """Steps that the graph does itself, so that its user must not."""

    channels: str
    scaling: str
    factor: tuple[float, ...]
    shift: tuple[float, ...]
    mirror_averaging: bool
    note: str


class Uncertain(_Part):
    """Scores whose label is uncertain at an error rate; see `hip_mri.evaluation.conformal`."""

    error_rate: float
    min_lesion: float
    max_normal: float
    decision: str


class Output(_Part):
    """Output of the graph and how it is decided."""

    name: str
    shape: tuple[Literal["batch"], int]
    dtype: Literal["float32"]
    range: tuple[int, int]
    meaning: str
    class_names: tuple[str, ...]
    threshold: float
    decision: str
    uncertain: Uncertain | None


class Metadata(_Part):
    """The content of `metadata.json`.

    Attributes:
        recipe: Version of the metadata.
        research_only: Always true.
        notices: Texts that every output must show.
        model: The exported network.
        format: Format of the graph.
        graph: File of the graph.
        input: Its input.
        before_graph: Preprocessing, in this order.
        in_graph: Steps that are part of the graph.
        output: Its output.
        left_out: What `hip-mri predict` does and the graph does not.
        max_difference: Largest allowed difference of scores from those of Keras.
        tools: Versions of the programs that made the export.
        files: SHA-256 of every other file.
    """

    recipe: Literal[1]
    research_only: Literal[True]
    notices: tuple[str, ...] = Field(min_length=1)
    model: Model
    format: FormatName
    graph: str
    input: Input
    before_graph: tuple[Step, ...] = Field(min_length=1)
    in_graph: InGraph
    output: Output
    left_out: tuple[str, ...]
    max_difference: float = Field(gt=0, le=MAX_DIFFERENCE)
    tools: dict[str, str]
    files: dict[str, str] = Field(min_length=1)


DESCRIBES_MODEL: Final = ("notices", "model", "input", "before_graph", "in_graph", "output")
"""Parts that follow from the model alone."""


def describe_export(
    model: ServedModel, scaling: InputScaling, format_name: FormatName, graph: str, files: dict[str, str]
) -> Metadata:
    """Describe an export.

    Args:
        model: The exported model.
        scaling: Scaling of the input of its backbone.
        format_name: Format of the graph.
        graph: File of the graph.
        files: SHA-256 of every file.
    """
    network = model.network
    size, (factor, shift) = network.preprocessing.image_size, FACTORS[scaling]
    return Metadata(
        recipe=RECIPE,
        research_only=True,
        notices=tuple(list_notices(model)),
        model=Model(
            name=model.name,
            sha256=network.sha256,
            backbone=network.backbone,
            evaluated_precision=network.precision,
        ),
        format=format_name,
        graph=graph,
        input=Input(
            name=INPUT,
            shape=("batch", size, size, 1),
            axes=("batch", "height", "width", "channel"),
            channels=("gray",),
            dtype="float32",
            range=(0, 255),
        ),
        before_graph=_list_steps(network.preprocessing),
        in_graph=InGraph(
            channels="the gray level is repeated for 3 equal channels",
            scaling=scaling,
            factor=factor,
            shift=shift,
            mirror_averaging=network.averages_mirrored,
            note="Do not scale, mirror or average outside of the graph: with mirror_averaging it returns the mean of "
            "the scores of the image and of its mirror image (left and right exchanged).",
        ),
        output=Output(
            name=OUTPUT,
            shape=("batch", 1),
            dtype="float32",
            range=(0, 1),
            meaning=f"probability of {LABELS[1]}",
            class_names=LABELS,
            threshold=model.threshold,
            decision=f"{LABELS[1]} if the probability is at least the threshold, else {LABELS[0]}",
            uncertain=_describe_uncertain(model.conformal),
        ),
        left_out=("detection of images unlike the training images", "recognition of images that the model was given"),
        max_difference=MAX_DIFFERENCE,
        tools=_list_versions((*_TOOLS, *_IMAGE_TOOLS)) | {"python": platform.python_version()},
        files=files,
    )


def _describe_uncertain(rule: DecisionRule) -> Uncertain | None:
    """Describe when a label is uncertain, as `decide` does; `None` if the run of the model did not calibrate it."""
    if rule.error_rate is None or rule.min_lesion is None or rule.max_normal is None:
        return None
    return Uncertain(
        error_rate=rule.error_rate,
        min_lesion=rule.min_lesion,
        max_normal=rule.max_normal,
        decision=f"{UNCERTAIN} from min_lesion up to the threshold, and from the threshold up to max_normal inclusive",
    )


def _list_steps(settings: PreprocessingSettings) -> tuple[Step, ...]:
    size, num_tiles = settings.image_size, settings.clahe_num_tiles
    steps = [
        Step(
            step="decode to gray levels 0-255, uint8, shape (height, width)",
            call="hip_mri.images.reading",
            parameters={"recipe": DECODING_RECIPE, "rules": "docs/inputs.md, image formats"},
        )
    ]
    if settings.clahe_clip_limit > 0:
        steps.append(
            Step(
                step="equalize the contrast (CLAHE) at the original size",
                call=f"cv2.createCLAHE({settings.clahe_clip_limit}, ({num_tiles}, {num_tiles})).apply(image)",
                parameters={"clip_limit": settings.clahe_clip_limit, "num_tiles": num_tiles},
            )
        )
    linear = "cv2.INTER_LINEAR"
    chosen = (
        linear if settings.interpolation == "linear" else f"cv2.INTER_AREA if min(image.shape) > {size} else {linear}"
    )
    resized = Step(
        step="resize, unless the image has this size",
        call=f"cv2.resize(image, ({size}, {size}), interpolation={chosen})",
        parameters={"size": size, "interpolation": settings.interpolation},
    )
    converted = Step(
        step="convert to float32 without scaling, and add the axes of batch and channel",
        call="image.astype(numpy.float32)[None, :, :, None]",
        parameters={},
    )
    return (*steps, resized, converted)


def _list_versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_metadata(folder: Path) -> Metadata:
    """Read the metadata of an export.

    Raises:
        ExportError: The file is missing, unreadable or incomplete.
    """
    file = folder / METADATA_FILE
    try:
        return Metadata.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ExportError(
            f"export: {file} cannot be read ({error.strerror}). Give a folder that `hip-mri models export` wrote."
        ) from error
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, it['loc'])) or 'the file'} ({it['msg']})" for it in error.errors()]
        raise ExportError(f"export: {file} is incomplete or damaged: {list_offenders(wrong)}. Export again.") from error


def compare_with_model(found: Metadata, needed: Metadata) -> list[str]:
    """Describe the parts of an export's metadata that differ from those of a model."""
    differing = [name for name in DESCRIBES_MODEL if getattr(found, name) != getattr(needed, name)]
    return [f"{name} of {METADATA_FILE} differs from that of the model" for name in differing]
