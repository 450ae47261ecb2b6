"""The structure of JPEG files, checked before any decoder sees them.

Source: ITU-T T.81 (1992), annex B: markers, each with a segment, and the coded data of one or more scans.
"""

import re
import struct
from dataclasses import dataclass, field
from typing import Final

from hip_mri.data.structure import Structure, check_size
from hip_mri.data.tiff import read_orientation
from hip_mri.errors import ImageError

SIGNATURE: Final = b"\xff\xd8\xff"

_START, _END, _SCAN, _ADOBE, _EXIF, _JFIF, _COMMENT = 0xD8, 0xD9, 0xDA, 0xEE, 0xE1, 0xE0, 0xFE
_FRAMES: Final = {0xC0, 0xC1, 0xC2}
"""Baseline, extended sequential and progressive frames; the others are lossless, hierarchical or arithmetic."""
_OTHER_FRAMES: Final = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCC, 0xCD, 0xCE, 0xCF}
_TABLES: Final = {0xC4, 0xDB, 0xDD}
"""Huffman and quantization tables, and the restart interval."""
_APPLICATIONS: Final = range(0xE0, 0xF0)

_PLAIN_JFIF: Final = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
"""Says that three components are YCbCr, and nothing else: square pixels, no thumbnail."""

_END_OF_SCAN: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""In coded data, 0xFF is followed by 0, or by the number of a restart. Fill bytes before it are left to the caller: an
expression that takes them along starts anew at each of a million."""

_MAX_NUM_SCANS: Final = 100
"""Progressive files have some ten; each passes over all coefficients, so thousands would take hours."""


@dataclass
class _Walk:
    """What the walk has met so far."""

    kept: list[bytes] = field(default_factory=lambda: [b"\xff\xd8"])
    orientation: int = 1
    num_blocks: int = 0
    num_scans: int = 0
    num_coded_bytes: int = 0


def examine_jpeg(content: bytes) -> Structure:
    """Check a JPEG file and keep only what makes its pixels.

    Comments, thumbnails, color profiles and EXIF are left out. Of the application segments, which say how colors are
    coded, just that is kept. Zero bytes behind the end, with which some devices pad, are left out too.

    Args:
        content: Bytes of a JPEG file.

    Returns:
        A JPEG file with the same pixels.

    Raises:
        ImageError: The file ends early or late, its segments are out of order or contradict each other, it has too
            many pixels, or is coded in a way that is not supported.
    """
    walk, position, marker = _Walk(), 2, _START
    while marker != _END:
        marker, position = _find_marker(content, position)
        if marker != _END:
            segment = _read_segment(content, position)
            position += len(segment)
            position = _take_segment(walk, marker, segment, content, position)
    if not walk.num_scans:
        raise ImageError("truncated", "the JPEG file has no pixels")
    if walk.num_coded_bytes * 8 < walk.num_blocks:  # a block takes a bit at the very least
        raise ImageError("truncated", "the JPEG file has too few data for its size")
    if content[position:].strip(b"\0"):
        raise ImageError("appended_data", "the JPEG file goes on after its end")
    return Structure(b"".join([*walk.kept, b"\xff\xd9"]), is_bare=True, orientation=walk.orientation)


def _find_marker(content: bytes, position: int) -> tuple[int, int]:
    """The marker that stands here, after any number of fill bytes, and where its segment begins."""
    start = position
    while content[position : position + 1] == b"\xff":
        position += 1
    if position >= len(content):
        raise ImageError("truncated", "the JPEG file ends early")
    if position == start:
        raise ImageError("damaged", "the JPEG file has something else where a segment should begin")
    return content[position], position + 1


def _read_segment(content: bytes, position: int) -> bytes:
    """A segment with its length, which counts itself."""
    length = int.from_bytes(content[position : position + 2], "big")
    if position + max(length, 2) > len(content):
        raise ImageError("truncated", "the JPEG file ends early")
    if length < 2:
        raise ImageError("damaged", "a segment of the JPEG file has no length")
    return content[position : position + length]


def _take_segment(walk: _Walk, marker: int, segment: bytes, content: bytes, position: int) -> int:
    """Check and keep a segment, and the coded data behind it; where the next marker stands."""
    whole = bytes([0xFF, marker]) + segment
    if marker == _SCAN:
        return _take_scan(walk, whole, content, position)
    if marker in _FRAMES:
        if walk.num_blocks:
            raise ImageError("several_pictures", "the JPEG file holds several frames")
        walk.num_blocks = _check_frame(segment)
        walk.kept.append(whole)
    elif marker in _TABLES:
        walk.kept.append(whole)
    elif marker in _OTHER_FRAMES:
        raise ImageError("unsupported_compression", f"the JPEG file is coded by method {marker - 0xC0}")
    elif marker in _APPLICATIONS:
        _take_application(walk, marker, segment[2:])
    elif marker != _COMMENT:
        raise ImageError("damaged", f"the JPEG file has a segment of unknown kind {marker:#x}")
    return position


def _take_scan(walk: _Walk, whole: bytes, content: bytes, position: int) -> int:
    walk.num_scans += 1
    if not walk.num_blocks or walk.num_scans > _MAX_NUM_SCANS:
        raise ImageError("damaged", f"the JPEG file has a scan before its frame, or more than {_MAX_NUM_SCANS} scans")
    end = _END_OF_SCAN.search(content, position)
    if end is None:
        raise ImageError("truncated", "the JPEG file ends early")
    coded = content[position : end.start()].rstrip(b"\xff")
    walk.kept += [whole, coded]
    walk.num_coded_bytes += len(coded)
    return position + len(coded)


def _take_application(walk: _Walk, marker: int, data: bytes) -> None:
    if marker == _JFIF and data.startswith(b"JFIF\0"):
        walk.kept.append(_PLAIN_JFIF)
    elif marker == _ADOBE and data.startswith(b"Adobe") and len(data) >= 12:
        walk.kept.append(b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + data[11:12])  # how colors are transformed
    elif marker == _EXIF and data.startswith(b"Exif\0"):
        walk.orientation = read_orientation(data[6:])


def _check_frame(segment: bytes) -> int:
    """Blocks of 8 x 8 coefficients that the picture has, in all of its components."""
    if len(segment) < 8 or len(segment) != 8 + 3 * segment[7]:
        raise ImageError("damaged", "the frame of the JPEG file has a wrong length")
    depth, height, width, num_components = struct.unpack_from(">BHHB", segment, 2)
    if depth != 8:
        raise ImageError("unsupported_compression", f"the JPEG file has samples of {depth} bits")
    if num_components not in (1, 3, 4):
        raise ImageError("unsupported_color", f"the JPEG file has {num_components} components")
    check_size(width, height)
    samplings = [divmod(sampling, 16) for sampling in segment[9::3]]
    if any(not (1 <= across <= 4 and 1 <= down <= 4) for across, down in samplings):
        raise ImageError("damaged", "the JPEG file samples its components in an impossible way")
    most_across, most_down = (max(factors) for factors in zip(*samplings, strict=True))
    return sum(
        -(-width * across // (8 * most_across)) * -(-height * down // (8 * most_down)) for across, down in samplings
    )
