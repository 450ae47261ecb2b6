"""DICOM files: one gray or color picture of them, and whose it is.

Read are the uncompressed transfer syntaxes (implicit and explicit VR little endian, explicit VR big endian) and RLE
lossless. JPEG, JPEG-LS, JPEG 2000 and video need further decoders, and the deflated syntax inflates without bounds:
files of those are refused.

Source: DICOM PS3.3 2024e, C.7.6.3 (pixels), C.11.1 (modality LUT) and C.11.2 (VOI LUT); PS3.10, 7.1 (preamble).
"""

import io
import re
import warnings
from typing import TYPE_CHECKING, Any, Final

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
_NOBODY: Final = re.compile(r"(|0+|x+|n/?a|none|anon\w*|unknown|patient|removed|de-?identified|test)", re.IGNORECASE)
"""What stands in the place of an identity that was taken away; it must not make one patient of all."""


def is_dicom(content: bytes) -> bool:
    """Whether the bytes say that they are a DICOM file; they may begin as something else all the same."""
    return content[PREFIX_PLACE : PREFIX_PLACE + len(PREFIX)] == PREFIX


def read_dicom(content: bytes) -> tuple[NDArray[np.uint8], str]:
    """Read the one picture of a DICOM file.

    Stored values become those of the modality (rescale or LUT), then those that are to be shown: by the VOI LUT, or by
    the first window, which goes from black to white. Without a window, and deeper than 8 bits, the lowest value
    becomes black and the highest white. MONOCHROME1 is inverted, color becomes luma. Overlays are not drawn.

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
    syntax = str(head.get("TransferSyntaxUID", ""))
    if str(head.get("MediaStorageSOPClassUID", "")) == _DIRECTORY:
        raise ImageError("no_picture", "the DICOM file is a directory of other files")
    if syntax not in _TRANSFER_SYNTAXES:
        raise ImageError("unsupported_transfer_syntax", f"the DICOM file is coded by transfer syntax {syntax[:64]!r}")
    return dcmread(io.BytesIO(content))


def _check(dataset: "Dataset") -> None:
    """See that the picture is one and that its data have the length that its size asks for."""
    if "PixelData" not in dataset:
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
    from pydicom.pixels.processing import apply_modality_lut, apply_voi  # noqa: PLC0415 - see above

    stored = dataset.pixel_array
    if stored.ndim == 3:
        return convert_to_gray(stored[..., ::-1])  # OpenCV's order of colors
    values = apply_modality_lut(stored, dataset)
    if not np.isfinite(values).all():
        raise ImageError("not_finite", "some pixels are not a number or infinite")
    if "VOILUTSequence" in dataset:
        levels = stretch_levels(apply_voi(values, dataset))
    elif "WindowCenter" in dataset and "WindowWidth" in dataset:
        levels = _apply_window(values.astype(np.float64), dataset)
    else:
        levels = stretch_levels(values)
    return 255 - levels if dataset.PhotometricInterpretation == "MONOCHROME1" else levels


def _find_patient(dataset: "Dataset") -> str:
    patient = str(dataset.get("PatientID", "") or "").strip()
    return "" if _NOBODY.fullmatch(patient) else patient


def _apply_window(values: NDArray[np.float64], dataset: "Dataset") -> NDArray[np.uint8]:
    """Show what the first window holds. Source: PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    center, width = (_get_first(dataset[name].value) for name in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction", "LINEAR") or "LINEAR")
    if not np.isfinite([center, width]).all() or width < 1e-6 or (function == "LINEAR" and width < 1):
        raise ImageError("damaged", "the window of the DICOM file has no width")
    if function == "SIGMOID":
        shares = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    elif function == "LINEAR_EXACT":
        shares = (values - center) / width + 0.5
    else:
        shares = (values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5
    return np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)


def _get_first(value: Any) -> float:
    """One number, or the first of several."""
    return float(value if isinstance(value, (int, float, str)) else value[0])
