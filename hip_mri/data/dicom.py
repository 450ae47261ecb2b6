"""DICOM files: one gray or color picture of them, and whose it is.

Read are the uncompressed transfer syntaxes (implicit and explicit VR little endian, explicit VR big endian) and RLE
lossless. JPEG, JPEG-LS, JPEG 2000 and video need further decoders, and the deflated syntax inflates without bounds:
files of those are refused.

An element without content counts as missing: what makes files anonymous often empties elements, and removes none.

Source: DICOM PS3.3 2024e, C.7.6.3 (pixels), C.7.5.1.1.2 (padding), C.11.1 (modality LUT) and C.11.2 (VOI LUT); PS3.10,
7.1 (preamble).
"""

import io
import re
import warnings
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.data.gray import convert_to_gray, stretch_levels
from hip_mri.data.structure import check_size
from hip_mri.errors import ImageError

if TYPE_CHECKING:
    from pydicom import Dataset

PREFIX: Final = b"DICM"
PREFIX_PLACE: Final = 128  # bytes of preamble before it

_TRANSFER_SYNTAXES: Final = {
    "1.2.840.10008.1.2": "implicit VR little endian",
    "1.2.840.10008.1.2.1": "explicit VR little endian",
    "1.2.840.10008.1.2.2": "explicit VR big endian",
    "1.2.840.10008.1.2.5": "RLE lossless",
}
_RLE: Final = "1.2.840.10008.1.2.5"
_DIRECTORY: Final = "1.2.840.10008.1.3.10"  # SOP class of DICOMDIR
_INTERPRETATIONS: Final = {"MONOCHROME1": 1, "MONOCHROME2": 1, "RGB": 3}
"""Ways to color that are read, with samples per pixel."""
_DEPTHS: Final = (8, 16, 32)
_NOBODY: Final = re.compile(
    r"|0+|x+|n/?a|none|unknown|patient|removed|de-?identified|test"
    r"|anon(ym(e|ous|i[sz]ed?|isiert|is[eé]e?|i[sz]ado)?)?([ _^-]patient)?",
    re.IGNORECASE,
)
"""What stands in the place of an identity that was taken away; it must not make one patient of all. Nothing that can
tell one from another is in it: `ANON0017` is a pseudonym, and slices of one patient must not part."""


def is_dicom(content: bytes) -> bool:
    """Whether the bytes say that they are a DICOM file; they may begin as something else all the same."""
    return content[PREFIX_PLACE : PREFIX_PLACE + len(PREFIX)] == PREFIX


def read_dicom(content: bytes) -> tuple[NDArray[np.uint8], str]:
    """Read the one picture of a DICOM file.

    Stored values become those of the modality (rescale or LUT), then those that are to be shown: by the VOI LUT, or by
    the first window, which goes from black to white. Without these, values of 8 bits without a sign are gray levels
    already, unless a rescale changes them; of all others, and of what a VOI LUT gives in more than 8 bits, the lowest
    becomes black and the highest white. MONOCHROME1 is inverted. Padding of a gray picture is black whatever its value,
    and no part of that range. Color becomes luma. Overlays are not drawn.

    Args:
        content: Bytes of a DICOM file.

    Returns:
        Gray levels 0-255, shape (height, width), and the PatientID; empty where it names nobody.

    Raises:
        ImageError: The preamble holds anything, the file is a directory, holds no picture or several, its pixels are
            more or fewer than it says, or it is coded in a way that is not supported.
    """
    if content[:PREFIX_PLACE].strip(b"\0"):
        raise ImageError("suspicious_preamble", "the DICOM file begins as a file of another kind")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values, and values can name people
        try:
            dataset = _parse(content)
            _check(dataset)
            return _show(dataset), _find_patient(dataset)
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # whatever pydicom raises over wrong content is the content's fault
            raise ImageError("undecodable", "the DICOM file cannot be read") from error


def _parse(content: bytes) -> "Dataset":
    from pydicom import dcmread  # noqa: PLC0415 - half a second, which most runs need not spend
    from pydicom.filereader import read_dataset  # noqa: PLC0415

    stream = io.BytesIO(content)
    stream.seek(PREFIX_PLACE + len(PREFIX))
    head = read_dataset(stream, False, True, stop_when=lambda tag, _, __: tag.group != 2)
    syntax = str(head.get("TransferSyntaxUID") or "")
    if str(head.get("MediaStorageSOPClassUID", "")) == _DIRECTORY:
        raise ImageError("no_picture", "the DICOM file is a directory of other files")
    if syntax not in _TRANSFER_SYNTAXES:
        raise ImageError("unsupported_transfer_syntax", f"the DICOM file is coded by transfer syntax {syntax[:64]!r}")
    return dcmread(io.BytesIO(content))


