import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from hip_mri.data import png
from hip_mri.errors import ImageError


@pytest.fixture(scope="module")
def content(draw, encode) -> bytes:
    """A small PNG file with a text chunk."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "Doe^Jane")
    return encode(draw(1, 10, 9), pnginfo=text)


def split_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Type and data of each chunk; written here anew."""
    chunks, start = [], 8
    while start < len(content):
        (length,) = struct.unpack_from(">I", content, start)
        chunks.append((content[start + 4 : start + 8], content[start + 8 : start + 8 + length]))
        start += 12 + length
    return chunks


def join_chunks(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def read_pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def strip(content: bytes) -> bytes:
    return png.examine_png(content).content


def test_pixels_stay_as_they_are(content):
    np.testing.assert_array_equal(read_pixels(strip(content)), read_pixels(content))


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"tIME", b"prVt"])
def test_what_makes_no_pixels_is_left_out(content, kind):
    header, *rest = split_chunks(content)
    dressed = join_chunks([header, (kind, b"Doe^Jane 1970-01-01"), *rest])
    stripped = strip(dressed)
    assert b"Doe^Jane" not in stripped
    assert {chunk for chunk, _ in split_chunks(stripped)} == {b"IHDR", b"IDAT", b"IEND"}


def test_palette_and_transparency_stay(draw, encode):
    image = Image.fromarray(draw(2)).convert("P")
    content = encode(image, transparency=3)
    assert [kind for kind, _ in split_chunks(strip(content))] == [kind for kind, _ in split_chunks(content)]
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(strip(content))).convert("RGBA")),
        np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")),
    )


CHUNKS = {
    "header": b"IHDR",
    "palette": b"PLTE",
    "transparency": b"tRNS",
    "data": b"IDAT",
    "text": b"tEXt",
    "end": b"IEND",
    "animation": b"acTL",
    "needed": b"NeEd",
    "frame": b"fdAT",
}


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ("end", "damaged"),
        ("data header end", "damaged"),
        ("header header data end", "damaged"),
        ("header end", "truncated"),
        ("header data text data end", "damaged"),
        ("header data palette end", "damaged"),
        ("header palette palette data end", "damaged"),
        ("header transparency palette data end", "damaged"),
        ("header needed data end", "damaged"),
        ("header animation data end", "several_pictures"),
        ("header data frame end", "several_pictures"),
        ("header data", "truncated"),
        ("header palette transparency text data data text end", None),
    ],
)
def test_chunks_out_of_order_are_refused(order, reason):
    image = Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).convert("P")
    image.putpalette([level for level in range(256) for _ in range(3)])
    stream = io.BytesIO()
    image.save(stream, "PNG")
    parts = dict(split_chunks(stream.getvalue())) | {b"tRNS": b"\xff", b"tEXt": b"Comment\0no"}
    names = order.split()
    chunks = [(CHUNKS[name], parts.get(CHUNKS[name], b"")) for name in names]
    if reason is None:
        kept = [CHUNKS[name] for name in names if name != "text"]
        assert [kind for kind, _ in split_chunks(strip(join_chunks(chunks)))] == kept
        return
    with pytest.raises(ImageError) as caught:
        strip(join_chunks(chunks))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "header",
    [
        struct.pack(">IIBBBBB", 9, 10, 3, 0, 0, 0, 0),  # three bits
        struct.pack(">IIBBBBB", 9, 10, 8, 1, 0, 0, 0),  # color of an unknown type
        struct.pack(">IIBBBBB", 9, 10, 16, 3, 0, 0, 0),  # a palette of 65,536 colors
        struct.pack(">IIBBBBB", 9, 10, 8, 3, 0, 0, 0),  # a palette that is not there
        struct.pack(">IIBBBBB", 9, 10, 8, 0, 1, 0, 0),  # another compression
        struct.pack(">IIBBBBB", 9, 10, 8, 0, 0, 0, 2),  # another order of rows
        struct.pack(">IIBBBBB", 0, 10, 8, 0, 0, 0, 0),  # no width
        struct.pack(">IIBBBB", 9, 10, 8, 0, 0, 0),  # too short
    ],
)
def test_impossible_headers_are_refused(content, header):
    _, *rest = split_chunks(content)
    with pytest.raises(ImageError) as caught:
        strip(join_chunks([(b"IHDR", header), *rest]))
    assert caught.value.reason == "damaged"


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (3, 70_000), (256, 255), (257, 300)])
def test_a_plain_file_is_a_bare_png_of_the_same_levels(shape):
    levels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    plain = png.write_plain_png(levels)
    np.testing.assert_array_equal(read_pixels(plain), levels)
    assert png.examine_png(plain) == png.Structure(plain, is_bare=True)


def test_a_plain_file_is_the_same_everywhere():
    """The SHA-256 names an image; it must not depend on a version of zlib or OpenCV."""
    plain = png.write_plain_png(np.arange(64, dtype=np.uint8).reshape(8, 8))
    assert hashlib.sha256(plain).hexdigest() == "b0eb4945328da0f6a155a9246905713af8277632e60ed7ee9bca9bcdf82977de"


def test_stripping_twice_changes_nothing_more(content):
    once = strip(content)
    assert strip(once) == once


def test_every_flipped_bit_is_found(content):
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        assert not png.is_sound_png(bytes(damaged)), bit
        with pytest.raises(ImageError):
            strip(bytes(damaged))


def test_every_early_end_is_found(content):
    for length in range(len(content)):
        assert not png.is_sound_png(content[:length]), length
        with pytest.raises(ImageError) as caught:
            strip(content[:length])
        assert caught.value.reason == ("truncated" if length >= 8 else "not_an_image")


@pytest.mark.parametrize("appended", [b"\0", b"\n", b"PK\x05\x06" + bytes(18), b"<script>alert(1)</script>"])
def test_what_follows_the_end_is_refused(content, appended):
    """A file that is a picture to one program and something else to another."""
    assert not png.is_sound_png(content + appended)
    with pytest.raises(ImageError, match="goes on after its end") as caught:
        strip(content + appended)
    assert caught.value.reason == "appended_data"


def test_two_pictures_in_a_row_are_refused(content):
    with pytest.raises(ImageError) as caught:
        strip(content + content)
    assert caught.value.reason == "appended_data"


def test_a_length_beyond_the_file_is_refused(content):
    lying = content[:8] + b"\xff\xff\xff\xff" + content[12:]
    with pytest.raises(ImageError) as caught:
        strip(lying)
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("other", [b"", b"\x89PNG", b"GIF89a", b"not a picture at all"])
def test_other_files_are_not_sound(other):
    assert not png.is_sound_png(other)
    with pytest.raises(ImageError) as caught:
        strip(other)
    assert caught.value.reason == "not_an_image"


def test_a_whole_file_is_sound(content):
    assert png.is_sound_png(content)
    assert png.is_sound_png(strip(content))
