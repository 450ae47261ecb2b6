"""Reads TIFF files of one or several pages with tifffile."""

import io
import logging
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.errors import ImageError
from hip_mri.images.decoding_results import Picture, ReadingOptions, check_stack_size, select_slices
from hip_mri.images.gray_levels import convert_stack, turn_upright

if TYPE_CHECKING:
    from tifffile import TiffPage

_MAX_NUM_PAGES: Final = 100_000
_PALETTE, _SEPARATED, _WHITE_IS_ZERO = 3, 5, 0
_PHOTOMETRICS: Final = {_WHITE_IS_ZERO, 1, 2, _PALETTE, _SEPARATED, 6}
"""White is zero, black is zero, RGB, palette, CMYK and YCbCr; JPEG decoders return the last as RGB."""
_ORIENTATION: Final = 274


def read_tiff(content: bytes, options: ReadingOptions) -> list[Picture]:
    """Read the pages of a TIFF file except thumbnails and masks.

    Pages of equal shape and type are scaled by one range, as slices of one volume; other pages separately.

    Args:
        content: Bytes of a TIFF file.
        options: Which pages are read.

    Returns:
        One picture per page.

    Raises:
        ImageError: The file is damaged, too large, or of a kind that is not supported.
    """
    from tifffile import TiffFile, TiffFileError  # noqa: PLC0415 - a fifth of a second

    logging.getLogger("tifffile").disabled = True  # its messages quote the file
    try:
        with TiffFile(io.BytesIO(content)) as file:
            pages = _list_pages(file.pages)
            selected = select_slices(len(pages), options)
            chosen = [pages[number] for number in selected]
            for page in chosen:
                _check_page(page, content)
                check_stack_size(page.imagewidth, page.imagelength, len(chosen))
            decoded = [_decode_page(page) for page in chosen]
            is_inverted = [page.photometric == _WHITE_IS_ZERO for page in chosen]
            orientations = [_read_orientation(page) for page in chosen]
    except (ImageError, MemoryError):
        raise
    except TiffFileError as error:
        raise ImageError("damaged", "the TIFF file has no directory of pages, or a damaged one") from error
    except Exception as error:  # tifffile raises many kinds of errors for damaged content
        raise ImageError("undecodable", "the TIFF file cannot be decoded; it is damaged or truncated") from error
    levels = _convert(decoded, is_inverted)
    return [
        Picture(turn_upright(image, orientation), slice=number, num_slices=len(pages))
        for number, image, orientation in zip(selected, levels, orientations, strict=True)
    ]


def _list_pages(pages: "object") -> "list[TiffPage]":
    found = []
    for page in pages:  # type: ignore[attr-defined]
        if len(found) == _MAX_NUM_PAGES:
            raise ImageError("too_many_slices", f"the TIFF file has more than {_MAX_NUM_PAGES:,} pages")
        if not (page.is_reduced or page.is_mask):
            found.append(page)
    if not found:
        raise ImageError("damaged", "the TIFF file has no page")
    return found


def _check_page(page: "TiffPage", content: bytes) -> None:
    """Check the directory entry of a page before it is decoded."""
    if page.photometric not in _PHOTOMETRICS or page.samplesperpixel > 5:
        raise ImageError("unsupported_color", f"the TIFF file has colors of kind {page.photometric}")
    if page.dtype is None or page.dtype.kind not in "buif":
        raise ImageError("unsupported_color", "the samples of the TIFF file are of a kind that is not supported")
    if page.imagedepth > 1:
        raise ImageError("unsupported_color", "the TIFF file holds volumes in its pages; write one slice to a page")
    places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if not places or any(not size or offset + size > len(content) for offset, size in places):
        raise ImageError("truncated", "pixels of the TIFF file are missing or outside the file")
    if sum(size for _, size in places) > len(content):
        raise ImageError("damaged", "parts of the TIFF file overlap")


def _decode_page(page: "TiffPage") -> NDArray:
    """Values of a page, shape (height, width) or (height, width, channels) with blue first, 8 bits and more."""
    values = page.asarray()
    if page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    if values.shape[:2] != (page.imagelength, page.imagewidth):
        raise ImageError("unsupported_color", "the TIFF file arranges its pixels in a way that is not supported")
    if page.photometric == _PALETTE:
        colors = np.asarray(page.colormap)
        shift = 8 if colors.max() > 255 else 0  # 16 bits each; some programs use only the lower 8
        return (colors >> shift).astype(np.uint8)[::-1, values].transpose(1, 2, 0)
    if page.photometric == _SEPARATED:
        return _mix_inks(values)
    if page.bitspersample < 8:
        values = values.astype(np.uint8) * np.uint8(255 // (2**page.bitspersample - 1))
    if values.ndim == 3 and values.shape[2] == 1:
        return values[..., 0]
    return values[..., [2, 1, 0, *range(3, values.shape[2])]] if values.ndim == 3 and values.shape[2] >= 3 else values


def _mix_inks(inks: NDArray) -> NDArray[np.uint8]:
    """Convert CMYK to blue, green, red: white minus the ink of the color and minus black."""
    if inks.ndim != 3 or inks.shape[2] < 4 or inks.dtype != np.uint8:
        raise ImageError("unsupported_color", "the TIFF file has inks of a kind that is not supported")
    left = 255 - inks[..., :4].astype(np.uint16)
    return ((left[..., :3] * left[..., 3:] + 127) // 255).astype(np.uint8)[..., ::-1]


def _read_orientation(page: "TiffPage") -> int:
    tag = page.tags.get(_ORIENTATION)
    return tag.value if tag is not None and tag.value in range(1, 9) else 1


def _convert(decoded: list[NDArray], is_inverted: list[bool]) -> list[NDArray[np.uint8]]:
    first = decoded[0]
    if all(image.shape == first.shape and image.dtype == first.dtype for image in decoded) and len({*is_inverted}) == 1:
        return convert_stack(decoded, is_inverted=is_inverted[0])
    return [
        convert_stack([image], is_inverted=inverted)[0] for image, inverted in zip(decoded, is_inverted, strict=True)
    ]
