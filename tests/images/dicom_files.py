"""DICOM files made for tests by pydicom, with any fault."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

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
