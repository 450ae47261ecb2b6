"""Checks the pixel elements of a DICOM data set and decodes its frames."""

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.errors import ImageError
from hip_mri.images.decoding_results import check_stack_size
from hip_mri.images.formats.dicom_parsing import NATIVE_SYNTAXES, PIXEL_ELEMENTS, get_number

if TYPE_CHECKING:
    from pydicom import Dataset

_RLE: Final = "1.2.840.10008.1.2.5"
_NEWER_SYNTAXES: Final = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}
"""Names that pydicom 3.0 does not know."""
_NUM_SAMPLES: Final = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1}
"""Samples per pixel by PhotometricInterpretation; those in color have three."""
_COLORS: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")
_DEPTHS: Final = (8, 16, 32, 64)


def check_pixels(dataset: "Dataset") -> int:
    """Add missing elements that have one sensible default, check the others, and return the number of frames."""
    found = [name for name in PIXEL_ELEMENTS if dataset.get(name)]
    if not found:
        raise ImageError("no_picture", "the DICOM file contains no pixels: no element PixelData (7FE0,0010)")
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
    """Check the number of native pixels; a surplus of less than a frame is padding (PS3.5 8.1.1)."""
    from pydicom.uid import UID  # noqa: PLC0415 - see above

    syntax = dataset.file_meta.TransferSyntaxUID
    if element == "PixelData" and syntax not in NATIVE_SYNTAXES:
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


def read_frame(dataset: "Dataset", number: int) -> tuple[NDArray, NDArray]:
    """Values of a frame, and the same with all allocated bits; shape (height, width) or (height, width, 3)."""
    from pydicom.pixels.processing import apply_color_lut  # noqa: PLC0415 - see above
    from pydicom.pixels.utils import pixel_array  # noqa: PLC0415 - see above

    plugin = ""
    if dataset.file_meta.TransferSyntaxUID not in {*NATIVE_SYNTAXES, _RLE}:
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
    is_native = dataset.file_meta.TransferSyntaxUID in {*NATIVE_SYNTAXES, _RLE}
    shift = min(max(int(dataset.HighBit) + 1 - num_bits, 0), allocated - num_bits) if is_native else 0
    return _keep_stored_bits(whole, num_bits, shift), whole


def _keep_stored_bits(whole: NDArray, num_bits: int, shift: int) -> NDArray:
    """Values of the stored bits: shifted down if they are the upper ones, without other bits, sign-extended."""
    num_unused = whole.dtype.itemsize * 8 - num_bits
    if not num_unused:
        return whole
    unsigned = whole.view(np.dtype(f"u{whole.dtype.itemsize}"))
    is_below = bool((unsigned & ((1 << shift) - 1)).any()) and not bool((unsigned >> num_bits).any())
    if is_below:  # HighBit is wrong: the values use the lower bits
        shift = 0
    return np.left_shift(whole, num_unused - shift) >> num_unused
