"""The structure of BMP files, checked before any decoder sees them.

Source: Microsoft, Windows GDI, BITMAPFILEHEADER and BITMAPINFOHEADER.
"""

import struct
from typing import Final

from hip_mri.data.structure import Structure, check_size
from hip_mri.errors import ImageError

SIGNATURE: Final = b"BM"
_HEADER_SIZES: Final = (40, 52, 56, 108, 124)  # bytes; versions of BITMAPINFOHEADER
_DEPTHS: Final = (1, 4, 8, 16, 24, 32)
_COMPRESSIONS: Final = {0: "none", 3: "bit fields"}
_NUM_FILE_HEADER_BYTES: Final = 14


def examine_bmp(content: bytes) -> Structure:
    """Check that the pixels of a BMP file lie inside the file, whose length is the one that it states.

    Args:
        content: Bytes of a BMP file.

    Raises:
        ImageError: The file ends early or late, its header is impossible, it has too many pixels, or is packed in a
            way that is not supported.
    """
    if len(content) < _NUM_FILE_HEADER_BYTES + 40:
        raise ImageError("truncated", "the BMP file ends early")
    num_bytes, _, data_start, header_size = struct.unpack_from("<4I", content, 2)
    width, height, num_planes, depth, compression = struct.unpack_from("<iiHHI", content, 18)
    if num_bytes != len(content):
        reason = "truncated" if num_bytes > len(content) else "appended_data"
        raise ImageError(reason, f"the BMP file states {num_bytes} bytes and has {len(content)}")
    if header_size not in _HEADER_SIZES or num_planes != 1 or depth not in _DEPTHS:
        raise ImageError("damaged", "the header of the BMP file has impossible values")
    if compression not in _COMPRESSIONS:
        raise ImageError("unsupported_compression", f"the BMP file is packed by method {compression}")
    check_size(width, abs(height))  # a negative height says that the uppermost row comes first
    num_row_bytes = (width * depth + 31) // 32 * 4
    if data_start < _NUM_FILE_HEADER_BYTES + header_size or data_start + num_row_bytes * abs(height) > num_bytes:
        raise ImageError("truncated", "pixels of the BMP file lie outside the file")
    return Structure(content)
