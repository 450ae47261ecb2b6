"""Parses DICOM files as leniently as viewers do.

Accepted are any preamble or none, missing file meta information, and the deflated syntax up to a maximum size.
"""

import io
import struct
import zlib
from typing import TYPE_CHECKING, Final

from hip_mri.errors import ImageError

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
NATIVE_SYNTAXES: Final = ("1.2.840.10008.1.2", _EXPLICIT, "1.2.840.10008.1.2.2", _DEFLATED)
_DIRECTORY: Final = "1.2.840.10008.1.3.10"

PIXEL_ELEMENTS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def is_dicom(content: bytes) -> bool:
    """Whether bytes are a DICOM file, or begin like a DICOM data set."""
    return content[PREFIX_PLACE : PREFIX_PLACE + len(PREFIX)] == PREFIX or content[:4] in {PREFIX, *_FIRST_TAGS}


def parse_dicom(content: bytes) -> "Dataset":
    """Parse a DICOM file, or a data set without preamble and file meta information.

    Raises:
        ImageError: The file is a directory, holds no picture, or its deflated data set cannot be used.
    """
    from pydicom import dcmread  # noqa: PLC0415 - half a second, which most runs need not spend

    if content[:4] == PREFIX:
        content = bytes(PREFIX_PLACE) + content
    dataset = dcmread(io.BytesIO(_inflate(content)), force=True)
    if not hasattr(dataset, "file_meta") or not dataset.file_meta.get("TransferSyntaxUID"):
        _guess_syntax(dataset)
    if dataset.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY or "DirectoryRecordSequence" in dataset:
        raise ImageError("no_picture", "the DICOM file is a directory of other files")
    if "Rows" not in dataset and not any(name in dataset for name in PIXEL_ELEMENTS):
        has_prefix = content[PREFIX_PLACE : PREFIX_PLACE + len(PREFIX)] == PREFIX
        reason = "no_picture" if has_prefix else "not_an_image"
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
    syntax = NATIVE_SYNTAXES[0] if is_implicit else NATIVE_SYNTAXES[1] if is_little else NATIVE_SYNTAXES[2]
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
