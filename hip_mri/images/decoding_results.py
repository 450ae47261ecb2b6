"""Results of decoding, and the limits that decoders enforce."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.errors import ImageError

MAX_NUM_PIXELS: Final = 50_000_000
"""Maximum size of an image, in pixels, twice that of mammograms, the largest medical images."""

MAX_NUM_STACK_PIXELS: Final = 2**27
"""Maximum number of pixels decoded from one file with several slices: 512 slices of 512 x 512 pixels."""


@dataclass(frozen=True)
class ReadingOptions:
    """How image files are read: the fields of `hip_mri.config.ImageSettings`, for decoders, which start without it.

    Attributes:
        slices: Which slices of a file with several are read: `all`, `middle` or `every:N`.
        max_slices: Maximum number of slices read from one file.
        accept_burned_in_text: Whether DICOM files are read that declare text in their pixels, or that are secondary
            captures or screen saves.
    """

    slices: str = "all"
    max_slices: int = 4096
    accept_burned_in_text: bool = False


@dataclass(frozen=True, kw_only=True)
class SliceFacts:
    """Properties of one image in a file.

    Attributes:
        patient: PatientID of a DICOM file; empty where there is none. Never stored unhashed.
        study: StudyInstanceUID of a DICOM file; empty where there is none. Never stored unhashed.
        series: SeriesInstanceUID of a DICOM file; empty where there is none. Never stored unhashed.
        series_number: SeriesNumber of a DICOM file; `None` if unknown.
        instance_number: InstanceNumber of a DICOM file; `None` if unknown.
        acquired: Local time of acquisition of a DICOM file, in seconds since 1970; `None` if unknown. Never stored: its
            rank is.
        slice: Number of the slice in its file, from 0.
        num_slices: Slices in the file.
        position: Position of the slice along the normal of its plane, in mm; `None` if unknown.
        reason: Reason code if this slice of several cannot be used; else empty.
    """

    patient: str = ""
    study: str = ""
    series: str = ""
    series_number: float | None = None
    instance_number: float | None = None
    acquired: float | None = None
    slice: int = 0
    num_slices: int = 1
    position: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Picture(SliceFacts):
    """One decoded image of a file.

    Attributes:
        levels: Gray levels 0-255, shape (height, width), upright.
    """

    levels: NDArray[np.uint8]


@dataclass(frozen=True)
class EncodedPicture(SliceFacts):
    """One image of a file, encoded as it is stored.

    Attributes:
        sha256: Hash of its pixels; see `png.hash_pixels`.
        content: A PNG file without metadata.
    """

    sha256: str
    content: bytes


@contextlib.contextmanager
def explain_decoder_errors(what: str, reason: str = "undecodable") -> Iterator[None]:
    """Convert all errors of a decoding library to `ImageError`: it raises errors of many kinds for damaged content.

    Warnings are suppressed, because they quote the content, which can identify patients.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(reason, f"{what} cannot be decoded; it is damaged or truncated") from error


def select_slices(num_slices: int, options: ReadingOptions) -> range:
    """Select slices of a file.

    Returns:
        Their numbers, from 0.

    Raises:
        ImageError: More than `max_slices` are selected.
    """
    if options.slices == "middle":
        selected = range(num_slices // 2, num_slices // 2 + 1)
    else:
        selected = range(0, num_slices, int(options.slices.partition(":")[2] or 1))
    if len(selected) > options.max_slices:
        raise ImageError(
            "too_many_slices",
            f"{len(selected):,} of the {num_slices:,} slices of the file are selected, above {options.max_slices:,}",
        )
    return selected


def check_size(width: int, height: int) -> None:
    """Check the size of an image before memory is allocated; `ImageError` if it is empty or too large."""
    if width <= 0 or height <= 0:
        raise ImageError("damaged", f"the image has {width} x {height} pixels")
    if width * height > MAX_NUM_PIXELS:
        raise ImageError("too_many_pixels", f"the image has {width} x {height} pixels, above {MAX_NUM_PIXELS:,}")


def check_stack_size(width: int, height: int, num_slices: int) -> None:
    """Check the size of the selected slices of a file; `ImageError` if a slice or their sum is too large."""
    check_size(width, height)
    if width * height * num_slices > MAX_NUM_STACK_PIXELS:
        raise ImageError(
            "too_many_pixels",
            f"{num_slices:,} slices of {width} x {height} pixels are above {MAX_NUM_STACK_PIXELS:,} pixels",
        )
