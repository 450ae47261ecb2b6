"""The numbered bad images, each made of real bytes, and what becomes of it. 38, 51 and 53 stand in `test_trust.py` and
`test_isolation.py`, 52 in `test_dicom.py`."""

import ast
import io
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from hip_mri.errors import ImageError
from hip_mri.images import reading
from hip_mri.images.reading import read_pictures
from hip_mri.images.stored_png import decode_png, encode_png, hash_pixels
from tests.images.image_files import (
    decode_gray,
    draw_noise,
    encode_image,
    insert_chunk,
    insert_segment,
    join_chunks,
    set_tiff_field,
    split_chunks,
    write_crashing_png,
    write_png,
)

PICTURE = draw_noise(1, 40, 36)
PNG, JPEG, TIFF, BMP = (encode_image(PICTURE, kind) for kind in ("PNG", "JPEG", "TIFF", "BMP"))
PROGRESSIVE = encode_image(PICTURE, "JPEG", progressive=True)
FLOAT = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)


def make_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("program.py", "print('hello')")
    return stream.getvalue()


def spoil(values: np.ndarray, value: float) -> bytes:
    spoilt = values.copy()
    spoilt[3, 3] = value
    return cv2.imencode(".tiff", spoilt)[1].tobytes()


def animate(kind: str) -> bytes:
    frames = [Image.fromarray(draw_noise(seed)) for seed in (1, 2, 3)]
    return encode_image(frames[0], kind, save_all=True, append_images=frames[1:])


def add_hot_pixel(picture: np.ndarray) -> np.ndarray:
    spoilt = picture.copy()
    spoilt[5, 5] = 255
    return spoilt


FLAT = np.full((64, 64), 90, np.uint8)
PDF = b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n"
CLEAR = np.dstack([PICTURE, PICTURE, PICTURE, np.zeros_like(PICTURE)])
CLEAR_PALETTE = encode_image(Image.fromarray(PICTURE).convert("P"), transparency=bytes(256))
NO_SCAN = JPEG[: JPEG.index(b"\xff\xda")] + b"\xff\xd9"
SCAN = PROGRESSIVE[PROGRESSIVE.index(b"\xff\xda") : PROGRESSIVE.rindex(b"\xff\xd9")]
FRAME = JPEG.index(b"\xff\xc0")

