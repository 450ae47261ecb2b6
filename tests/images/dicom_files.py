"""DICOM files made for tests by pydicom, with any fault."""

import io
import zlib
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
}
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"


def describe(values: NDArray, **tags: Any) -> Dataset:
    """A data set of one picture; `tags` are set last, and removed where they are `None`."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = MR_IMAGE, "1.2.3.4"
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = 1 if values.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if values.ndim == 2 else "RGB"
    if values.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = values.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in tags.items():
        if value is not None:
            setattr(dataset, name, value)
        elif name in dataset:
            del dataset[name]
    return dataset


def write_dicom(values: NDArray, syntax: str = "explicit", preamble: bytes = b"", **tags: Any) -> bytes:
    """A DICOM file of one picture.

    Args:
        values: Stored values.
        syntax: A key of `SYNTAXES`.
        preamble: First bytes of the file.
        tags: Further elements, or `None` for those that are to be missing.
    """
    is_big = syntax == "big endian"
    data = values.astype(values.dtype.newbyteorder(">" if is_big else "<")).tobytes()
    tags = {"PixelData": data + b"\0" * (len(data) % 2)} | tags
    dataset = describe(values, **tags)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW" if values.itemsize > 1 else "OB"
    return write_dataset(dataset, SYNTAXES[syntax], preamble)


def write_rle(values: NDArray, **tags: Any) -> bytes:
    """A DICOM file whose pixels are run-length coded."""
    dataset = describe(values, **tags)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.PixelData = values.tobytes()
    dataset.compress(RLELossless, generate_instance_uid=False)
    return write_dataset(dataset, RLELossless)


def write_dataset(dataset: Dataset, syntax: str, preamble: bytes = b"", sop_class: str = MR_IMAGE) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, "1.2.3.4"
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = "1.2.3"
    dataset.file_meta = meta
    dataset.preamble = preamble.ljust(128, b"\0")
    stream = io.BytesIO()
    is_native = syntax in SYNTAXES.values()
    options = {} if is_native else {"implicit_vr": False, "little_endian": True}
    dcmwrite(stream, dataset, enforce_file_format=False, **options)
    return stream.getvalue()


def draw_levels(depth: type = np.uint16, high: int = 4095) -> NDArray:
    """Values from 0 to `high`, shape (32, 24)."""
    return np.linspace(0, high, 32 * 24).reshape(32, 24).astype(depth)


def compress_frames(frames: list[bytes], values: NDArray, syntax: str, **tags: Any) -> bytes:
    """A DICOM file of compressed frames, each shaped as `values`."""
    count = {"NumberOfFrames": len(frames)} if len(frames) > 1 else {}
    dataset = describe(values, **count, **tags)
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return write_dataset(dataset, syntax)


def compress_losslessly(values: NDArray[np.uint16]) -> dict[str, bytes]:
    """One picture of 12 bits in each lossless transfer syntax, by its name."""
    tags = {"BitsStored": 12, "HighBit": 11}
    frames = {
        JPEGLossless: imagecodecs.jpeg8_encode(values, lossless=True, predictor=6, bitspersample=12),
        JPEGLosslessSV1: imagecodecs.jpeg8_encode(values, lossless=True, predictor=1, bitspersample=12),
        JPEGLSLossless: imagecodecs.jpegls_encode(values),
        JPEG2000Lossless: imagecodecs.jpeg2k_encode(values, codecformat="j2k", reversible=True, bitspersample=12),
        HTJ2KLossless: imagecodecs.htj2k_encode(values, reversible=True),
    }
    files = {syntax.name: compress_frames([frame], values, syntax, **tags) for syntax, frame in frames.items()}
    files["RLE Lossless"] = write_rle(values, **tags)
    files["Deflated"] = write_deflated(values, **tags)
    return files | {name: write_dicom(values, name, **tags) for name in SYNTAXES}


def compress_lossily(values: NDArray[np.uint16]) -> dict[str, bytes]:
    """One picture of 12 bits in each lossy transfer syntax, in 8 bits where the syntax has no more."""
    shallow, tags = (values // 16).astype(np.uint8), {"BitsStored": 12, "HighBit": 11}
    return {
        "JPEG Baseline": compress_frames([imagecodecs.jpeg8_encode(shallow, level=95)], shallow, JPEGBaseline8Bit),
        "JPEG Extended": compress_frames(
            [imagecodecs.jpeg8_encode(values, level=95, bitspersample=12)], values, JPEGExtended12Bit, **tags
        ),
        "JPEG-LS near-lossless": compress_frames(
            [imagecodecs.jpegls_encode(values, level=3)], values, JPEGLSNearLossless, **tags
        ),
        "JPEG 2000": compress_frames(
            [imagecodecs.jpeg2k_encode(values, codecformat="j2k", level=60, bitspersample=12)],
            values,
            JPEG2000,
            **tags,
        ),
    }


def write_deflated(values: NDArray, **tags: Any) -> bytes:
    """A DICOM file of the deflated transfer syntax."""
    plain = write_dicom(values, **tags)
    start = plain.index(b"\x08\0\x16\0", 132)  # SOPClassUID, the first element of the data set
    syntax = b"1.2.840.10008.1.2.1.99"
    meta = b"\x02\0\x10\0UI" + len(syntax).to_bytes(2, "little") + syntax
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = squeezer.compress(plain[start:]) + squeezer.flush()
    length = b"\x02\0\0\0UL\x04\0" + len(meta).to_bytes(4, "little")
    return bytes(128) + b"DICM" + length + meta + data + b"\0" * (len(data) % 2)


def write_enhanced(frames: list[NDArray], groups: list[dict[str, Any]], **tags: Any) -> bytes:
    """An enhanced MR object: several frames, and for each what its functional groups say.

    Args:
        frames: Stored values, all of one shape.
        groups: Elements of each frame by the name of their sequence.
        tags: Further elements of the file.
    """
    stack = np.stack(frames)
    dataset = describe(frames[0], NumberOfFrames=len(frames), PixelData=stack.tobytes(), **tags)
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    dataset["PixelData"].VR = "OW"
    dataset.PerFrameFunctionalGroupsSequence = Sequence([_make_group(group) for group in groups])
    return write_dataset(dataset, SYNTAXES["explicit"])


def _make_group(sequences: dict[str, Any]) -> Dataset:
    group = Dataset()
    for name, elements in sequences.items():
        item = Dataset()
        for element, value in elements.items():
            setattr(item, element, value)
        setattr(group, name, Sequence([item]))
    return group
