"""Reads the images of DICOM files, their patient, study and series, and what orders them.

Files that viewers accept are read: with any preamble or none, without file meta information, with missing elements that
have one sensible default, and with padding after the pixels. An element without content counts as missing, because
anonymization often empties elements.

Source: DICOM PS3.3 2024e, C.7.6.3 (pixels) and C.7.6.16 (functional groups); PS3.5, 8 (encoding of pixels); PS3.10, 7.
"""

import contextlib
import re
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from hip_mri.errors import ImageError
from hip_mri.images.decoding_results import (
    Picture,
    ReadingOptions,
    check_stack_size,
    explain_decoder_errors,
    select_slices,
)
from hip_mri.images.formats.dicom_display import Frame, show_frames
from hip_mri.images.formats.dicom_frames import check_pixels, read_frame
from hip_mri.images.formats.dicom_parsing import get_number, get_numbers, parse_dicom

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
"""Elements that a multi-frame file can contain for each frame."""

_PLACEHOLDER: Final = re.compile(
    r"|0+|x+|n/?a|none|unknown|patient|removed|de-?identified|test"
    r"|anon(ym(e|ous|i[sz]ed?|isiert|is[eé]e?|i[sz]ado)?)?([ _^-]patient)?",
    re.IGNORECASE,
)
"""Placeholders of a removed identity, which must not assign all images to one patient. Values that distinguish patients
are not matched: `ANON0017` is a pseudonym."""

_FIRST_YEAR: Final = 1977
"""Year of the first MRI of a person; earlier dates replace a removed date."""


def read_dicom(content: bytes, options: ReadingOptions) -> list[Picture]:
    """Read the frames of a DICOM file.

    For the rule by which values become gray levels, see `dicom_display.show_frames`. Overlays are not drawn.

    Args:
        content: Bytes of a DICOM file, or of a data set without preamble and file meta information.
        options: Which frames are read, and whether burned-in text is accepted.

    Returns:
        One picture per frame, with the fields of `SliceFacts`; unknown if missing or a placeholder.

    Raises:
        ImageError: The file contains no image, burned-in text or too few pixels, or its encoding
            is not supported.
    """
    with explain_decoder_errors("the DICOM file"):
        return _read(parse_dicom(content), options)


def _read(dataset: "Dataset", options: ReadingOptions) -> list[Picture]:
    _check_content(dataset, options)
    num_frames = check_pixels(dataset)
    selected = select_slices(num_frames, options)
    check_stack_size(int(dataset.Columns), int(dataset.Rows), len(selected))
    frames = [Frame(*read_frame(dataset, number), _gather(dataset, number)) for number in selected]
    patient = str(dataset.get("PatientID") or "").strip()
    facts = {
        "patient": "" if _PLACEHOLDER.fullmatch(patient) else patient,
        "study": str(dataset.get("StudyInstanceUID") or "").strip(),
        "series": str(dataset.get("SeriesInstanceUID") or "").strip(),
        "series_number": _find_number(dataset, "SeriesNumber"),
        "instance_number": _find_number(dataset, "InstanceNumber"),
        "acquired": _find_time(dataset),
        "num_slices": num_frames,
    }
    return [
        Picture(levels, slice=number, position=_find_position(frame.elements), **facts)
        for number, levels, frame in zip(selected, show_frames(frames), frames, strict=True)
    ]


def _check_content(dataset: "Dataset", options: ReadingOptions) -> None:
    """Check that the file contains an image of a patient, not text, a mask or a copy of a screen."""
    sop_class = str(dataset.get("SOPClassUID") or "")
    if sop_class == _SEGMENTATION:
        raise ImageError("no_picture", "the DICOM file contains a segmentation, not an image")
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
                except (ValueError, TypeError):  # not quite a number; see `get_numbers`
                    found[name] = place.get_item(name)
                break
    return found


def _list_items(group: object) -> "Iterator[Dataset]":
    """First items of the sequences of a functional group."""
    for element in group:  # type: ignore[attr-defined]
        if element.VR == "SQ" and len(element.value):
            yield element.value[0]


def _find_number(dataset: "Dataset", name: str) -> float | None:
    number = get_number(dataset, name)
    return number if number is not None and np.isfinite(number) else None


def _find_time(dataset: "Dataset") -> float | None:
    """Time of the acquisition, or else of the content, the series or the study, in seconds since 1970, local time."""
    for event in ("Acquisition", "Content", "Series", "Study"):
        date, time = (str(dataset.get(f"{event}{part}") or "") for part in ("Date", "Time"))
        for text in (str(dataset.get(f"{event}DateTime") or ""), date + time if time else ""):
            digits = re.sub(r"[.:\s]", "", re.sub(r"[+-].*", "", text))  # without the time zone
            if len(digits) > len("YYYYMMDD"):
                with contextlib.suppress(ValueError):
                    found = datetime.strptime(digits[:14].ljust(14, "0"), "%Y%m%d%H%M%S")
                    if found.year >= _FIRST_YEAR:
                        return (found - datetime(1970, 1, 1)).total_seconds() + float(f"0.{digits[14:] or 0}")
    return None


def _find_position(elements: "Dataset") -> float | None:
    """Distance of a slice from the origin along the normal of its plane, in mm."""
    place, plane = (get_numbers(elements, f"Image{name}Patient") for name in ("Position", "Orientation"))
    if len(place) != 3 or len(plane) != 6 or None in {*place, *plane}:
        return None
    row, column = np.array(plane[:3], float), np.array(plane[3:], float)
    position = float(np.dot(np.cross(row, column), np.array(place, float)))
    return position if np.isfinite(position) else None
