"""Valid images of every kind, none of which may be quarantined.

python -m tests.faults.clean_images --num-images 10000
"""

import argparse
import gzip
import io
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

import cv2
import nibabel
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from hip_mri.errors import ImageError
from hip_mri.images.sandbox import Sandbox
from tests.images.dicom_files import (
    SYNTAXES,
    compress_lossily,
    compress_losslessly,
    write_dicom,
    write_enhanced,
    write_rle,
)


def draw_slice(generator: Generator, *, deepest: int = 255) -> NDArray[np.float64]:
    """A bright disc with texture on a dark ground, as in a slice, 0 to `deepest`."""
    height, width = (int(side) for side in generator.integers(16, 160, 2))
    width = min(max(width, height // 8 + 1), 8 * height)
    rows, columns = np.mgrid[:height, :width]
    disc = np.hypot((rows - height / 2) / height, (columns - width / 2) / width) < generator.uniform(0.2, 0.5)
    levels = disc * generator.uniform(0.3, 0.7) + generator.normal(0.1, 0.05, (height, width))
    return np.clip(levels, 0, 1) * deepest


def draw_color(generator: Generator) -> NDArray[np.uint8]:
    gray = draw_slice(generator)
    tints = generator.uniform(0.3, 1, 3)
    return np.dstack([gray * tint for tint in tints]).astype(np.uint8)


def encode(image: NDArray | Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(stream, kind, **options)
    return stream.getvalue()


def choose(generator: Generator, *values: object) -> object:
    return values[generator.integers(len(values))]


def make_gray(generator: Generator) -> NDArray[np.uint8]:
    return draw_slice(generator).astype(np.uint8)


def make_deep(generator: Generator) -> NDArray[np.uint16]:
    return draw_slice(generator, deepest=int(choose(generator, 1023, 4095, 16_383, 65_535))).astype(np.uint16)


def make_exif(generator: Generator) -> Image.Exif:
    exif = Image.Exif()
    exif[274], exif[271] = int(generator.integers(1, 9)), "maker"
    return exif


def make_png_mode(generator: Generator) -> bytes:
    """Gray with alpha, palette, transparent palette, one bit, or interlaced by OpenCV's strategies."""
    gray = Image.fromarray(make_gray(generator))
    mode = choose(generator, "LA", "P", "1", "RGBA", "words")
    if mode == "LA":
        return encode(Image.merge("LA", [gray, gray.point(lambda level: 255 - level // 2)]), "PNG")
    if mode == "P":
        options = {"transparency": 3} if generator.random() < 0.5 else {}
        return encode(gray.convert("P"), "PNG", **options)
    if mode == "words":
        words = PngImagePlugin.PngInfo()
        words.add_text("Comment", "exported", zip=bool(generator.integers(2)))
        return encode(gray, "PNG", pnginfo=words, exif=make_exif(generator), dpi=(72, 72), icc_profile=b"profile" * 9)
    return encode(gray.convert(str(mode)), "PNG")


def make_jpeg(generator: Generator) -> bytes:
    color = Image.fromarray(draw_color(generator)).convert(str(choose(generator, "RGB", "L", "CMYK")))
    options = {"quality": int(generator.integers(40, 100)), "progressive": bool(generator.integers(2))}
    options |= {"subsampling": int(generator.integers(3))} if color.mode == "RGB" else {}
    options |= {"exif": make_exif(generator), "comment": b"a word"} if generator.random() < 0.3 else {}
    options |= {"restart_marker_rows": 1} if generator.random() < 0.3 else {}
    return encode(color, "JPEG", **options) + bytes(int(generator.integers(2)))


def make_tiff(generator: Generator) -> bytes:
    picture = choose(generator, make_gray, make_deep, draw_color)(generator)
    compression = choose(generator, None, "tiff_lzw", "tiff_adobe_deflate", "packbits")
    tags = {274: int(generator.integers(1, 9))} if generator.random() < 0.3 else {}
    return encode(picture, "TIFF", compression=compression, tiffinfo=tags)


def make_odd_tiff(generator: Generator) -> bytes:
    """Floating point, signed, one bit, alpha, four inks, or written by OpenCV."""
    kind = choose(generator, "float", "signed", "double", "1", "CMYK", "RGBA", "strips")
    levels = draw_slice(generator)
    if kind in ("1", "CMYK", "RGBA"):
        return encode(Image.fromarray(levels.astype(np.uint8)).convert("RGB").convert(str(kind)), "TIFF")
    depths = {"float": np.float32, "double": np.float64, "signed": np.int16, "strips": np.uint8}
    options = [cv2.IMWRITE_TIFF_ROWSPERSTRIP, 7] if kind == "strips" else []
    return cv2.imencode(".tiff", (levels - (40 if kind != "strips" else 0)).astype(depths[str(kind)]), options)[
        1
    ].tobytes()


def make_bmp(generator: Generator) -> bytes:
    mode = str(choose(generator, "L", "RGB", "RGBA", "P", "1"))
    return encode(Image.fromarray(make_gray(generator)).convert(mode), "BMP")


def make_dicom(generator: Generator) -> bytes:
    depth = choose(generator, np.uint8, np.uint16, np.int16)
    values = draw_slice(generator, deepest=255 if depth == np.uint8 else 4095).astype(depth)
    tags: dict[str, object] = {"PatientID": f"{generator.integers(1000)}", "PatientName": "Doe^Jane"}
    if generator.random() < 0.5:
        tags |= {"WindowCenter": 0.4 * float(values.max()), "WindowWidth": 0.9 * float(values.max())}
    if generator.random() < 0.3:
        tags |= {"RescaleSlope": 2, "RescaleIntercept": 0, "PhotometricInterpretation": "MONOCHROME1"}
    if generator.random() < 0.2:
        return write_rle(values, **tags)
    if generator.random() < 0.1:
        return write_dicom(draw_color(generator))
    return write_dicom(values, str(choose(generator, *SYNTAXES)), **tags)


def make_untidy_dicom(generator: Generator) -> bytes:
    """As scanners and archives write it: any preamble, none, padding, windows of maps, left-justified, compressed."""
    values = draw_slice(generator, deepest=4095).astype(np.uint16)
    twelve = {"BitsStored": 12, "HighBit": 11}
    bare = write_dicom(values)
    files = {
        "preamble": write_dicom(values, preamble=b"II*\0\x10\0\0\0"),
        "bare": bare[bare.index(b"\x08\0\x16\0", 132) :],
        "padding": write_dicom(values, PixelData=values.tobytes() + bytes(2 * int(generator.integers(1, 9)))),
        "map": write_dicom(values, RescaleSlope="0.0005", RescaleIntercept="0", WindowCenter="0.8", WindowWidth="0.9"),
        "left-justified": write_dicom(values << 4, BitsStored=12, HighBit=15),
        "frames": write_enhanced([values, values // 2], [{}, {}], **twelve),
    }
    files |= compress_losslessly(values) | compress_lossily(values)
    return files[list(files)[generator.integers(len(files))]]


def make_nifti(generator: Generator) -> bytes:
    depth = choose(generator, np.uint8, np.int16, np.uint16, np.float32)
    slices = draw_slice(generator, deepest=255 if depth == np.uint8 else 4095)
    volume = np.stack([slices, slices * 0.9, slices * 0.8], axis=-1).astype(depth)
    content = nibabel.Nifti1Image(volume, np.diag([0.8, 0.8, 4, 1])).to_bytes()
    return gzip.compress(content) if generator.random() < 0.5 else content


def make_other(generator: Generator) -> bytes:
    """JPEG 2000, WebP, still GIF, a stack of pages, or a file with bytes behind its end."""
    kind = str(choose(generator, "JPEG2000", "WEBP", "GIF", "stack", "tail"))
    gray = make_gray(generator)
    if kind == "stack":
        return encode(gray, "TIFF", save_all=True, append_images=[Image.fromarray(gray[::-1])])
    if kind == "tail":
        return encode(gray, str(choose(generator, "PNG", "JPEG", "BMP"))) + b"\n" * int(generator.integers(1, 600))
    deep = kind == "JPEG2000" and generator.random() < 0.5
    return encode(make_deep(generator) if deep else gray, kind)


KINDS: dict[str, Callable[[Generator], bytes]] = {
    "PNG, 8 bits": lambda generator: encode(make_gray(generator), "PNG", optimize=bool(generator.integers(2))),
    "PNG, 16 bits": lambda generator: encode(make_deep(generator), "PNG"),
    "PNG, color": lambda generator: encode(draw_color(generator), "PNG"),
    "PNG, 16-bit color": lambda generator: cv2.imencode(".png", draw_color(generator).astype(np.uint16) * 99)[
        1
    ].tobytes(),
    "PNG, other modes": make_png_mode,
    "JPEG": make_jpeg,
    "TIFF": make_tiff,
    "TIFF, other modes": make_odd_tiff,
    "BMP": make_bmp,
    "DICOM": make_dicom,
    "DICOM, untidy": make_untidy_dicom,
    "NIfTI": make_nifti,
    "other formats": make_other,
}


def make_images(num_images: int) -> Iterator[tuple[str, bytes]]:
    """Kind and bytes, the same in every run."""
    for number in range(num_images):
        kind = list(KINDS)[number % len(KINDS)]
        yield kind, KINDS[kind](np.random.default_rng(number))


def find_refused(num_images: int) -> list[tuple[int, str, str]]:
    """Number, kind and reason of each image that is set aside."""
    refused = []
    with Sandbox() as reader:
        for number, (kind, content) in enumerate(make_images(num_images)):
            try:
                for picture in reader.encode(content):
                    (again,) = reader.encode(picture.content)
                    if again.sha256 != picture.sha256:
                        refused.append((number, kind, "has other pixels when the stored file is read"))
            except ImageError as error:
                refused.append((number, kind, f"{error.reason}: {error}"))
    return refused


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-images", type=int, default=10_000)
    num_images = parser.parse_args().num_images
    start = time.monotonic()
    refused = find_refused(num_images)
    print(f"{len(refused)} of {num_images} sound images set aside, {time.monotonic() - start:.0f} s")
    for (kind, reason), count in Counter((kind, reason) for _, kind, reason in refused).items():
        print(f"  {count} {kind}: {reason}")
    sys.exit(1 if refused else 0)
