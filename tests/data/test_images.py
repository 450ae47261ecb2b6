import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from hip_mri.data.images import decode_gray, encode_png
from hip_mri.errors import ImageError

quick = settings(max_examples=60, deadline=None, database=None)


def shows_something(picture: np.ndarray) -> bool:
    """Whether no five neighbouring levels hold all pixels but one."""
    levels = np.sort(picture.ravel()).astype(int)
    return bool(levels[-2] - levels[0] >= 5 and levels[-1] - levels[1] >= 5)


def find_reason(content: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_gray(content)
    assert str(caught.value)
    return caught.value.reason


# What is read


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})]
)
def test_lossless_gray_files_keep_every_level(draw, encode, kind, options):
    picture = draw(1)
    decoded = decode_gray(encode(picture, kind, **options))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, picture)


@quick
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=8, max_side=40)))
def test_what_is_encoded_is_decoded_again(picture):
    assume(shows_something(picture))
    np.testing.assert_array_equal(decode_gray(encode_png(picture)), picture)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_jpeg_is_read_as_pillow_reads_it(draw, encode, options):
    content = encode(cv2.GaussianBlur(draw(1, 40, 60), (5, 5), 0), "JPEG", quality=95, **options)
    assert np.abs(decode_gray(content).astype(int) - read_with_pillow(content)).max() <= 2


def read_with_pillow(content: bytes) -> np.ndarray:
    import io

    return np.asarray(Image.open(io.BytesIO(content)).convert("L")).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_color_becomes_luma(draw, encode, kind):
    red, green, blue = (draw(seed) for seed in (1, 2, 3))
    decoded = decode_gray(encode(np.dstack([red, green, blue]), kind))
    assert np.abs(decoded - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 0.51


def test_an_alpha_channel_is_dropped(draw, encode):
    gray, alpha = draw(1), draw(2)
    np.testing.assert_array_equal(
        decode_gray(encode(Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)]))), gray
    )
    np.testing.assert_array_equal(decode_gray(encode(np.dstack([gray, gray, gray, alpha]))), gray)


def test_a_palette_is_looked_up(draw, encode):
    gray = draw(1)
    image = Image.fromarray(gray)
    image.putpalette([level for level in range(255, -1, -1) for _ in range(3)])
    np.testing.assert_array_equal(decode_gray(encode(image)), 255 - gray)


def test_one_bit_becomes_black_and_white(draw, encode):
    bits = draw(1) > 120
    np.testing.assert_array_equal(decode_gray(encode(Image.fromarray(bits))), np.where(bits, 255, 0))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_twelve_bit_data_in_sixteen_bits_keep_their_contrast(encode, kind):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    decoded = decode_gray(encode(values, kind))
    assert len(np.unique(decoded)) > 200
    assert (decoded[0, 0], decoded[-1, -1]) == (0, 255)
    assert (np.diff(decoded.astype(int).ravel()) >= 0).all()
    assert np.abs(decoded.astype(float) - values / 4095 * 255).max() <= 0.5


@quick
@given(hnp.arrays(np.uint16, (8, 9)))
def test_sixteen_bits_are_stretched_in_order_from_black_to_white(values):
    assume(values.min() < values.max())
    decoded = decode_gray(cv2.imencode(".png", values)[1].tobytes())
    order = np.argsort(values, axis=None, kind="stable")
    assert (np.diff(decoded.ravel()[order].astype(int)) >= 0).all()
    assert (decoded.min(), decoded.max()) == (0, 255)


def test_sixteen_bit_color_becomes_stretched_luma(draw):
    levels = np.dstack([draw(seed).astype(np.uint16) * 16 for seed in (1, 2, 3)])  # blue, green, red
    decoded = decode_gray(cv2.imencode(".png", levels)[1].tobytes())
    luma = levels @ [0.114, 0.587, 0.299]
    assert np.abs(decoded - (luma - luma.min()) / (luma.max() - luma.min()) * 255).max() <= 1


@pytest.mark.parametrize("depth", [np.int8, np.int16, np.int32, np.float32, np.float64])
def test_signed_and_floating_values_are_stretched(draw, depth):
    values = (draw(1).astype(float) / 2 - 60).astype(depth)
    decoded = decode_gray(cv2.imencode(".tiff", values)[1].tobytes())
    exact = (values - values.min().astype(float)) / (float(values.max()) - float(values.min())) * 255
    assert np.abs(decoded - exact).max() <= 0.51


