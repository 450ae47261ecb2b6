import io
import struct
import zlib
from dataclasses import asdict

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pydantic import ValidationError

from hip_mri.config import ImageSettings
from hip_mri.errors import ImageError
from hip_mri.images.decoding_results import ReadingOptions
from hip_mri.images.gray_levels import find_range
from hip_mri.images.reading import read_pictures
from hip_mri.images.stored_png import encode_png
from tests.images.image_files import decode_gray, insert_chunk

quick = settings(max_examples=60, deadline=None, database=None)


def shows_something(picture: np.ndarray) -> bool:
    """Whether no five neighboring levels hold all pixels but one."""
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
    [b"just text", b"<html><body>404</body></html>", b"RIFF\0\0\0\0WAVEfmt ", b"%PDF-1.7",
     bytes(128) + b"DICX" + bytes(50), b"\x89PNG", b"\xff\xd8", b"B", bytes(1000)],
)  # fmt: skip
def test_fault_40_other_kinds_of_files_are_refused(content):
    assert find_reason(content) == "not_an_image"


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG", "JPEG2000", "WEBP", "GIF"])
def test_fault_36_and_37_every_early_end_is_refused(draw, encode, kind):
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
    for position in range(len(content) - 4):  # the checksum of the last chunk, which is empty, says nothing
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
    assert find_reason(write_png(8, 9, b"")) == "undecodable"


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (0, 5, "damaged"),
        (5, 0, "damaged"),
        (10_000, 5_000, "undecodable"),
        (10_000, 5_001, "too_many_pixels"),
        (2**31 - 1, 5, "too_many_pixels"),
        (2**31 - 1, 2**31 - 1, "too_many_pixels"),
    ],
)
def test_impossible_sizes_are_refused_before_memory_is_taken(width, height, reason):
    assert find_reason(write_png(width, height, zlib.compress(bytes(100)))) == reason


def test_too_many_pixels_are_not_even_given_to_the_decoder(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("was decoded"))
    with pytest.raises(ImageError, match="40000 x 40000 pixels, above 50,000,000"):
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


# Formats beside the usual ones, and what is only untidy


@pytest.mark.parametrize(("kind", "options"), [("JPEG2000", {}), ("WEBP", {"lossless": True}), ("GIF", {})])
def test_other_lossless_formats_keep_every_level(draw, encode, kind, options):
    np.testing.assert_array_equal(decode_gray(encode(draw(1), kind, **options)), draw(1))


def test_deep_jpeg_2000_is_read_as_the_same_png(draw, encode):
    values = draw(1).astype(np.uint16) * 16
    np.testing.assert_array_equal(decode_gray(encode(values, "JPEG2000")), decode_gray(encode(values)))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_fault_44_animations_are_refused(draw, encode, kind):
    frames = [Image.fromarray(draw(seed)) for seed in range(3)]
    assert find_reason(encode(frames[0], kind, save_all=True, append_images=frames[1:])) == "several_pictures"


@pytest.mark.parametrize("tail", [b"\n", bytes(512), b"PK\x05\x06" + bytes(18), b"-" * 10_000])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "GIF"])
def test_bytes_behind_the_end_change_nothing(draw, encode, kind, tail):
    content = encode(draw(1), kind)
    np.testing.assert_array_equal(decode_gray(content + tail), decode_gray(content))


def test_a_jpeg_with_previews_is_its_main_picture(draw, encode):
    """As phones write it: Multi-Picture Format, with an index in an APP2 segment and further pictures behind."""
    main, preview = draw(1, 60, 80), draw(2, 30, 40)
    content = encode(Image.fromarray(main), "MPO", save_all=True, append_images=[Image.fromarray(preview)])
    assert decode_gray(content).shape == main.shape


@pytest.mark.parametrize("size", [0, 1, 2**32 - 1])
def test_a_wrong_size_field_of_a_bmp_does_not_matter(draw, encode, size):
    content = bytearray(encode(draw(1), "BMP"))
    content[2:6] = struct.pack("<I", size)
    np.testing.assert_array_equal(decode_gray(bytes(content)), draw(1))


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"tIME", b"prVt", b"gAMA"])
def test_a_wrong_checksum_beside_the_pixels_does_not_matter(draw, encode, kind):
    content = bytearray(insert_chunk(encode(draw(1)), kind, b"Doe^Jane\0" + bytes(7)))
    place = content.index(kind)
    content[place + 5] ^= 1
    np.testing.assert_array_equal(decode_gray(bytes(content)), draw(1))


