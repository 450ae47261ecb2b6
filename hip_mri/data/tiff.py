"""The structure of TIFF files, checked before any decoder sees them, and of EXIF, which has the same form.

Source: Adobe, TIFF Revision 6.0, 1992, section 2: a byte order, then directories of fields (tag, type, count, value).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hip_mri.data.structure import Structure, check_size
from hip_mri.errors import ImageError

SIGNATURES: Final = {b"II*\x00": "<", b"MM\x00*": ">"}
"""First bytes, with the order of bytes that they announce as `struct` writes it."""

WIDTH, HEIGHT, DEPTH, COMPRESSION, PHOTOMETRIC, ORIENTATION, NUM_SAMPLES = 256, 257, 258, 259, 262, 274, 277
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_LENGTHS, PLANES = 273, 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_LENGTHS = 322, 323, 324, 325
INNER_DIRECTORIES, EXTRA_SAMPLES, SAMPLE_FORMAT = 330, 338, 339

_TYPE_CODES: Final = {1: "B", 3: "H", 4: "I"}
"""Types of whole numbers: byte, short, long. No other type matters to the pixels."""
_NUM_TYPE_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}

_COMPRESSIONS: Final = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits"}
_PHOTOMETRICS: Final = {0: "white is zero", 1: "black is zero", 2: "RGB", 3: "palette", 5: "CMYK"}
_DEPTHS: Final = {1: (1, 2, 4, 8, 16, 32), 2: (8, 16, 32), 3: (32, 64)}
"""Bits per sample that each format of samples may have: whole numbers, signed ones, floating point."""
_ASSOCIATED_ALPHA: Final = 1
_MAX_NUM_FIELDS: Final = 1000
_TELLING: Final = {
    *(WIDTH, HEIGHT, DEPTH, COMPRESSION, PHOTOMETRIC, ORIENTATION, NUM_SAMPLES),
    *(STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_LENGTHS, PLANES, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_LENGTHS),
    *(EXTRA_SAMPLES, SAMPLE_FORMAT),
}
"""Fields whose values are read; of the others, which may point at the same megabytes again and again, none is."""

_SINGLE: Final = {
    *(WIDTH, HEIGHT, COMPRESSION, PHOTOMETRIC, ORIENTATION, NUM_SAMPLES, ROWS_PER_STRIP, PLANES),
    *(TILE_WIDTH, TILE_HEIGHT),
}
"""Those of one value, which stands in the field itself."""

_PLAIN_VALUES: Final = {ORIENTATION: 1, EXTRA_SAMPLES: _ASSOCIATED_ALPHA}
"""What is written over the first value of a field for the decoder."""


@dataclass(frozen=True)
class Field:
    """One field of a directory.

    Attributes:
        values: Its numbers; empty where nobody asks for them or the type is none of whole numbers.
        place: Where its first value stands in the file.
        is_inside: Whether the values stand in the field itself, not elsewhere in the file.
        type_code: How `struct` writes one value.
    """

    values: tuple[int, ...]
    place: int
    is_inside: bool
    type_code: str


def examine_tiff(content: bytes) -> Structure:
    """Check that a TIFF file holds one picture whose data lie inside the file.

    Args:
        content: Bytes of a TIFF file.

    Returns:
        The file with its orientation set to the plain one and its alpha channel declared as already multiplied, which
        keeps the decoder from turning the picture and from multiplying colors by it.

    Raises:
        ImageError: Fields or data lie outside the file, values contradict each other, it holds several pictures or
            too many pixels, or a way of packing or coloring that is not supported.
    """
    order = SIGNATURES[content[:4]]
    fields, next_directory = _read_directory(content, order, 4)
    _check_counts(fields)
    if next_directory or INNER_DIRECTORIES in fields:
        raise ImageError("several_pictures", "the TIFF file holds several pictures")
    width, height = _get_one(fields, WIDTH, 0), _get_one(fields, HEIGHT, 0)
    check_size(width, height)
    num_row_bits = width * _check_samples(fields)
    _check_data(content, fields, (num_row_bits + 7) // 8 * height)
    patched = _write_plain_values(content, order, fields)
    is_inverted = _get_one(fields, PHOTOMETRIC, 1) == 0 and _get_one(fields, DEPTH, 1) > 8  # OpenCV leaves those so
    return Structure(patched, orientation=_get_orientation(fields), is_inverted=is_inverted)


def read_orientation(exif: bytes) -> int:
    """Read how a picture is meant to be shown; see `Structure.orientation`.

    Args:
        exif: An EXIF block, which begins as a TIFF file does.

    Returns:
        The number; 1 where the block is missing, damaged or says nothing.
    """
    try:
        return _get_orientation(_read_directory(exif, SIGNATURES[exif[:4]], 4)[0])
    except (KeyError, ImageError):
        return 1


def _read_directory(content: bytes, order: str, pointer: int) -> tuple[dict[int, Field], int]:
    """The fields by tag, and where the next directory begins or 0."""
    try:
        (start,) = struct.unpack_from(order + "I", content, pointer)
        (num_fields,) = struct.unpack_from(order + "H", content, start)
        if not 0 < num_fields <= _MAX_NUM_FIELDS:
            raise ImageError("damaged", f"the directory has {num_fields} fields")
        fields = {}
        for place in range(start + 2, start + 2 + 12 * num_fields, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", content, place)
            if tag in fields:
                raise ImageError("damaged", "a field of the directory is repeated")
            code = _TYPE_CODES.get(kind, "") if tag in _TELLING else ""
            fields[tag] = _read_field(content, order, place + 8, code, count, _NUM_TYPE_BYTES.get(kind, 1))
        (next_directory,) = struct.unpack_from(order + "I", content, start + 2 + 12 * num_fields)
    except struct.error as error:
        raise ImageError("truncated", "a directory or field lies outside the file") from error
    return fields, next_directory


def _read_field(content: bytes, order: str, place: int, code: str, count: int, num_value_bytes: int) -> Field:
    length = count * num_value_bytes
    is_inside = length <= 4
    if not is_inside:
        (place,) = struct.unpack_from(order + "I", content, place)
    if place + length > len(content):
        raise ImageError("truncated", "the values of a field lie outside the file")
    values = struct.unpack_from(f"{order}{count}{code}", content, place) if code else ()
    return Field(values, place, is_inside, code)


def _check_counts(fields: Mapping[int, Field]) -> None:
    """See that the fields that matter have as many numbers as they should: decoders differ in what they make of others.

    Values that are written over stand in their field. Elsewhere, the file could have them written over its width.
    """
    for tag in _TELLING & fields.keys():
        if not (fields[tag].values if tag not in _SINGLE else len(fields[tag].values) == 1):
            raise ImageError("damaged", f"field {tag} of the TIFF file has {len(fields[tag].values)} whole numbers")
    if EXTRA_SAMPLES in fields and not fields[EXTRA_SAMPLES].is_inside:
        raise ImageError("unsupported_color", "the TIFF file has too many channels beside its colors")


def _write_plain_values(content: bytes, order: str, fields: Mapping[int, Field]) -> bytes:
    """Write `_PLAIN_VALUES` into the fields that are there, and see that this changed no other field's values."""
    patched = bytearray(content)
    for tag in _PLAIN_VALUES.keys() & fields.keys():
        struct.pack_into(order + fields[tag].type_code, patched, fields[tag].place, _PLAIN_VALUES[tag])
    found, _ = _read_directory(bytes(patched), order, 4)
    if any(found.get(tag) != field for tag, field in fields.items() if tag not in _PLAIN_VALUES):
        raise ImageError("damaged", "fields of the TIFF file share their bytes")
    return bytes(patched)


