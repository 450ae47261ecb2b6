"""Simulates the scanner: renders tissues as gray levels, with texture, coil shading and Rician noise."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.synthetic.phantom import (
    FIBER_DEGREES_OF_PART,
    SUPERSAMPLING,
    TISSUE_OF_PART,
    Body,
    Tissue,
    paint_slice,
)

TEXTURE_DEPTH: Final = 9.0  # through the slices, mm
TEXTURE_SIZE: Final = 640  # height and width of the fields from which the textures are cut out, pixels
TEXTURE_GRAINS: Final = {  # along rows and columns, pixels of about 0.73 mm
    "coarse": (23, 23),
    "medium": (7.5, 7.5),
    "fine": (1.85, 1.85),
    "mottle": (3, 3),
    "trabeculae": (6.8, 1.3),
    "fibers": (1.4, 19),
    "septa": (16, 6.2),
    "shim": (120, 120),
    "thermal": (1.07, 1.07),
}
TEXTURES: Final[tuple[str, ...]] = ("coarse", "medium", "mottle", "fibers", "septa", "shim", "marrow", "thermal")

_TEXTURED: Final = ([Tissue.FAT], [Tissue.MUSCLE], [Tissue.BOWEL], [Tissue.FEMUR_MARROW, Tissue.PELVIS_MARROW])
TEXTURED_PARTS: Final = (
    np.stack([255 * np.isin(TISSUE_OF_PART, tissues) for tissues in _TEXTURED], axis=1)
    .astype(np.uint8)
    .view(np.int32)[:, 0]
)
"""Four bytes a part, 255 in the first for fat, the second for muscle, the third for bowel, the last for marrow, so that
one look-up serves all four."""

Slice = tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]  # pixels, marrow, lesion: see `DemoImage`
FloatImage = NDArray  # of float32; the stubs of OpenCV do not state the type
Window = tuple[slice, slice]  # rows and columns of an image


@dataclass(frozen=True)
class Contrast:
    """A sequence: its signal (1 = full scale) of each `Tissue`, of red marrow and of a lesion, and the image's mean."""

    tissues: Sequence[float]
    red_marrow: float
    lesion: float
    mean: float


T1: Final = Contrast((0.01, 0.38, 0.86, 0.29, 0.10, 0.06, 0.76, 0.64, 0.40, 0.20, 0.14, 0.32, 0.33), 0.44, 0.40, 0.42)
FAT_SUPPRESSED: Final = Contrast(
    (0.01, 0.42, 0.20, 0.34, 0.09, 0.06, 0.19, 0.22, 0.50, 0.82, 0.55, 0.46, 0.36), 0.36, 0.62, 0.30
)


@dataclass(frozen=True)
class Patch:
    """A focal change of the marrow: an irregular ellipsoid with a soft border."""

    center: Sequence[float]  # x, y, z in the frame of the outlines, mm
    radii: Sequence[float]  # half axes, the third through the slices, mm
    degrees: float  # turn within the slice
    softness: float  # width of the border against the radius
    strength: float  # fraction of the way to `signal`
    signal: float
    mottle: float = 0.03  # standard deviation of the signal within
    rim: float = 0.0  # strength of a dark, sclerotic border

    def paint(
        self,
        place: Sequence[float],
        signal: FloatImage,
        marrow: FloatImage,
        body: Body,
        z: float,
        noise: dict[str, FloatImage],
    ) -> tuple[Window, FloatImage]:
        """Change `signal` in place within the fraction of marrow; `place` is the center as column and row.

        Returns:
            The window around the patch, and in it the weight of the change, 0-1.
        """
        column, row = place
        reach = (1.5 + self.softness / 2) * max(self.radii[:2]) / body.pixel_spacing
        window = _cut_window(row, reach, body.size), _cut_window(column, reach, body.size)
        distance = measure_distance(body, (column, row), self.radii, self.degrees, z - self.center[2], window)
        distance += 0.16 * noise["medium"][window]
        inside, marrow = signal[window], marrow[window]
        weight = marrow * np.clip((1 - distance) / self.softness + 0.5, 0, 1)
        inside += self.strength * weight * (self.signal + self.mottle * noise["mottle"][window] - inside)
        if self.rim:
            inside += self.rim * marrow * np.exp(-(((distance - 1) / 0.09) ** 2)) * (0.08 - inside)
        return window, weight


