"""Image files of every kind to gray levels and back.

What is allowed is known by its first bytes, never by its name. The structure of a file is walked before a decoder sees
it, and the decoder gets only what makes the pixels. What cannot be used is set aside with one of these reasons:

    reason                       what was found
    ---------------------------  ---------------------------------------------------------------------------------
    empty_file                   no bytes
    not_an_image                 none of PNG, JPEG, TIFF, BMP and DICOM by its first bytes
    truncated                    the file ends early, or has too few data for its size
    appended_data                the file goes on after its end: a second file can hide there
    damaged                      a wrong checksum, or parts that contradict each other or stand out of order
    several_pictures             an animation, several pages or frames
    no_picture                   a DICOM file without pixels, such as a DICOMDIR
    suspicious_preamble          a DICOM file that is a file of another kind as well, such as a program
    too_many_pixels              more than `structure.MAX_NUM_PIXELS`
    too_small                    a side shorter than `gray.MIN_SIDE`
    extreme_aspect               one side more than `gray.MAX_ASPECT` times as long as the other
    unsupported_compression      packed by a method that is not read: CCITT, JPEG in TIFF, arithmetic or lossless
                                 JPEG, 12-bit JPEG, run-length BMP; or the entry of the zip file is
    unsupported_transfer_syntax  DICOM with pixels that are packed by another method than RLE
    unsupported_color            samples or colors of a kind that is not read
    undecodable                  the decoder refuses the pixels
    not_finite                   pixels that are not a number or infinite
    transparent                  every pixel is fully transparent
    blank                        one gray level, or fewer than one pixel in a thousand that differs
    not_gray                     no gray levels where they are needed
    decoder_crashed              the decoder died of it, twice
    decoder_hung                 the decoder did not come to an end, twice
    out_of_memory                the decoder asked for more memory than one image may take
    too_large                    a file of more than `entries.MAX_NUM_BYTES`
    damaged_entry                the checksum or the compressed data of the zip file's entry are wrong
    nested_archive               a zip file inside the source, which is never opened
    unreadable_file              the disk or the rights of the file forbid it
    contradictory_label          the image stands in both class folders
    unencodable                  OpenCV cannot write the picture
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.data import bmp, dicom, jpeg, png, tiff
from hip_mri.data.gray import check_usable, convert_to_gray, turn_upright
from hip_mri.data.structure import Structure
from hip_mri.errors import ImageError

MAGIC_BYTES: Final = {
    png.SIGNATURE: "PNG",
    jpeg.SIGNATURE: "JPEG",
    **dict.fromkeys(tiff.SIGNATURES, "TIFF"),
    bmp.SIGNATURE: "BMP",
}
"""First bytes of each kind; those of DICOM come after a preamble."""

_EXAMINERS: Final = {
    "PNG": png.examine_png,
    "JPEG": jpeg.examine_jpeg,
    "TIFF": tiff.examine_tiff,
    "BMP": bmp.examine_bmp,
}


@dataclass(frozen=True)
class Picture:
    """What is taken of an image file.

    Attributes:
        levels: Gray levels 0-255, shape (height, width), upright.
        content: An image file with the same gray levels and no word beside them, to be stored: a PNG or JPEG file
            without text, profiles and EXIF, or a plain PNG file. Its SHA-256 names the image.
        patient: Whose picture it is, as a DICOM file says it; empty where it does not. Never stored as it stands.
    """

    levels: NDArray[np.uint8]
    content: bytes
    patient: str = ""


def read_picture(content: bytes) -> Picture:
    """Read an image file of unknown origin: check its structure, decode it and strip it of all but its pixels.

    An orientation that EXIF, a PNG file or a TIFF file states is applied, as every viewer does. For the rule by
    which values become gray levels, see `gray.convert_to_gray` and `dicom.read_dicom`.

    Args:
        content: Bytes of a PNG, JPEG, TIFF, BMP or DICOM file.

    Returns:
        The picture. Reading its `content` again gives the same levels and content.

    Raises:
        ImageError: With one of the reasons above.
    """
    kind = _recognise(content)
    if kind == "DICOM":
        levels, patient = dicom.read_dicom(content)
        structure = Structure(content)
    else:
        structure, patient = _EXAMINERS[kind](content), ""
        decoded = _decode(structure.content, cv2.IMREAD_UNCHANGED)
        levels = turn_upright(convert_to_gray(decoded, is_inverted=structure.is_inverted), structure.orientation)
    check_usable(levels)
    may_be_stored = structure.is_bare and structure.orientation == 1
    return Picture(levels, structure.content if may_be_stored else png.write_plain_png(levels), patient)


def decode_gray(content: bytes) -> NDArray[np.uint8]:
    """Decode an image file to gray levels 0-255, shape (height, width); see `read_picture`."""
    return read_picture(content).levels


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Encode gray levels, shape (height, width), as the bytes of a PNG file."""
    encoded, content = cv2.imencode(".png", image)
    if not encoded:
        raise ImageError("unencodable", f"an image of shape {image.shape} could not be encoded as PNG")
    return content.tobytes()


def decode_png(content: bytes) -> NDArray[np.uint8]:
    """Decode the bytes that `encode_png` made to gray levels 0-255, shape (height, width)."""
    return _decode(content, cv2.IMREAD_GRAYSCALE).astype(np.uint8, copy=False)


def _recognise(content: bytes) -> str:
    if not content:
        raise ImageError("empty_file", "the file has no content")
    if dicom.is_dicom(content):
        return "DICOM"
    found = [kind for magic, kind in MAGIC_BYTES.items() if content.startswith(magic)]
    if not found:
        allowed = ", ".join(sorted({*MAGIC_BYTES.values(), "DICOM"}))
        raise ImageError("not_an_image", f"the content is none of {allowed}")
    return found[0]


def _decode(content: bytes, mode: int) -> NDArray:
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), mode)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        raise ImageError("undecodable", "the decoder refuses the content") from error
    if image is None:
        raise ImageError("undecodable", "the decoder refuses the content")
    return image