@pytest.mark.parametrize("depth", [np.int8, np.int16, np.int32, np.float64])
def test_color_of_unusual_depth_becomes_stretched_luma(draw, depth):
    values = np.dstack([draw(seed) // 2 for seed in (1, 2, 3)]).astype(depth)  # blue, green, red
    decoded = decode_gray(cv2.imencode(".tiff", values)[1].tobytes())
    luma = values @ [0.114, 0.587, 0.299]
    assert decoded.dtype == np.uint8
    assert np.abs(decoded - (luma - luma.min()) / (luma.max() - luma.min()) * 255).max() <= 0.51


@pytest.mark.parametrize(("low", "high"), [(-1.7e308, 1.7e308), (0, 1.7e308), (0, 5e-324), (-5e-324, 5e-324)])
def test_values_at_the_ends_of_floating_point_are_stretched(draw, low, high):
    is_bright = draw(1) > 120
    decoded = decode_gray(cv2.imencode(".tiff", np.where(is_bright, high, low))[1].tobytes())
    np.testing.assert_array_equal(decoded, np.where(is_bright, 255, 0))


# What is refused


def test_an_empty_file_is_refused():
    assert find_reason(b"") == "empty_file"


@pytest.mark.parametrize(
    "content",
    [b"just text", b"<html><body>404</body></html>", b"GIF89a" + bytes(50), b"RIFF\0\0\0\0WEBPVP8 ", b"%PDF-1.7",
     bytes(128) + b"DICX" + bytes(50), b"\x89PNG", b"\xff\xd8", b"B", bytes(1000)],
)  # fmt: skip
def test_other_kinds_of_files_are_refused(content):
    with pytest.raises(ImageError, match="the content is none of BMP, DICOM, JPEG, PNG, TIFF") as caught:
        decode_gray(content)
    assert caught.value.reason == "not_an_image"


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG"])
def test_every_early_end_is_refused(draw, encode, kind):
    content = encode(draw(1, 12, 10), kind)
    decode_gray(content)
    for length in range(len(content)):
        with pytest.raises(ImageError):
            decode_gray(content[:length])


@pytest.mark.parametrize(("kind", "stride"), [("JPEG", 7), ("TIFF", 11), ("BMP", 23)])
def test_flipped_bits_never_stop_a_batch(draw, encode, kind, stride):
    """Formats without checksums may read on; whatever comes is a picture or an `ImageError`."""
    content = encode(draw(1, 12, 10), kind)
    for bit in range(0, 8 * len(content), stride):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        try:
            decoded = decode_gray(bytes(damaged))
        except ImageError:
            continue
        assert (decoded.dtype, decoded.ndim) == (np.uint8, 2)


@quick
@given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\x00", b"MM\x00*"]), st.binary(max_size=200))
def test_noise_after_the_right_beginning_is_refused(magic, noise):
    with pytest.raises(ImageError):
        decode_gray(magic + noise)


def test_flipped_bits_in_a_png_are_refused(draw, encode):
    content = encode(draw(1, 12, 10))
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(ImageError):
            decode_gray(bytes(damaged))


def write_png(width: int, height: int, data: bytes, depth: int = 8) -> bytes:
    """A gray PNG file with right checksums, whatever it says."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def test_pixels_that_do_not_fill_the_picture_are_refused():
    rows = b"".join(b"\0" + bytes(range(8)) for _ in range(9))
    decode_gray(write_png(8, 9, zlib.compress(rows)))
    assert find_reason(write_png(8, 10, zlib.compress(rows))) == "undecodable"
    assert find_reason(write_png(8, 9, zlib.compress(rows)[:-6])) == "undecodable"
    assert find_reason(write_png(8, 9, b"")) == "truncated"


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (0, 5, "damaged"),
        (5, 0, "damaged"),
        (10_000, 5_000, "truncated"),
        (10_000, 5_001, "too_many_pixels"),
        (2**31 - 1, 5, "too_many_pixels"),
        (2**31 - 1, 2**31 - 1, "too_many_pixels"),
    ],
)
def test_impossible_sizes_are_refused_before_memory_is_taken(width, height, reason):
    assert find_reason(write_png(width, height, zlib.compress(bytes(100)))) == reason


def test_too_many_pixels_are_not_even_given_to_the_decoder(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("was decoded"))
    with pytest.raises(ImageError, match=r"^the image has 40000 x 40000 pixels, above 50,000,000$"):
        decode_gray(write_png(40_000, 40_000, zlib.compress(bytes(100))))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_of_one_gray_level_is_refused(encode, value):
    assert find_reason(encode(np.full((9, 9), value, np.uint8))) == "blank"
    assert find_reason(encode(np.full((9, 9), value * 200, np.uint16))) == "blank"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(value):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    values[3, 3] = value
    assert find_reason(cv2.imencode(".tiff", values)[1].tobytes()) == "not_finite"


def test_a_png_with_a_program_behind_it_is_refused(draw, encode):
    assert find_reason(encode(draw(1)) + b"PK\x05\x06" + bytes(18)) == "appended_data"
