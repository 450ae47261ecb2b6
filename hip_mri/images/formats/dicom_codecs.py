"""A plug-in of pydicom that decompresses pixels with imagecodecs: JPEG, JPEG lossless, JPEG-LS, JPEG 2000 and HTJ2K.

It covers every compressed transfer syntax but RLE, which pydicom decodes itself, and video. What a plug-in must have:
https://pydicom.github.io/pydicom/stable/guides/decoding/decoder_plugins.html
"""

from typing import TYPE_CHECKING, Final

import imagecodecs
from pydicom import uid as syntaxes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.pixels.decoders.base import DecodeRunner

PLUGIN: Final = "imagecodecs"

_JPEG: Final = (
    syntaxes.JPEGBaseline8Bit,
    syntaxes.JPEGExtended12Bit,
    syntaxes.JPEGLossless,
    syntaxes.JPEGLosslessSV1,
)
_JPEG_LS: Final = (syntaxes.JPEGLSLossless, syntaxes.JPEGLSNearLossless)
_JPEG_2000: Final = (
    syntaxes.JPEG2000Lossless,
    syntaxes.JPEG2000,
    syntaxes.HTJ2KLossless,
    syntaxes.HTJ2KLosslessRPCL,
    syntaxes.HTJ2K,
)
SYNTAXES: Final = frozenset({*_JPEG, *_JPEG_LS, *_JPEG_2000})
"""Transfer syntaxes that the plug-in decodes."""

DECODER_DEPENDENCIES: Final = dict.fromkeys(SYNTAXES, ("numpy", "imagecodecs"))
"""Needed by pydicom."""


def is_available(syntax: str) -> bool:
    """Whether the plug-in decodes a transfer syntax; needed by pydicom."""
    return syntax in SYNTAXES


def decode_frame(content: bytes, runner: "DecodeRunner") -> bytearray:
    """Decompress a frame, and set its actual depth and colors in the options of pydicom's runner."""
    values = _decompress(content, runner)
    runner.set_option("bits_allocated", values.dtype.itemsize * 8)
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 0)
    return bytearray(values.tobytes())


def _decompress(content: bytes, runner: "DecodeRunner") -> "NDArray":
    syntax, colors = runner.transfer_syntax, runner.photometric_interpretation
    if syntax in _JPEG_LS:
        return imagecodecs.jpegls_decode(content)
    if syntax in _JPEG_2000:
        if colors in ("YBR_ICT", "YBR_RCT"):  # the decoder converts these
            runner.set_option("photometric_interpretation", "RGB")
        return imagecodecs.jpeg2k_decode(content)
    if runner.samples_per_pixel == 1:
        return imagecodecs.jpeg8_decode(content)
    runner.set_option("photometric_interpretation", "RGB")
    return imagecodecs.jpeg8_decode(content, colorspace="RGB" if colors == "RGB" else "YCBCR", outcolorspace="RGB")


def register() -> None:
    """Make the plug-in known to pydicom."""
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415 - half a second

    for syntax in SYNTAXES:
        decoder = get_decoder(syntax)
        if PLUGIN not in decoder.available_plugins:
            decoder.add_plugin(PLUGIN, (__name__, "decode_frame"))
