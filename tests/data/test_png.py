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


def test_pixels_stay_as_they_are(content):
    np.testing.assert_array_equal(read_pixels(png.strip_png(content)), read_pixels(content))


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"tIME", b"fdAT", b"acTL", b"prVt"])
def test_what_makes_no_pixels_is_left_out(content, kind):
    header, *rest = split_chunks(content)
    dressed = join_chunks([header, (kind, b"Doe^Jane 1970-01-01"), *rest])
    stripped = png.strip_png(dressed)
    assert b"Doe^Jane" not in stripped
    assert {chunk for chunk, _ in split_chunks(stripped)} == {b"IHDR", b"IDAT", b"IEND"}


def test_palette_and_transparency_stay(draw, encode):
    image = Image.fromarray(draw(2)).convert("P")
    content = encode(image, transparency=3)
    assert [kind for kind, _ in split_chunks(png.strip_png(content))] == [kind for kind, _ in split_chunks(content)]
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(png.strip_png(content))).convert("RGBA")),
        np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")),
    )


def test_the_size_is_read_from_the_header(content):
    assert png.read_size(png.strip_png(content)) == (9, 10)


@pytest.mark.parametrize("kinds", [[b"IEND"], [b"IDAT", b"IHDR", b"IEND"]])
def test_a_file_that_does_not_begin_with_its_header_is_refused(kinds):
    with pytest.raises(ImageError, match="does not begin with its header") as caught:
        png.read_size(png.strip_png(join_chunks([(kind, b"") for kind in kinds])))
    assert caught.value.reason == "damaged"


def test_stripping_twice_changes_nothing_more(content):
    once = png.strip_png(content)
    assert png.strip_png(once) == once


def test_every_flipped_bit_is_found(content):
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        assert not png.is_sound_png(bytes(damaged)), bit
        with pytest.raises(ImageError):
            png.strip_png(bytes(damaged))


def test_every_early_end_is_found(content):
    for length in range(len(content)):
        assert not png.is_sound_png(content[:length]), length
        with pytest.raises(ImageError) as caught:
            png.strip_png(content[:length])
        assert caught.value.reason == ("truncated" if length >= 8 else "not_an_image")


@pytest.mark.parametrize("appended", [b"\0", b"\n", b"PK\x05\x06" + bytes(18), b"<script>alert(1)</script>"])
def test_what_follows_the_end_is_refused(content, appended):
    """A file that is a picture to one program and something else to another."""
    assert not png.is_sound_png(content + appended)
    with pytest.raises(ImageError, match="goes on after its end") as caught:
        png.strip_png(content + appended)
    assert caught.value.reason == "appended_data"


def test_two_pictures_in_a_row_are_refused(content):
    with pytest.raises(ImageError) as caught:
        png.strip_png(content + content)
    assert caught.value.reason == "appended_data"


def test_a_length_beyond_the_file_is_refused(content):
    lying = content[:8] + b"\xff\xff\xff\xff" + content[12:]
    with pytest.raises(ImageError) as caught:
        png.strip_png(lying)
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("other", [b"", b"\x89PNG", b"GIF89a", b"not a picture at all"])
def test_other_files_are_not_sound(other):
    assert not png.is_sound_png(other)
    with pytest.raises(ImageError) as caught:
        png.strip_png(other)
    assert caught.value.reason == "not_an_image"


def test_a_whole_file_is_sound(content):
    assert png.is_sound_png(content)
    assert png.is_sound_png(png.strip_png(content))