def measure_distance(
    body: Body,
    center: Sequence[float],
    radii: Sequence[float],
    degrees: float,
    depth: float,
    window: Window = np.s_[:, :],
) -> FloatImage:
    """Distance of the pixels of a window from a center (column, row; `depth` mm before it), in radii."""
    millimeters = np.arange(body.size, dtype=np.float32) * body.pixel_spacing
    x = millimeters[window[1]] - center[0] * body.pixel_spacing
    y = millimeters[window[0], None] - center[1] * body.pixel_spacing
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    along = x * (cosine / radii[0]) + y * (sine / radii[0])
    across = y * (cosine / radii[1]) - x * (sine / radii[1])
    return np.sqrt(along**2 + across**2 + (depth / radii[2]) ** 2)


def _cut_window(center: float, reach: float, size: int) -> slice:
    return slice(int(np.clip(center - reach, 0, size)), int(np.clip(center + reach + 1, 0, size)))


@functools.cache
def draw_textures() -> FloatImage:
    """Draw a large field of noise for each of `TEXTURES`, from which the textures of all patients are cut out.

    Drawing noise for each patient would take most of the time of the demo.

    Returns:
        Mean 0, variance 1 except for `marrow`; shape (len(TEXTURES), TEXTURE_SIZE, TEXTURE_SIZE).
    """
    generator, size = np.random.default_rng(0), (TEXTURE_SIZE, TEXTURE_SIZE)
    fields = {}
    for name, (rows, columns) in TEXTURE_GRAINS.items():
        coarse = generator.standard_normal([int(TEXTURE_SIZE / grain) + 3 for grain in (rows, columns)], np.float32)
        field = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
        fields[name] = (field - field.mean()) / field.std()
    grain = fields["fine"] + fields["trabeculae"] + fields["coarse"]
    fields["marrow"] = 0.05 * grain + 0.04 * fields["medium"]
    return np.stack([fields[name] for name in TEXTURES])


