"""Fault 42: TIFF files whose fields lie beside what they should hold, so that a decoder would see another picture."""

import struct

import cv2
import numpy as np
import pytest

from hip_mri.data import tiff
from hip_mri.data.images import decode_gray
from hip_mri.data.tiff import examine_tiff
from hip_mri.errors import ImageError
from tests.data.image_files import draw_noise, encode_image

SHORT, LONG, RATIONAL, SIGNED_SHORT, SIGNED_LONG = 3, 4, 5, 8, 9
WIDTH, HEIGHT = 20, 24
DIRECTORY = 8
PICTURE = draw_noise(1, HEIGHT, WIDTH)

Fields = dict[int, tuple[int, int, int]]
"""Type, number of values, and the value or the place of the values, by tag."""


def list_fields() -> Fields:
    """Fields of a gray picture, with an orientation and no data of their own elsewhere."""
    fields: Fields = {
        tiff.WIDTH: (LONG, 1, WIDTH),
        tiff.HEIGHT: (LONG, 1, HEIGHT),
        tiff.DEPTH: (SHORT, 1, 8),
        tiff.COMPRESSION: (SHORT, 1, 1),
        tiff.PHOTOMETRIC: (SHORT, 1, 1),
        tiff.STRIP_OFFSETS: (LONG, 1, 0),
        tiff.ORIENTATION: (SHORT, 1, 1),
        tiff.NUM_SAMPLES: (SHORT, 1, 1),
        tiff.ROWS_PER_STRIP: (LONG, 1, HEIGHT),
        tiff.STRIP_LENGTHS: (LONG, 1, WIDTH * HEIGHT),
        tiff.PLANES: (SHORT, 1, 1),
    }
    return fields


def write_tiff(changes: Fields, order: str = "<", tail: bytes = b"") -> bytes:
    """A TIFF file of these fields, its pixels behind them, then `tail`."""
    fields = list_fields() | changes
    pixels = DIRECTORY + 2 + 12 * len(fields) + 4
    if tiff.STRIP_OFFSETS not in changes:
        fields[tiff.STRIP_OFFSETS] = (LONG, 1, pixels)
    content = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", DIRECTORY, len(fields))
    for tag, (kind, count, value) in sorted(fields.items()):
        content += struct.pack(order + "HHI", tag, kind, count)
        content += (
            struct.pack(order + "HH", value, 0) if (kind, count) == (SHORT, 1) else struct.pack(order + "I", value)
        )
    return content + bytes(4) + PICTURE.tobytes() + tail


def find_value(tag: int, changes: Fields) -> int:
    """Where the value of a field stands in `write_tiff`."""
    return DIRECTORY + 2 + 12 * sorted(list_fields() | changes).index(tag) + 8


def find_reason(content: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        examine_tiff(content)
    return caught.value.reason


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_sound_file_is_read(order, orientation):
    content = write_tiff({tiff.ORIENTATION: (SHORT, 1, orientation)}, order)
    found = examine_tiff(content)
    assert found.orientation == orientation
    assert found.content == write_tiff({tiff.ORIENTATION: (SHORT, 1, 1)}, order)
    assert decode_gray(content).size == PICTURE.size


@pytest.mark.parametrize("target", [tiff.WIDTH, tiff.HEIGHT, tiff.STRIP_OFFSETS, tiff.ROWS_PER_STRIP])
@pytest.mark.parametrize("order", "<>")
def test_fault_42_the_orientation_cannot_be_made_to_write_over_another_field(order, target):
    """It did: what was checked as 10 x 4000 pixels was decoded as 65,546 x 4000."""
    place = find_value(target, {}) + 2
    assert find_reason(write_tiff({tiff.ORIENTATION: (SHORT, 3, place)}, order)) == "damaged"


@pytest.mark.parametrize("target", [tiff.WIDTH, tiff.HEIGHT])
def test_fault_42_nor_can_the_alpha_channels(target):
    changes: Fields = {tiff.EXTRA_SAMPLES: (SHORT, 3, 0)}
    changes = {tiff.EXTRA_SAMPLES: (SHORT, 3, find_value(target, changes) + 2)}
    assert find_reason(write_tiff(changes)) == "unsupported_color"


def test_fault_42_values_that_lie_in_the_orientation_are_refused():
    """The place of the first strip would be another after the orientation was set to the plain one."""
    changes: Fields = {tiff.STRIP_OFFSETS: (SHORT, 3, 0), tiff.STRIP_LENGTHS: (LONG, 3, 0)}
    changes |= {tiff.ROWS_PER_STRIP: (LONG, 1, HEIGHT // 3), tiff.ORIENTATION: (SHORT, 1, 8)}
    end = len(write_tiff(changes))
    changes[tiff.STRIP_OFFSETS] = (SHORT, 3, find_value(tiff.ORIENTATION, changes))
    changes[tiff.STRIP_LENGTHS] = (LONG, 3, end)
    content = write_tiff(changes, tail=struct.pack("<3I", *[WIDTH * HEIGHT // 3] * 3))
    assert find_reason(content) == "damaged"
    plain = write_tiff(changes | {tiff.ORIENTATION: (SHORT, 1, 1)}, tail=content[end:])
    assert examine_tiff(plain).content == plain  # nothing is written over, so nothing changes


@pytest.mark.parametrize("count", [0, 2, 3, 1000])
@pytest.mark.parametrize("tag", sorted(tiff._SINGLE))
def test_a_field_of_one_value_has_one(tag, count):
    kind = SHORT if tag in (tiff.COMPRESSION, tiff.PHOTOMETRIC, tiff.NUM_SAMPLES, tiff.PLANES) else LONG
    tail = bytes([1, 0, 0, 0]) * 1000
    place = len(write_tiff({tag: (kind, count, 0)}))
    assert find_reason(write_tiff({tag: (kind, count, place)}, tail=tail)) == "damaged"


@pytest.mark.parametrize("kind", [RATIONAL, SIGNED_SHORT, SIGNED_LONG, 11, 16, 200])
@pytest.mark.parametrize("tag", [tiff.COMPRESSION, tiff.NUM_SAMPLES, tiff.PLANES, tiff.ORIENTATION, tiff.DEPTH])
def test_a_number_of_another_kind_is_not_taken_for_a_missing_one(tag, kind):
    """A decoder can read a compression that is a signed number, which was checked as if there were none."""
    assert find_reason(write_tiff({tag: (kind, 1, 7)}, tail=bytes(8))) == "damaged"


def test_what_is_checked_is_what_is_decoded():
    """Every byte of the directory, changed in three ways: the decoder never sees another size than was checked."""
    content = bytearray(encode_image(np.dstack([PICTURE] * 4), "TIFF"))
    (start,) = struct.unpack_from("<I", content, 4)
    (num_fields,) = struct.unpack_from("<H", content, start)
    num_accepted = 0
    for place in range(start, start + 2 + 12 * num_fields + 4):
        for change in (1, 2, 0x80):
            changed = bytearray(content)
            changed[place] ^= change
            try:
                found = examine_tiff(bytes(changed))
            except ImageError:
                continue
            num_accepted += 1
            fields, _ = tiff._read_directory(found.content, "<", 4)
            decoded = cv2.imdecode(np.frombuffer(found.content, np.uint8), cv2.IMREAD_UNCHANGED)
            if decoded is not None:
                assert decoded.shape[:2] == (fields[tiff.HEIGHT].values[0], fields[tiff.WIDTH].values[0])
    assert num_accepted
