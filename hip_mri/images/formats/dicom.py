"""Reads the images of DICOM files, their patient and their series.

Files are read where every viewer reads them: with any preamble or none, without file meta information, with elements
missing that have one sensible default, and with padding behind the pixels. An element without content counts as
missing: what makes files anonymous often empties elements.

Source: DICOM PS3.3 2024e, C.7.6.3 (pixels) and C.7.6.16 (functional groups); PS3.5, 8 (encoding of pixels); PS3.10, 7.
"""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.errors import ImageError
from hip_mri.images.formats.dicom_display import Frame, show_frames
from hip_mri.images.formats.dicom_values import get_number, get_numbers
from hip_mri.images.pictures import Picture, ReadingOptions, check_stack_size, select_slices

if TYPE_CHECKING:
    from pydicom import Dataset

PREFIX: Final = b"DICM"
PREFIX_PLACE: Final = 128
"""Bytes of preamble before the prefix. What they hold is neither stored nor run."""

_FIRST_TAGS: Final = {
    *(struct.pack("<HH", 0x0002, element) for element in (0x0000, 0x0001, 0x0002)),
    *(struct.pack(order + "HH", 0x0008, element) for order in "<>" for element in (0, 1, 5, 8, 0x12, 0x16, 0x18)),
}
"""First tags of a data set without preamble and prefix, in either order of bytes."""

MAX_INFLATED_BYTES: Final = 2**28
"""Largest data set of the deflated syntax, in bytes."""

_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_EXPLICIT: Final = "1.2.840.10008.1.2.1"
_NATIVE: Final = ("1.2.840.10008.1.2", _EXPLICIT, "1.2.840.10008.1.2.2", _DEFLATED)
_RLE: Final = "1.2.840.10008.1.2.5"
_NEWER_SYNTAXES: Final = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}
"""Names that pydicom 3.0 does not know."""

_DIRECTORY: Final = "1.2.840.10008.1.3.10"
_SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.4"
_SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
"""SOP classes; those of secondary captures of several frames begin alike."""

_PIXEL_ELEMENTS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_NUM_SAMPLES: Final = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1}
"""Samples per pixel by PhotometricInterpretation; those in color have three."""
_COLORS: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")
_DEPTHS: Final = (8, 16, 32, 64)

_GROUPED: Final = (
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "ImagePositionPatient", "ImageOrientationPatient"),
)
"""Elements that a file of several frames can state for each frame."""

_NOBODY: Final = re.compile(
    r"|0+|x+|n/?a|none|unknown|patient|removed|de-?identified|test"
    r"|anon(ym(e|ous|i[sz]ed?|isiert|is[eé]e?|i[sz]ado)?)?([ _^-]patient)?",
    re.IGNORECASE,
)
"""What stands in the place of an identity that was removed; it must not make all images one patient's. Nothing that
tells patients apart is in it: `ANON0017` is a pseudonym."""


def is_dicom(content: bytes) -> bool:
    """Whether bytes are a DICOM file, or begin like a DICOM data set."""
    return content[PREFIX_PLACE : PREFIX_PLACE + len(PREFIX)] == PREFIX or content[:4] in {PREFIX, *_FIRST_TAGS}