class Scanner:
    """Renders the slices of one patient as gray levels, with contrast, textures, coil and noise."""

    def __init__(self, generator: np.random.Generator, body: Body, contrast: Contrast, brightness: float) -> None:
        uniform = generator.uniform
        self._generator, self._body, self._contrast = generator, body, contrast
        self._tissues = (np.array(contrast.tissues) * generator.lognormal(0, 0.025, len(Tissue))).astype(np.float32)
        self._near, self._far = (np.ascontiguousarray(self._cut_textures()[:-1]) for _ in range(2))
        self._fat_in_muscle, self._failed_suppression = uniform(0.05, 0.12), uniform(0, 0.15)
        coil = body.place(uniform([[50, -60]], [[90, 60]]), 0.0)[0].tolist()
        distance = measure_distance(body, coil, [uniform(70, 120)] * 3, 0, 0)
        self._shading = 1 + uniform(0.15, 0.3) * (2 * np.exp(-0.5 * distance**2) - 1)
        self._noise_level, self._mean, self._gain = uniform(0.011, 0.012), contrast.mean * brightness, 0.0

    def _cut_textures(self) -> FloatImage:
        """Cut all textures out at a random place; shape (len(TEXTURES), size, size)."""
        row, column = self._generator.integers(0, TEXTURE_SIZE - self._body.size, 2)
        return draw_textures()[:, row : row + self._body.size, column : column + self._body.size]

    def scan(self, z: float, red_marrow: list[Patch], lesions: list[Patch]) -> Slice:
        """Take the slice at `z`: pixels, marrow and lesion, as in `DemoImage`."""
        near, far = math.cos(z / TEXTURE_DEPTH), math.sin(z / TEXTURE_DEPTH)
        blended = cv2.addWeighted(self._near, near, self._far, far, 0)
        noise: dict[str, FloatImage] = dict(zip(TEXTURES[:-1], blended, strict=True))
        signal, marrow = self._paint_tissues(paint_slice(self._body, z), noise)
        lesion = np.zeros_like(marrow)
        patches = red_marrow + lesions
        places = self._body.place(np.array([patch.center[:2] for patch in patches]), z).tolist()
        for number, (patch, place) in enumerate(zip(patches, places, strict=True)):
            window, weight = patch.paint(place, signal, marrow, self._body, z, noise)
            if number >= len(red_marrow):
                np.maximum(lesion[window], weight, out=lesion[window])
        return self._expose(signal), marrow > 0.5, lesion > 0.5

    def _paint_tissues(self, parts: NDArray[np.uint8], noise: dict[str, FloatImage]) -> tuple[FloatImage, FloatImage]:
        signal = self._shrink(cv2.LUT(parts, self._tissues[TISSUE_OF_PART]))
        filled = self._shrink(cv2.LUT(parts, TEXTURED_PARTS).view(np.uint8).reshape(*parts.shape, 4))
        fat, muscle, bowel, marrow = (np.float32(1 / 255) * fraction for fraction in cv2.split(filled))
        fibers = self._turn_fibers(noise["fibers"], parts)
        streaks = np.clip(fibers - 1.5 + 0.7 * self._fat_in_muscle * noise["coarse"], 0, 1)
        streaks *= 0.25 + self._fat_in_muscle
        signal += muscle * (streaks * (self._tissues[Tissue.FAT] - signal) + 0.12 * fibers * signal)
        signal += 0.25 * fat * np.exp(-((noise["septa"] / 0.2) ** 2)) * (0.25 - signal)
        fat_grain = 0.05 * noise["coarse"] + 0.03 * noise["medium"]
        signal *= 1 + marrow * noise["marrow"] + fat * fat_grain + 0.35 * bowel * noise["medium"]
        if self._contrast is FAT_SUPPRESSED:
            signal += (fat + marrow) * self._failed_suppression * np.clip(noise["shim"] - 0.6, 0, 2)
        return signal, marrow

    def _shrink(self, image: NDArray) -> FloatImage:
        size = (self._body.size, self._body.size)
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)

    def _turn_fibers(self, noise: FloatImage, parts: NDArray[np.uint8]) -> FloatImage:
        """Turn the texture at each pixel about the middle of the image into the run of the part's fibers."""
        turns = np.deg2rad(FIBER_DEGREES_OF_PART)
        if self._body.is_mirrored:
            turns = np.pi - turns
        parts = np.ascontiguousarray(parts[::SUPERSAMPLING, ::SUPERSAMPLING])
        cosine, sine = (cv2.LUT(parts, values.astype(np.float32)) for values in (np.cos(turns), np.sin(turns)))
        middle = self._body.size / 2
        x = np.arange(self._body.size, dtype=np.float32) - middle
        y = x[:, None]
        columns, rows = cosine * x + sine * y + middle, cosine * y - sine * x + middle
        return cv2.remap(noise, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)

    def _expose(self, signal: FloatImage) -> NDArray[np.uint8]:
        signal = cv2.GaussianBlur(signal, (0, 0), 0.42 / self._body.pixel_spacing) * self._shading
        real, imaginary = (self._noise_level * self._cut_textures()[-1] for _ in range(2))
        magnitude = cv2.magnitude(signal + real, imaginary)  # Rician noise
        self._gain = self._gain or self._mean / float(magnitude.mean())
        magnitude *= self._gain
        bright = magnitude > 0.8
        magnitude[bright] = 0.8 + 0.2 * np.tanh((magnitude[bright] - 0.8) / 0.2)
        return np.round(255 * magnitude).astype(np.uint8)
