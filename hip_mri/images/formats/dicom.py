"""Reads the images of DICOM files, their patient and their series.

Files are read where every viewer reads them: with any preamble or none, without file meta information, with elements
missing that have one sensible default, and with padding behind the pixels. An element without content counts as
missing: what makes files anonymous often empties elements.

Source: DICOM PS3.3 2024e, C.7.6.3 (pixels) and C.7.6.16 (functional groups); PS3.5, 8 (encoding of pixels); PS3.10, 7.
"""

import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from hip_mri.errors import ImageError
from hip_mri.images.formats.dicom_display import Frame, show_frames
from hip_mri.images.formats.dicom_frames import check_pixels, read_frame
from hip_mri.images.formats.dicom_parsing import parse_dicom
from hip_mri.images.formats.dicom_values import get_numbers
from hip_mri.images.pictures import Picture, ReadingOptions, check_stack_size, select_slices

if TYPE_CHECKING:
    from pydicom import Dataset

_SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.4"
_SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
"""SOP classes; those of multi-frame secondary captures have the same prefix."""

_GROUPED: Final = (
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "ImagePositionPatient", "ImageOrientationPatient"),
)
"""Elements that a file of several frames can state for each frame."""

_PLACEHOLDER: Final = re.compile(
    r"|0+|x+|n/?a|none|unknown|patient|removed|de-?identified|test"
    r"|anon(ym(e|ous|i[sz]ed?|isiert|is[eé]e?|i[sz]ado)?)?([ _^-]patient)?",
    re.IGNORECASE,
)
"""Placeholders of a removed identity, which must not tie all images to one patient. Values that distinguish patients
are not matched: `ANON0017` is a pseudonym."""


def read_dicom(content: bytes, options: ReadingOptions) -> list[Picture]:
    """Read the frames of a DICOM file.

    For the rule by which values become gray levels, see `dicom_display.show_frames`. Overlays are not drawn.

    Args:
        content: Bytes of a DICOM file, or of a data set that stands alone.
        options: Which frames are taken, and whether pictures with text in their pixels are.

    Returns:
        One picture per frame, with PatientID and SeriesInstanceUID; empty if missing or a placeholder.

    Raises:
        ImageError: The file holds no picture, or one with text in its pixels, its pixels are fewer than it says, or it
            is encoded in a way that is not supported.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values, and values can name people
        try:
            return _read(parse_dicom(content), options)
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # whatever pydicom raises over wrong content is the content's fault
            raise ImageError("undecodable", "the DICOM file cannot be decoded; it is damaged or ends early") from error


def _read(dataset: "Dataset", options: ReadingOptions) -> list[Picture]:
    _check_content(dataset, options)
    num_frames = check_pixels(dataset)
    selected = select_slices(num_frames, options)
    check_stack_size(int(dataset.Columns), int(dataset.Rows), len(selected))
    frames = [Frame(*read_frame(dataset, number), _gather(dataset, number)) for number in selected]
    patient = str(dataset.get("PatientID") or "").strip()
    facts = {
        "patient": "" if _PLACEHOLDER.fullmatch(patient) else patient,
        "series": str(dataset.get("SeriesInstanceUID") or "").strip(),
        "num_slices": num_frames,
    }
    return [
        Picture(levels, slice=number, position=_find_position(frame.elements), **facts)
        for number, levels, frame in zip(selected, show_frames(frames), frames, strict=True)
    ]


def _check_content(dataset: "Dataset", options: ReadingOptions) -> None:
    """Check that the file holds an image of a patient, not text, a mask or a copy of a screen."""
    sop_class = str(dataset.get("SOPClassUID") or "")
    if sop_class == _SEGMENTATION:
        raise ImageError("no_picture", "the DICOM file holds a segmentation, not an image")
    if options.accept_burned_in_text:
        return
    if str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        raise ImageError("burned_in_text", "BurnedInAnnotation (0028,0301) says that text is drawn into the pixels")
    image_type = " ".join(map(str, _list_values(dataset, "ImageType"))).upper().replace("_", " ")
    is_capture = sop_class == _SECONDARY_CAPTURE or sop_class.startswith(f"{_SECONDARY_CAPTURE}.")
    if is_capture or "SCREEN SAVE" in image_type or "SCREENSAVE" in image_type:
        raise ImageError("secondary_capture", "the DICOM file is a secondary capture or screen save")


def _list_values(dataset: "Dataset", name: str) -> list[object]:
    value = dataset.get(name)
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _gather(dataset: "Dataset", number: int) -> "Dataset":
    """Elements that say how a frame is shown: its own, those shared by all frames, or those of the file."""
    from pydicom import Dataset  # noqa: PLC0415 - see above

    own, shared = (_list_values(dataset, f"{name}FunctionalGroupsSequence") for name in ("PerFrame", "Shared"))
    groups = [*own[number : number + 1], *shared[:1]]
    found = Dataset()
    for element in ("PhotometricInterpretation", "BitsStored", "BitsAllocated", "PixelRepresentation"):
        if element in dataset:
            found[element] = dataset[element]
    for name in _GROUPED:
        for place in (*(item for group in groups for item in _list_items(group)), dataset):
            if name in place:
                try:
                    found[name] = place[name]
                except (ValueError, TypeError):  # not quite a number; see `dicom_values`
                    found[name] = place.get_item(name)
                break
    return found


def _list_items(group: object) -> "Iterator[Dataset]":
    """First items of the sequences of a functional group."""
    for element in group:  # type: ignore[attr-defined]
        if element.VR == "SQ" and len(element.value):
            yield element.value[0]


def _find_position(elements: "Dataset") -> float | None:
    """Distance of a slice from the origin along the normal of its plane, in mm."""
    place, plane = (get_numbers(elements, f"Image{name}Patient") for name in ("Position", "Orientation"))
    if len(place) != 3 or len(plane) != 6 or None in {*place, *plane}:
        return None
    row, column = np.array(plane[:3], float), np.array(plane[3:], float)
    position = float(np.dot(np.cross(row, column), np.array(place, float)))
    return position if np.isfinite(position) else None