REFUSED = {
    "fault-35-zero-bytes": (b"", "empty_file"),
    "fault-36-jpeg-without-end": (JPEG[:-2], "truncated"),
    "fault-36-jpeg-cut-in-two": (JPEG[: len(JPEG) // 2], "truncated"),
    "fault-36-jpeg-ended-by-hand": (encode_image(draw_noise(1, 400, 400), "JPEG")[:640] + b"\xff\xd9", "truncated"),
    "fault-37-png-without-end": (PNG[:-12], "undecodable"),
    "fault-37-png-cut-in-two": (PNG[: len(PNG) // 2], "undecodable"),
    "fault-40-windows-program": (b"MZ\x90\0" + bytes(200), "not_an_image"),
    "fault-40-linux-program": (b"\x7fELF\x02\x01\x01" + bytes(200), "not_an_image"),
    "fault-40-script": (b"#!/bin/sh\nexit 1\n", "not_an_image"),
    "fault-40-svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    "fault-40-text": (b"not a picture", "not_an_image"),
    "fault-40-pdf": (PDF, "not_an_image"),
    "fault-40-sound": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(50), "not_an_image"),
    "fault-42-png-header-of-2-62-pixels": (
        write_png(2**31 - 1, 2**31 - 1, zlib.compress(bytes(99))),
        "too_many_pixels",
    ),
    "fault-42-png-of-50-megapixels-in-100-bytes": (write_png(10_000, 5_000, zlib.compress(bytes(99))), "undecodable"),
    "fault-42-jpeg": (JPEG[: FRAME + 5] + b"\xff\xff\xff\xff" + JPEG[FRAME + 9 :], "too_many_pixels"),
    "fault-42-jpeg-of-49-megapixels": (
        JPEG[: FRAME + 5] + struct.pack(">HH", 7000, 7000) + JPEG[FRAME + 9 :],
        "truncated",
    ),
    "fault-42-tiff": (set_tiff_field(TIFF, 256, 2**31 - 1), "too_many_pixels"),
    "fault-42-bmp": (BMP[:18] + struct.pack("<ii", 2**31 - 1, -(2**31)) + BMP[26:], "too_many_pixels"),
    "fault-44-apng": (animate("PNG"), "several_pictures"),
    "fault-44-apng-that-crashes-opencv": (write_crashing_png(), "several_pictures"),
    "fault-44-gif": (animate("GIF"), "several_pictures"),
    "fault-44-webp": (animate("WEBP"), "several_pictures"),
    "fault-46-clear-rgba": (encode_image(CLEAR), "transparent"),
    "fault-46-clear-tiff": (encode_image(CLEAR, "TIFF"), "transparent"),
    "fault-46-clear-gray": (
        encode_image(Image.merge("LA", [Image.fromarray(PICTURE), Image.new("L", (36, 40))])),
        "transparent",
    ),
    "fault-46-clear-palette": (CLEAR_PALETTE, "transparent"),
    "fault-48-nan": (spoil(FLOAT, np.nan), "not_finite"),
    "fault-48-infinity": (spoil(FLOAT, np.inf), "not_finite"),
    "fault-48-minus-infinity-in-doubles": (spoil(FLOAT.astype(np.float64), -np.inf), "not_finite"),
    "fault-49-black": (encode_image(FLAT * 0), "blank"),
    "fault-49-white": (encode_image(FLAT * 0 + 255), "blank"),
    "fault-49-gray-of-16-bits": (encode_image(FLAT.astype(np.uint16) * 200), "blank"),
    "fault-49-one-hot-pixel": (encode_image(add_hot_pixel(FLAT)), "blank"),
    "fault-49-noise-of-one-level": (encode_image(FLAT + draw_noise(1, 64, 64) % 2), "blank"),
    "fault-49-flat-jpeg": (encode_image(FLAT, "JPEG"), "blank"),
    "fault-50-one-pixel": (encode_image(FLAT[:1, :1]), "too_small"),
    "fault-50-seven-rows": (encode_image(PICTURE[:7]), "too_small"),
    "fault-50-a-ruler": (encode_image(draw_noise(1, 8, 81)), "extreme_aspect"),
    "fault-50-a-tall-line": (encode_image(draw_noise(1, 2000, 1)), "too_small"),
    "jpeg-without-a-scan": (NO_SCAN, "truncated"),
    "jpeg-with-two-frames": (insert_segment(JPEG, 0xC0, JPEG[FRAME + 4 : FRAME + 13]), "undecodable"),
    "jpeg-lossless": (JPEG.replace(b"\xff\xc0", b"\xff\xc3"), "undecodable"),
    "jpeg-of-12-bits": (JPEG[: FRAME + 4] + b"\x0c" + JPEG[FRAME + 5 :], "damaged"),
    "jpeg-of-two-colors": (JPEG[: FRAME + 9] + b"\x02" + JPEG[FRAME + 10 :], "damaged"),
    "jpeg-without-size": (JPEG[: FRAME + 5] + bytes(4) + JPEG[FRAME + 9 :], "damaged"),
    "jpeg-with-an-unknown-segment": (insert_segment(JPEG, 0xF3, b"xx"), "undecodable"),
    "jpeg-with-words-between-segments": (JPEG[:2] + b"words" + JPEG[2:], "not_an_image"),
    "tiff-in-lab-colors": (set_tiff_field(TIFF, 262, 8), "unsupported_color"),
    "tiff-with-pixels-outside": (set_tiff_field(TIFF, 273, len(TIFF)), "truncated"),
    "tiff-with-a-directory-outside": (TIFF[:4] + struct.pack("<I", 2**31) + TIFF[8:], "damaged"),
    "tiff-with-an-empty-directory": (TIFF[:8] + bytes(20), "unsupported_color"),
    "bmp-with-run-lengths": (BMP[:30] + b"\x01" + BMP[31:], "undecodable"),
    "bmp-of-7-bits": (BMP[:28] + b"\x07" + BMP[29:], "damaged"),
    "bmp-with-pixels-outside": (BMP[:10] + struct.pack("<I", 2**30) + BMP[14:], "undecodable"),
    "bmp-of-os2": (BMP[:14] + b"\x0c" + BMP[15:], "damaged"),
    "bmp-without-rows": (BMP[:22] + bytes(4) + BMP[26:], "damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trusted_is_refused(name):
    content, reason = REFUSED[name]
    with pytest.raises(ImageError) as caught:
        decode_gray(content)
    assert caught.value.reason == reason


UNTIDY = {
    "tiff-by-fax": encode_image(Image.fromarray(PICTURE > 99), "TIFF", compression="group4"),
    "tiff-of-bits": encode_image(Image.fromarray(PICTURE > 99), "TIFF"),
    "tiff-with-a-wrong-length": set_tiff_field(TIFF, 279, 10),
    "tiff-with-a-wrong-number-of-strips": set_tiff_field(TIFF, 278, 1),
    "tiff-without-rows-per-strip": set_tiff_field(TIFF, 278, 0),
}


@pytest.mark.parametrize("name", UNTIDY)
def test_what_is_only_untidy_is_read(name):
    expected = np.where(PICTURE > 99, 255, 0) if name in ("tiff-by-fax", "tiff-of-bits") else PICTURE
    np.testing.assert_array_equal(decode_gray(UNTIDY[name]), expected)


def test_fault_36_every_truncated_jpeg_is_refused():
    for content in (JPEG, PROGRESSIVE):
        for length in range(len(content)):
            with pytest.raises(ImageError):
                decode_gray(content[:length])


# 39: the name says nothing; magic bytes decide. `decode_gray` never learns a name.


@pytest.mark.parametrize("content", [PNG, JPEG, PROGRESSIVE, BMP, TIFF])
def test_fault_41_a_second_file_behind_a_picture_is_dropped(content):
    for tail in (make_zip(), JPEG, PNG, bytes(3)):
        (picture,) = read_pictures(content + tail)
        np.testing.assert_array_equal(picture.levels, decode_gray(content))


BOMBS = """
import resource, sys, zlib, cv2, numpy as np
from hip_mri.images.reading import read_pictures


def decode_gray(content):
    return read_pictures(content)[0].levels


from hip_mri.errors import ImageError
from tests.images.image_files import insert_chunk, write_png
from tests.images.test_image_faults import PNG, REFUSED
decode_gray(PNG)
squeezed = zlib.compressobj(9)
zeros = b"".join([squeezed.compress(bytes(2**20)) for _ in range(400)] + [squeezed.flush()])
whole = write_png(20_000, 20_000, zeros)
text = insert_chunk(insert_chunk(PNG, b"zTXt", b"Comment\\0\\0" + zeros), b"iCCP", b"profile\\0\\0" + zeros)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode_gray(text)
for content in [whole, *(content for name, (content, _) in REFUSED.items() if "fault-42" in name)]:
    try:
        decode_gray(content)
    except ImageError as error:
        assert error.reason in ("too_many_pixels", "truncated", "undecodable"), error.reason
    else:
        raise AssertionError("was decoded")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_faults_42_and_43_bombs_take_less_than_50_megabytes():
    """400 real megapixels in 400 kB, headers of up to 2^62 pixels, 800 MB of squeezed text and color profile."""
    finished = subprocess.run(
        [sys.executable, "-c", BOMBS], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert finished.returncode == 0, finished.stderr
    assert float(finished.stdout) < 50


def test_fault_43_words_are_dropped_without_being_read():
    dressed = insert_chunk(insert_chunk(PNG, b"zTXt", b"not even deflated"), b"iCCP", b"\xff" * 50)
    np.testing.assert_array_equal(decode_gray(dressed), PICTURE)


def test_fault_44_the_animation_kills_opencv_where_nobody_looks_first(tmp_path):
    """Why animations are refused by their header and decoders run in a sandbox. Later versions may survive it."""
    (tmp_path / "crash.png").write_bytes(write_crashing_png())
    program = "import sys, cv2, numpy as np; cv2.imdecode(np.fromfile(sys.argv[1], np.uint8), -1)"
    died = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "crash.png")], capture_output=True, check=False
    )
    assert died.returncode in (0, 1, -6, -11)


# 45 and 46: what becomes gray


def test_fault_45_twelve_bits_in_sixteen_keep_their_levels():
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for content in (encode_image(values), encode_image(values, "TIFF")):
        decoded = decode_gray(content)
        assert len(np.unique(decoded)) == 256
        assert np.abs(decoded - values / 4095 * 255).max() <= 0.5


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_fault_46_partial_transparency_does_not_darken(kind):
    half = np.dstack([PICTURE, PICTURE, PICTURE, np.full_like(PICTURE, 100)])
    np.testing.assert_array_equal(decode_gray(encode_image(half, kind)), PICTURE)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_fault_46_four_inks_are_read_as_pillow_reads_them(kind):
    color = np.dstack([cv2.GaussianBlur(draw_noise(seed, 40, 36), (5, 5), 0) for seed in (1, 2, 3)])
    content = encode_image(Image.fromarray(color).convert("CMYK"), kind)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB").convert("L")).astype(int)
    assert np.abs(decode_gray(content) - expected).max() <= 3


@pytest.mark.parametrize("values", [PICTURE, PICTURE.astype(np.uint16) * 16])
def test_fault_46_white_is_zero_is_turned_round(values):
    content = encode_image(values, "TIFF")
    np.testing.assert_array_equal(decode_gray(set_tiff_field(content, 262, 0)), 255 - decode_gray(content))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_fault_47_pictures_are_read_as_they_are_shown(kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    smooth = cv2.GaussianBlur(PICTURE, (5, 5), 0)
    for picture in [smooth, smooth.astype(np.uint16) * 100] if kind == "TIFF" else [smooth]:
        options = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif}
        content = encode_image(picture, kind, **options)
        shown = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        expected = decode_gray(encode_image(Image.fromarray(np.asarray(shown))))
        decoded = decode_gray(content)
        assert decoded.shape == expected.shape
        assert np.abs(decoded.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"MM\0*\0\0\0\x08\xff\xff", b"no exif at all"])
def test_fault_47_damaged_exif_says_nothing(exif):
    np.testing.assert_array_equal(decode_gray(insert_chunk(PNG, b"eXIf", exif)), PICTURE)
    np.testing.assert_array_equal(decode_gray(insert_segment(JPEG, 0xE1, b"Exif\0\0" + exif)), decode_gray(JPEG))


# What is stored


@pytest.mark.parametrize("content", [PNG, JPEG, PROGRESSIVE, TIFF, BMP, encode_image(PICTURE.astype(np.uint16) * 9)])
def test_what_is_stored_reads_the_same_for_good(content):
    levels = decode_gray(content)
    stored = encode_png(levels)
    np.testing.assert_array_equal(decode_png(stored), levels)
    np.testing.assert_array_equal(decode_gray(stored), levels)
    assert {kind for kind, _ in split_chunks(stored)} == {b"IHDR", b"IDAT", b"IEND"}


def test_a_picture_has_one_hash_in_whatever_file():
    """Words, packing and format differ; the pixels do not."""
    files = [
        *(encode_image(PICTURE, kind) for kind in ("PNG", "BMP", "TIFF", "GIF", "JPEG2000")),
        encode_image(PICTURE, "TIFF", compression="tiff_lzw"),
        encode_image(PICTURE, compress_level=0),
        encode_image(np.dstack([PICTURE] * 3)),
        encode_image(PICTURE, "WEBP", lossless=True),
        insert_chunk(PNG, b"tEXt", b"Patient\0Canary"),
        PNG + make_zip(),
    ]
    assert len({hash_pixels(decode_gray(content)) for content in files}) == 1


def test_hashes_tell_shapes_and_pixels_apart():
    shapes = [PICTURE, PICTURE.T, PICTURE.reshape(36, 40), PICTURE[::-1], PICTURE[:, ::-1], PICTURE ^ (PICTURE == 99)]
    assert len({hash_pixels(picture) for picture in shapes}) == len(shapes)


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_colors_of_a_jpeg_become_luma(mode):
    color = Image.fromarray(np.dstack([draw_noise(seed, 40, 36) for seed in (1, 2, 3)])).convert(mode)
    content = encode_image(color, "JPEG", quality=95, comment=b"Canary", dpi=(300, 300))
    direct = cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2GRAY)
    assert np.abs(decode_gray(content).astype(int) - direct).max() <= 1


# The table of reasons


def test_every_reason_is_in_the_table():
    table = reading.__doc__ or ""
    listed = set(re.findall(r"^    (\w+)  +\S", table, re.MULTILINE)) - {"reason"}
    raised = set()
    for file in Path(reading.__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            is_error = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ImageError"
            if is_error and isinstance(node.args[0], ast.Constant):
                raised.add(node.args[0].value)
    assert raised <= listed
    assert listed - raised == {"out_of_memory", "contradictory_label"}


def test_a_chunk_that_says_it_is_needed_must_be_known():
    header, *rest = split_chunks(PNG)
    with pytest.raises(ImageError):
        decode_gray(join_chunks([header, (b"NEED", b""), *rest]))
