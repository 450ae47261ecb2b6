"""Responses of the web service, as in its OpenAPI description."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator

from hip_mri.config import Label


class Response(BaseModel):
    """Base class of responses."""

    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=())


class Health(Response):
    """State of the service."""

    status: Literal["ok"]
    """`ok` while the service accepts requests."""

    num_active: int
    """Requests that are received or scored now."""


class ModelName(Response):
    """The model that scored."""

    name: str
    """Such as `version 0003` or `run 0001`."""

    sha256: str
    """SHA-256 of its file."""

    threshold: float
    """Scores at or above it are called `osseous_lesion`; it was chosen on validation images."""


class ServiceDescription(ModelName):
    """The model that is served. A later champion is served after a restart."""

    notices: list[str]
    """Texts that must be shown with every score."""

    error_rate: float | None
    """Largest fraction of either class that is decided as the other one; null if decisions are not calibrated."""

    backbone: str
    """Architecture of the frozen network."""

    engine: str
    """Inference engine."""

    precision: str
    """Floating-point format."""

    image_size: int
    """Height and width of the preprocessed images, in pixels."""

    has_heat_maps: bool
    """Whether heat maps can be computed for this model."""

    novelty_limit: float | None
    """Images with a larger distance are outside the training distribution; null if it was not measured."""

    loaded_at: str
    """When the service was started."""

    max_request_bytes: int
    """Maximum size of one request."""

    max_images: int
    """Maximum number of images in one request."""

    formats: str
    """File formats that are read."""


class ImageResult(Response):
    """Result of one image: a file, or one slice of a file with several."""

    file: int
    """Position of the file in the request, from 0. Names of files are not read."""

    slice: int
    """Number of the slice in its file, from 0."""

    num_slices: int
    """Slices in the file."""

    state: Literal["scored", "unreadable"]
    """Whether the image was scored."""

    reason: str
    """Reason code of an unreadable image, or empty."""

    message: str
    """Explanation of the reason, or empty."""

    image_id: str | None = None
    """First 16 digits of the SHA-256."""

    sha256: str | None = None
    """SHA-256 of the pixels."""

    score: float | None = None
    """Probability of a lesion by the model, 0-1."""

    label: Label | None = None
    """`osseous_lesion` at or above the threshold, else `normal`."""

    decision: Literal[Label, "uncertain", ""] | None = None
    """The label, or `uncertain`, at the error rate of the model; empty if its run did not calibrate decisions."""

    threshold: float | None = None
    """Threshold of the model."""

    distance: float | None = None
    """Distance from the training images, 0-2; null if the run of the model did not measure it."""

    is_outside: bool | None = None
    """Whether the distance is above the limit, so that score and label are unreliable; null if it is not known."""

    known_split: str | None = None
    """`train`, `val` or `test` if the image trained, validated or tested the model; empty if not; `not_recorded`."""

    picture: str | None = None
    """Preprocessed image as JPEG in a `data:` address, if it was asked for."""

    heat_map: str | None = None
    """The same with the Grad-CAM heat map, if it was asked for and the model supports it."""

    @field_validator("distance")
    @classmethod
    def _remove_nan(cls, distance: float | None) -> float | None:
        return None if distance is None or math.isnan(distance) else distance  # JSON has no NaN


class Predictions(Response):
    """Results of a request."""

    notices: list[str]
    """Texts that must be shown with every score."""

    model: ModelName
    images: list[ImageResult]


class ErrorDetails(Response):
    """Why a request was refused."""

    reason: str
    """Reason code."""

    message: str
    """Explanation and next step."""


class ErrorResponse(Response):
    """Response to a request that was refused."""

    error: ErrorDetails
    images: list[ImageResult] = []
    """Results of the images, where none could be read."""