def _check(dataset: "Dataset") -> None:
    """See that the picture is one and that its data have the length that its size asks for."""
    if not dataset.get("PixelData"):
        raise ImageError("no_picture", "the DICOM file holds no picture")
    if int(dataset.get("NumberOfFrames", 1) or 1) != 1:
        raise ImageError("several_pictures", "the DICOM file holds several pictures")
    height, width, depth = (int(dataset[name].value) for name in ("Rows", "Columns", "BitsAllocated"))
    check_size(width, height)
    num_samples = _INTERPRETATIONS.get(str(dataset.get("PhotometricInterpretation", "")))
    if depth not in _DEPTHS or num_samples is None or int(dataset.SamplesPerPixel) != num_samples:
        raise ImageError("unsupported_color", "the pixels of the DICOM file are of a kind that is not supported")
    if dataset.file_meta.TransferSyntaxUID == _RLE:
        return
    num_needed = height * width * num_samples * depth // 8
    if len(dataset.PixelData) < num_needed:
        raise ImageError("truncated", "the DICOM file has fewer pixels than it says")
    if len(dataset.PixelData) > num_needed + 1:  # one byte pads to an even length
        raise ImageError("damaged", "the DICOM file has more pixels than it says")


def _show(dataset: "Dataset") -> NDArray[np.uint8]:
    stored = dataset.pixel_array
    if stored.ndim == 3:
        return convert_to_gray(stored[..., ::-1])  # OpenCV's order of colors
    is_padding = _find_padding(dataset, stored)
    if is_padding.all():
        raise ImageError("blank", "the picture of the DICOM file is nothing but padding")
    if not is_padding.any():
        return _show_values(dataset, stored)
    levels = np.zeros(stored.shape, np.uint8)
    levels[~is_padding] = _show_values(dataset, stored[~is_padding])
    return levels


def _show_values(dataset: "Dataset", stored: NDArray) -> NDArray[np.uint8]:
    """Gray levels of stored values, in whatever shape, as the file says that they are to be shown."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi  # noqa: PLC0415 - see above

    has_table = bool(dataset.get("ModalityLUTSequence"))
    rescale = None if has_table else _get_pair(dataset, "RescaleSlope", "RescaleIntercept")
    values = apply_modality_lut(stored, dataset) if has_table or rescale else stored
    if not np.isfinite(values).all():
        raise ImageError("not_finite", "some pixels are not a number or infinite")
    if dataset.get("VOILUTSequence"):
        levels = stretch_levels(apply_voi(values, dataset))
    elif window := _get_pair(dataset, "WindowCenter", "WindowWidth"):
        levels = _apply_window(values.astype(np.float64), *window, str(dataset.get("VOILUTFunction") or "LINEAR"))
    else:
        levels = stretch_levels(stored if rescale == (1, 0) else values)
    return 255 - levels if dataset.PhotometricInterpretation == "MONOCHROME1" else levels


def _find_padding(dataset: "Dataset", stored: NDArray) -> NDArray[np.bool_]:
    """Which pixels only fill the rectangle around the picture: those of one value or of a range, both ends included."""
    from pydicom.pixels.utils import pixel_array  # noqa: PLC0415 - see above

    limits = [_get_number(dataset, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if limits[0] is None:
        return np.zeros(stored.shape, bool)
    # Their sign is that of the pixels; many files write the same 16 bits with the other.
    words = [np.uint16(int(limit) & 0xFFFF) for limit in limits if limit is not None]
    numbers = [int(word.view(np.int16) if stored.dtype.kind == "i" else word) for word in words]
    low, high = min(numbers), max(numbers)
    padding = (low <= stored) & (stored <= high)
    if dataset.BitsStored < dataset.BitsAllocated:  # 65535 around 12-bit pixels: `stored` has lost the upper bits
        whole = pixel_array(dataset, correct_unused_bits=False)
        padding |= (low <= whole) & (whole <= high)
    return padding


def _find_patient(dataset: "Dataset") -> str:
    patient = str(dataset.get("PatientID") or "").strip()
    return "" if _NOBODY.fullmatch(patient) else patient


def _apply_window(values: NDArray[np.float64], center: float, width: float, function: str) -> NDArray[np.uint8]:
    """Show what a window holds. Source: PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    if not np.isfinite([center, width]).all() or width < 1e-6 or (function == "LINEAR" and width < 1):
        raise ImageError("damaged", "the window of the DICOM file has no width")
    if function == "SIGMOID":
        shares = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    elif function == "LINEAR_EXACT":
        shares = (values - center) / width + 0.5
    else:
        shares = (values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5
    return np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)


def _get_pair(dataset: "Dataset", first: str, second: str) -> tuple[float, float] | None:
    """Two numbers of which none means anything without the other; `None` where one is missing."""
    if first not in dataset or second not in dataset:
        return None
    one, other = _get_number(dataset, first), _get_number(dataset, second)
    return None if one is None or other is None else (one, other)


def _get_number(dataset: "Dataset", name: str) -> float | None:
    """The number of an element, or the first of several; `None` where the element is missing or that one is empty."""
    value = dataset.get(name)
    if value is not None and not isinstance(value, (int, float, str, bytes)):
        value = value[0]
    return None if value in (None, "") else float(value)