def read_dicom(content: bytes, options: ReadingOptions) -> list[Picture]:
    """Read the frames of a DICOM file.

    For the rule by which values become gray levels, see `dicom_display.show_frames`. Overlays are not drawn.

    Args:
        content: Bytes of a DICOM file, or of a data set that stands alone.
        options: Which frames are taken, and whether pictures with text in their pixels are.

    Returns:
        One picture per frame, with PatientID and SeriesInstanceUID; these are empty where they name nobody.

    Raises:
        ImageError: The file holds no picture, or one with text in its pixels, its pixels are fewer than it says, or it
            is encoded in a way that is not supported.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values, and values can name people
        try:
            return _read(_parse(content), options)
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # whatever pydicom raises over wrong content is the content's fault
            raise ImageError("undecodable", "the DICOM file cannot be decoded; it is damaged or ends early") from error


def _read(dataset: "Dataset", options: ReadingOptions) -> list[Picture]:
    _check_content(dataset, options)
    num_frames = _check_pixels(dataset)
    selected = select_slices(num_frames, options)
    check_stack_size(int(dataset.Columns), int(dataset.Rows), len(selected))
    frames = [Frame(*_read_frame(dataset, number), _gather(dataset, number)) for number in selected]
    patient = str(dataset.get("PatientID") or "").strip()
    facts = {
        "patient": "" if _NOBODY.fullmatch(patient) else patient,
        "series": str(dataset.get("SeriesInstanceUID") or "").strip(),
        "num_slices": num_frames,
    }
    return [
        Picture(levels, slice=number, position=_find_position(frame.elements), **facts)
        for number, levels, frame in zip(selected, show_frames(frames), frames, strict=True)
    ]


def _parse(content: bytes) -> "Dataset":
    from pydicom import dcmread  # noqa: PLC0415 - half a second, which most runs need not spend

    if content[:4] == PREFIX:
        content = bytes(PREFIX_PLACE) + content
    dataset = dcmread(io.BytesIO(_inflate(content)), force=True)
    if not hasattr(dataset, "file_meta") or not dataset.file_meta.get("TransferSyntaxUID"):
        _guess_syntax(dataset)
    if dataset.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY or "DirectoryRecordSequence" in dataset:
        raise ImageError("no_picture", "the DICOM file is a directory of other files")
    if "Rows" not in dataset and not any(name in dataset for name in _PIXEL_ELEMENTS):
        is_told = content[PREFIX_PLACE : PREFIX_PLACE + len(PREFIX)] == PREFIX
        reason = "no_picture" if is_told else "not_an_image"
        raise ImageError(reason, "the file holds no picture: no element Rows (0028,0010)")
    return dataset


def _inflate(content: bytes) -> bytes:
    """The same file in the explicit syntax, where its data set is deflated; pydicom would inflate without a limit."""
    from pydicom.filereader import read_dataset  # noqa: PLC0415 - see above

    if content[PREFIX_PLACE : PREFIX_PLACE + len(PREFIX)] != PREFIX:
        return content
    stream = io.BytesIO(content)
    stream.seek(PREFIX_PLACE + len(PREFIX))
    meta = read_dataset(stream, False, True, stop_when=lambda tag, _, __: tag.group != 2)
    if str(meta.get("TransferSyntaxUID") or "") != _DEFLATED:
        return content
    length = meta.get("FileMetaInformationGroupLength")  # counts from behind its own element of 12 bytes
    start = stream.tell() if length is None else PREFIX_PLACE + len(PREFIX) + 12 + int(length)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(content[start:], MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise ImageError("damaged", "the deflated data set of the DICOM file is damaged") from error
    if inflater.unconsumed_tail:
        raise ImageError("too_large", f"the deflated data set has more than {MAX_INFLATED_BYTES:,} bytes")
    if not inflater.eof:
        raise ImageError("truncated", "the deflated data set of the DICOM file ends early")
    syntax = _EXPLICIT.encode() + b"\0"
    head = b"\x02\0\x10\0UI" + struct.pack("<H", len(syntax)) + syntax
    return bytes(PREFIX_PLACE) + PREFIX + head + inflated


def _guess_syntax(dataset: "Dataset") -> None:
    """Give a data set without file meta information the transfer syntax that it was read by."""
    from pydicom.dataset import FileMetaDataset  # noqa: PLC0415 - see above
    from pydicom.uid import UID  # noqa: PLC0415 - see above

    is_implicit, is_little = dataset.original_encoding
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        raise ImageError(
            "undecodable",
            "the pixels of the DICOM file are compressed, and its element TransferSyntaxUID (0002,0010) is missing",
        )
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    syntax = _NATIVE[0] if is_implicit else _NATIVE[1] if is_little else _NATIVE[2]
    dataset.file_meta.TransferSyntaxUID = UID(syntax)


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


def _check_pixels(dataset: "Dataset") -> int:
    """Fill in missing elements that have one sensible default, and check the rest; the number of frames."""
    found = [name for name in _PIXEL_ELEMENTS if dataset.get(name)]
    if not found:
        raise ImageError("no_picture", "the DICOM file holds no pixels: no element PixelData (7FE0,0010)")
    height, width = (_get_count(dataset, name) for name in ("Rows", "Columns"))
    check_stack_size(width, height, 1)
    num_frames = _get_count(dataset, "NumberOfFrames", 1)
    if num_frames < 1:
        raise ImageError("damaged", f"NumberOfFrames (0028,0008) is {num_frames}")
    num_samples = _get_count(dataset, "SamplesPerPixel", 1)
    depth = _get_count(dataset, "BitsAllocated", {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(found[0]))
    kind = str(dataset.get("PhotometricInterpretation") or ("RGB" if num_samples == 3 else "MONOCHROME2")).strip()
    needed = _NUM_SAMPLES.get(kind, 3 if kind in _COLORS else None)
    if depth not in _DEPTHS or needed != num_samples:
        raise ImageError(
            "unsupported_color",
            f"PhotometricInterpretation (0028,0004) {kind[:16]!r} with {num_samples} samples of {depth} bits is not "
            "supported",
        )
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.BitsAllocated = kind, num_samples, depth
    if found[0] == "PixelData":
        dataset.BitsStored = _get_count(dataset, "BitsStored", depth)
        dataset.HighBit = _get_count(dataset, "HighBit", int(dataset.BitsStored) - 1)
        dataset.PixelRepresentation = _get_count(dataset, "PixelRepresentation", 0)
        if num_samples > 1:
            dataset.PlanarConfiguration = _get_count(dataset, "PlanarConfiguration", 0)
    _check_length(dataset, found[0], num_frames)
    return num_frames


def _get_count(dataset: "Dataset", name: str, default: int | None = None) -> int:
    number = get_number(dataset, name)
    if number is None and default is None:
        raise ImageError("undecodable", f"the element {name} of the DICOM file is missing or empty")
    return int(default if number is None else number)  # type: ignore[arg-type]


def _check_length(dataset: "Dataset", element: str, num_frames: int) -> None:
    """Check that native pixels are as many as the file says; a surplus below a frame is padding (PS3.5 8.1.1)."""
    from pydicom.uid import UID  # noqa: PLC0415 - see above

    syntax = dataset.file_meta.TransferSyntaxUID
    if element == "PixelData" and syntax not in _NATIVE:
        from hip_mri.images.formats import dicom_codecs  # noqa: PLC0415 - loads imagecodecs

        if syntax != _RLE and syntax not in dicom_codecs.SYNTAXES:
            raise ImageError(
                "unsupported_transfer_syntax",
                f"the DICOM file is compressed by {_NEWER_SYNTAXES.get(syntax, UID(syntax).name[:80])!r} "
                f"({syntax[:64]}), which is not supported; convert it, for example by `gdcmconv --raw`",
            )
        return
    num_frame_bytes = (
        int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel) * dataset.BitsAllocated // 8
    )
    if str(dataset.PhotometricInterpretation) == "YBR_FULL_422":
        num_frame_bytes = num_frame_bytes * 2 // 3
    num_bytes = len(dataset[element].value)
    if num_bytes < num_frame_bytes * num_frames:
        raise ImageError("truncated", "the DICOM file has fewer pixels than Rows, Columns and NumberOfFrames say")
    if num_bytes >= num_frame_bytes * (num_frames + 1):
        raise ImageError("damaged", "the DICOM file has pixels for more frames than NumberOfFrames (0028,0008) says")


def _read_frame(dataset: "Dataset", number: int) -> tuple[NDArray, NDArray]:
    """Values of a frame, and the same with all allocated bits; shape (height, width) or (height, width, 3)."""
    from pydicom.pixels.processing import apply_color_lut  # noqa: PLC0415 - see above
    from pydicom.pixels.utils import pixel_array  # noqa: PLC0415 - see above

    plugin = ""
    if dataset.file_meta.TransferSyntaxUID not in {*_NATIVE, _RLE}:
        from hip_mri.images.formats import dicom_codecs  # noqa: PLC0415 - see above

        dicom_codecs.register()
        plugin = dicom_codecs.PLUGIN
    whole = pixel_array(dataset, index=number, correct_unused_bits=False, decoding_plugin=plugin)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colors = apply_color_lut(whole, dataset)
        if dataset.RedPaletteColorLookupTableDescriptor[2] > 8:
            colors = (colors >> 8).astype(np.uint8)
        return colors, colors
    if whole.ndim == 3 or "PixelData" not in dataset:
        return whole, whole
    num_bits, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    if not 0 < num_bits <= allocated:
        raise ImageError("damaged", f"BitsStored (0028,0101) is {num_bits} of {allocated} allocated bits")
    is_native = dataset.file_meta.TransferSyntaxUID in {*_NATIVE, _RLE}
    shift = min(max(int(dataset.HighBit) + 1 - num_bits, 0), allocated - num_bits) if is_native else 0
    return _keep_stored_bits(whole, num_bits, shift), whole


def _keep_stored_bits(whole: NDArray, num_bits: int, shift: int) -> NDArray:
    """Values of the stored bits: shifted down where they are the upper ones, others cut off, the sign extended."""
    num_unused = whole.dtype.itemsize * 8 - num_bits
    if not num_unused:
        return whole
    unsigned = whole.view(np.dtype(f"u{whole.dtype.itemsize}"))
    is_below = bool((unsigned & ((1 << shift) - 1)).any()) and not bool((unsigned >> num_bits).any())
    if is_below:  # HighBit is wrong: the values use the lower bits
        shift = 0
    return np.left_shift(whole, num_unused - shift) >> num_unused


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