def _get_one(fields: Mapping[int, Field], tag: int, default: int) -> int:
    return fields[tag].values[0] if tag in fields and fields[tag].values else default


def _get_orientation(fields: Mapping[int, Field]) -> int:
    found = _get_one(fields, ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def _check_samples(fields: Mapping[int, Field]) -> int:
    """Bits per pixel."""
    compression, photometric = _get_one(fields, COMPRESSION, 1), _get_one(fields, PHOTOMETRIC, -1)
    if compression not in _COMPRESSIONS:
        raise ImageError("unsupported_compression", f"the TIFF file is packed by method {compression}")
    if photometric not in _PHOTOMETRICS:
        raise ImageError("unsupported_color", f"the TIFF file has colors of kind {photometric}")
    num_samples = _get_one(fields, NUM_SAMPLES, 1)
    depths = fields[DEPTH].values if DEPTH in fields else (1,)
    formats = fields[SAMPLE_FORMAT].values if SAMPLE_FORMAT in fields else (1,)
    if not 1 <= num_samples <= 5 or len(set(depths)) != 1 or len(set(formats)) != 1:
        raise ImageError("unsupported_color", "the samples of the TIFF file are too many or not alike")
    if depths[0] not in _DEPTHS.get(formats[0], ()):
        raise ImageError("unsupported_color", f"samples of {depths[0]} bits and format {formats[0]} are not known")
    return depths[0] * num_samples


def _check_data(content: bytes, fields: Mapping[int, Field], num_needed: int) -> None:
    """See that all strips or tiles are there, lie inside the file and hold enough."""
    offsets_tag, lengths_tag = (TILE_OFFSETS, TILE_LENGTHS) if TILE_WIDTH in fields else (STRIP_OFFSETS, STRIP_LENGTHS)
    if offsets_tag not in fields or lengths_tag not in fields:
        raise ImageError("truncated", "the TIFF file does not say where its pixels are")
    offsets, lengths = fields[offsets_tag].values, fields[lengths_tag].values
    if not len(offsets) == len(lengths) == _count_parts(fields):
        raise ImageError("damaged", "the TIFF file has another number of strips or tiles than its size asks for")
    if any(offset + length > len(content) for offset, length in zip(offsets, lengths, strict=True)):
        raise ImageError("truncated", "pixels of the TIFF file lie outside the file")
    if sum(lengths) > len(content):
        raise ImageError("damaged", "strips or tiles of the TIFF file overlap")
    if _get_one(fields, COMPRESSION, 1) == 1 and sum(lengths) < num_needed:
        raise ImageError("truncated", "the TIFF file has too few data for its size")


def _count_parts(fields: Mapping[int, Field]) -> int:
    """Strips or tiles that a picture of this size has."""
    width, height = _get_one(fields, WIDTH, 0), _get_one(fields, HEIGHT, 0)
    if TILE_WIDTH in fields:
        tile = (_get_one(fields, TILE_WIDTH, 0), _get_one(fields, TILE_HEIGHT, 0))
        check_size(*tile)
        num_parts = -(-width // tile[0]) * -(-height // tile[1])
    else:
        num_rows = _get_one(fields, ROWS_PER_STRIP, height)
        num_parts = -(-height // num_rows) if num_rows else 0
    are_separate = _get_one(fields, PLANES, 1) == 2
    return num_parts * (_get_one(fields, NUM_SAMPLES, 1) if are_separate else 1)