def test_a_pointer_of_git_lfs_says_how_to_get_the_file():
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    with pytest.raises(ImageError, match="git lfs pull") as caught:
        decode_gray(pointer)
    assert caught.value.reason == "git_lfs_pointer"


# Several pages


def write_pages(*pages: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    images = [Image.fromarray(page) for page in pages]
    images[0].save(stream, "TIFF", save_all=True, append_images=images[1:], **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("slices", "expected"),
    [("all", [0, 1, 2, 3, 4, 5, 6]), ("middle", [3]), ("every:3", [0, 3, 6]), ("every:100", [0])],
)
def test_fault_44_pages_are_slices(draw, slices, expected):
    content = write_pages(*(draw(seed) for seed in range(7)))
    pictures = read_pictures(content, ReadingOptions(slices=slices))
    assert [(it.slice, it.num_slices) for it in pictures] == [(number, 7) for number in expected]
    for picture in pictures:
        np.testing.assert_array_equal(picture.levels, draw(picture.slice))


def test_deep_pages_share_a_range(draw):
    """A dark slice stays dark beside a bright one."""
    dark, bright = draw(1).astype(np.uint16), draw(2).astype(np.uint16) * 200
    first, second = read_pictures(write_pages(dark, bright))
    assert first.reason == "blank"
    assert second.levels.max() == 255


def test_blank_pages_are_named_and_the_others_used(draw):
    pages = [np.zeros((24, 20), np.uint8), draw(1), np.zeros((24, 20), np.uint8)]
    assert [it.reason for it in read_pictures(write_pages(*pages))] == ["blank", "", "blank"]
    assert find_reason(write_pages(pages[0], pages[2])) == "blank"


def test_too_many_slices_are_refused(draw):
    content = write_pages(*(draw(seed) for seed in range(5)))
    with pytest.raises(ImageError, match=r"5 of the 5 .*above 4") as caught:
        read_pictures(content, ReadingOptions(max_slices=4))
    assert caught.value.reason == "too_many_slices"
    assert len(read_pictures(content, ReadingOptions(max_slices=4, slices="every:2"))) == 3


def test_decoders_know_every_setting():
    assert asdict(ReadingOptions()) == ImageSettings().model_dump()


@pytest.mark.parametrize("slices", ["none", "every:0", "every:", "every:-1", "every:1.5", "ALL"])
def test_other_ways_to_take_slices_are_refused(slices):
    with pytest.raises(ValidationError, match="slices"):
        ImageSettings(slices=slices)


# The range of more than 8 bits


@pytest.mark.parametrize("marker", [65535, 30_000])
@pytest.mark.parametrize("size", [1, 2, 8, 24])
def test_fault_45_a_marker_does_not_take_the_range(marker, size):
    """Burned-in text or a marker far above the anatomy; at most a seventh of the picture."""
    generator = np.random.default_rng(1)
    anatomy = np.clip(generator.normal(1800, 700, (64, 64)), 0, 4095).astype(np.uint16)
    marked = anatomy.copy()
    marked[:size, :size] = marker
    levels = decode_gray(cv2.imencode(".png", marked)[1].tobytes())
    assert len(np.unique(levels[size:, size:])) > 180
    assert (levels[:size, :size] == 255).all()
    plain = decode_gray(cv2.imencode(".png", anatomy)[1].tobytes())
    assert np.corrcoef(plain[size:, size:].ravel(), levels[size:, size:].ravel())[0, 1] > 0.999


def test_undeclared_padding_far_below_does_not_take_the_range():
    values = np.random.default_rng(1).integers(-500, 1500, (64, 64)).astype(np.int16)
    values[:40] = -32768
    levels = decode_gray(cv2.imencode(".tiff", values)[1].tobytes())
    assert (levels[:40] == 0).all()
    assert len(np.unique(levels[40:])) > 200


def test_a_small_bright_lesion_is_not_clipped():
    """Twice as bright as all around it, a thousandth of the picture: no outlier."""
    values = np.random.default_rng(1).integers(0, 2000, (100, 100)).astype(np.uint16)
    values[50, 50:60] = np.arange(2500, 3500, 100)
    levels = decode_gray(cv2.imencode(".png", values)[1].tobytes())
    assert len(np.unique(levels[50, 50:60])) == 10


@quick
@given(hnp.arrays(np.uint16, (12, 12)))
def test_the_range_keeps_the_order_of_values(values):
    low, high = find_range([values])
    assert values.min() <= low <= high <= values.max()
