"""Parses DICOM files and reads numbers of their elements, as leniently as viewers do.

Accepted are any preamble or none, missing file meta information, and the deflated syntax up to a maximum size.
"""

import io
import struct
import zlib
from typing import TYPE_CHECKING, Final

from hip_mri.errors import ImageError
from hip_mri.images.file_kinds import DICOM_PREAMBLE_BYTES, DICOM_PREFIX, find_format

if TYPE_CHECKING:
    from pydicom import Dataset

_FIRST_TAGS: Final = {
    *(struct.pack("<HH", 0x0002, element) for element in (0x0000, 0x0001, 0x0002)),
    *(struct.pack(order + "HH", 0x0008, element) for order in "<>" for element in (0, 1, 5, 8, 0x12, 0x16, 0x18)),
}
"""First tags of a data set without preamble and prefix, in either order of bytes."""
MAX_INFLATED_BYTES: Final = 2**28
"""Maximum size of a data set of the deflated syntax, in bytes."""
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_EXPLICIT: Final = "1.2.840.10008.1.2.1"
NATIVE_SYNTAXES: Final = ("1.2.840.10008.1.2", _EXPLICIT, "1.2.840.10008.1.2.2", _DEFLATED)
_DIRECTORY: Final = "1.2.840.10008.1.3.10"

PIXEL_ELEMENTS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def is_dicom(content: bytes) -> bool:
    """Whether a file is a DICOM file, or begins like a DICOM data set."""
    return find_format(content) == "DICOM" or content[:4] in {DICOM_PREFIX, *_FIRST_TAGS}


def parse_dicom(content: bytes) -> "Dataset":
    """Parse a DICOM file, or a data set without preamble and file meta information.

    Raises:
        ImageError: The file is a directory, contains no image, or its deflated data set cannot be used.
    """
    from pydicom import dcmread  # noqa: PLC0415 - takes half a second

    if content[:4] == DICOM_PREFIX:
        content = bytes(DICOM_PREAMBLE_BYTES) + content
    dataset = dcmread(io.BytesIO(_inflate(content)), force=True)
    if not hasattr(dataset, "file_meta") or not dataset.file_meta.get("TransferSyntaxUID"):
        _guess_syntax(dataset)
    if dataset.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY or "DirectoryRecordSequence" in dataset:
        raise ImageError("no_picture", "the DICOM file is a directory of other files")
    if "Rows" not in dataset and not any(name in dataset for name in PIXEL_ELEMENTS):
        reason = "no_picture" if find_format(content) == "DICOM" else "not_an_image"
        raise ImageError(reason, "the file contains no image: no element Rows (0028,0010)")
    return dataset


def _inflate(content: bytes) -> bytes:
    """Convert a deflated data set to the explicit syntax; pydicom would decompress it without a limit."""
    from pydicom.filereader import read_dataset  # noqa: PLC0415 - see above

    if find_format(content) != "DICOM":
        return content
    stream = io.BytesIO(content)
    stream.seek(DICOM_PREAMBLE_BYTES + len(DICOM_PREFIX))
    meta = read_dataset(stream, False, True, stop_when=lambda tag, _, __: tag.group != 2)
    if str(meta.get("TransferSyntaxUID") or "") != _DEFLATED:
        return content
    length = meta.get("FileMetaInformationGroupLength")  # counted from the end of its own element of 12 bytes
    start = stream.tell() if length is None else DICOM_PREAMBLE_BYTES + len(DICOM_PREFIX) + 12 + int(length)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(content[start:], MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise ImageError("damaged", "the deflated data set of the DICOM file is damaged") from error
    if inflater.unconsumed_tail:
        raise ImageError("too_large", f"the deflated data set has more than {MAX_INFLATED_BYTES:,} bytes")
    if not inflater.eof:
        raise ImageError("truncated", "the deflated data set of the DICOM file is truncated")
    syntax = _EXPLICIT.encode() + b"\0"
    head = b"\x02\0\x10\0UI" + struct.pack("<H", len(syntax)) + syntax
    return bytes(DICOM_PREAMBLE_BYTES) + DICOM_PREFIX + head + inflated


def _guess_syntax(dataset: "Dataset") -> None:
    """Set the transfer syntax of a data set without file meta information to the one that it was read with."""
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
    syntax = NATIVE_SYNTAXES[0] if is_implicit else NATIVE_SYNTAXES[1] if is_little else NATIVE_SYNTAXES[2]
    dataset.file_meta.TransferSyntaxUID = UID(syntax)


def get_numbers(dataset: "Dataset", name: str) -> list[float | None]:
    """Read the numbers of an element.

    A comma counts as decimal point.

    Args:
        dataset: The data set.
        name: Keyword of the element.

    Returns:
        Its values, `None` for each that is empty or not a number; empty if the element is missing or empty.
    """
    if name not in dataset:
        return []
    try:
        value = dataset[name].value
    except (ValueError, TypeError):  # pydicom cannot convert the text
        value = _read_text(dataset, name)
    values = [value] if value is None or isinstance(value, int | float | str | bytes) else list(value)
    return [_convert(one) for one in values] if values not in ([None], [""]) else []


def get_number(dataset: "Dataset", name: str) -> float | None:
    """Read the number of an element, or the first of several; `None` if it is missing, empty or not a number."""
    return next(iter(get_numbers(dataset, name)), None)


def _read_text(dataset: "Dataset", name: str) -> list[str]:
    raw = getattr(dataset.get_item(name), "value", None)
    return raw.decode("ascii", "replace").split("\\") if isinstance(raw, bytes) else []


def _convert(value: object) -> float | None:
    try:
        return float(str(value).strip().strip("\0").replace(",", "."))
    except ValueError:
        return None
