"""The scanner of the synthetic hips: from tissues to gray levels, with texture, coil shading and Rician noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.data.phantom import NO_FIBRES, SUPERSAMPLING, Body, Canvas, Tissue, paint_slice

TEXTURE_DEPTH: Final = 9.0  # through the slices, mm
TEXTURE_GRAINS: Final = {  # along rows and columns, mm
    "coarse": (17, 17),
    "medium": (5.5, 5.5),
    "fine": (1.35, 1.35),
    "mottle": (2.2, 2.2),
    "trabeculae": (5, 0.95),
    "fibres": (1, 14),
    "septa": (12, 4.5),
    "shim": (90, 90),
}

Slice = tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]  # pixels, marrow, lesion: see `DemoImage`
FloatImage = NDArray  # of float32; the stubs of OpenCV do not know which type comes back


@dataclass(frozen=True)
class Contrast:
    """A sequence: its signal (1 = full scale) of each `Tissue`, of red marrow and of a lesion, and the image's mean."""

    tissues: Sequence[float]
    red_marrow: float
    lesion: float
    mean: float


T1: Final = Contrast((0.01, 0.38, 0.86, 0.29, 0.10, 0.06, 0.76, 0.64, 0.40, 0.20, 0.14, 0.32, 0.33), 0.44, 0.28, 0.42)
FAT_SUPPRESSED: Final = Contrast(
    (0.01, 0.42, 0.20, 0.34, 0.09, 0.06, 0.19, 0.22, 0.50, 0.82, 0.55, 0.46, 0.36), 0.36, 0.62, 0.30
)


@dataclass(frozen=True)
class Patch:
    """A focal change of the marrow: an irregular ellipsoid with a soft border."""

    centre: Sequence[float]  # x, y, z in the frame of the outlines, mm
    radii: Sequence[float] | NDArray  # half axes, the third through the slices, mm
    degrees: float  # turn within the slice
    softness: float  # width of the border against the radius
    strength: float  # share of the way to `signal`
    signal: float
    mottle: float = 0.03  # standard deviation of the signal within
    rim: float = 0.0  # strength of a dark, sclerotic border

    def measure_distance(self, body: Body, z: float) -> FloatImage:
        """Distance of each pixel from the centre in radii, shape (size, size)."""
        column, row = body.place(np.array([self.centre[:2]]), z)[0]
        x = (np.arange(body.size)[None, :] - column) * body.pixel_spacing
        y = (np.arange(body.size)[:, None] - row) * body.pixel_spacing
        cosine, sine = np.cos(np.deg2rad(self.degrees)), np.sin(np.deg2rad(self.degrees))
        along, across = (x * cosine + y * sine) / self.radii[0], (y * cosine - x * sine) / self.radii[1]
        return np.sqrt(along**2 + across**2 + ((z - self.centre[2]) / self.radii[2]) ** 2).astype(np.float32)

    def paint(
        self, signal: FloatImage, marrow: FloatImage, body: Body, z: float, noise: dict[str, FloatImage]
    ) -> FloatImage:
        """Change `signal` in place within the fraction of marrow; gives the weight of the change, 0-1."""
        distance = self.measure_distance(body, z) + 0.16 * noise["medium"]
        weight = marrow * np.clip((1 - distance) / self.softness + 0.5, 0, 1)
        signal += self.strength * weight * (self.signal + self.mottle * noise["mottle"] - signal)
        signal += self.rim * marrow * np.exp(-(((distance - 1) / 0.09) ** 2)) * (0.08 - signal)
        return weight


class Scanner:
    """What turns the tissues of one patient's slices into gray levels: contrast, textures, coil and noise."""

    def __init__(self, generator: np.random.Generator, body: Body, contrast: Contrast, brightness: float) -> None:
        uniform = generator.uniform
        self._generator, self._body, self._contrast = generator, body, contrast
        self._tissues = (np.array(contrast.tissues) * generator.lognormal(0, 0.025, len(Tissue))).astype(np.float32)
        self._textures = {name: self._draw_noise(2, grain) for name, grain in TEXTURE_GRAINS.items()}
        self._fat_in_muscle, self._failed_suppression = uniform(0, 0.2), uniform(0, 0.15)
        coil_centre, coil_reach = (*uniform([50, -60], [90, 60]), 0), np.repeat(uniform(70, 120), 3)
        self._coil = Patch(coil_centre, coil_reach, degrees=0, softness=1, strength=uniform(0.15, 0.3), signal=1)
        self._noise_level, self._mean, self._gain = uniform(0.017, 0.021), contrast.mean * brightness, 0.0

    def _draw_noise(self, count: int, grain: Sequence[float]) -> FloatImage:
        size = self._body.size
        rows, columns = (int(size * self._body.pixel_spacing / edge) + 3 for edge in grain)
        coarse = self._generator.standard_normal((count, rows, columns), np.float32)
        noise = np.stack([cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC) for field in coarse])
        return (noise - noise.mean(axis=(1, 2), keepdims=True)) / noise.std(axis=(1, 2), keepdims=True)

    def scan(self, z: float, red_marrow: list[Patch], lesions: list[Patch]) -> Slice:
        """Take the slice at `z`: pixels, marrow and lesion, as in `DemoImage`."""
        turn = z / TEXTURE_DEPTH
        noise = {name: np.cos(turn) * near + np.sin(turn) * far for name, (near, far) in self._textures.items()}
        signal, marrow = self._paint_tissues(paint_slice(self._body, z), noise)
        lesion = np.zeros_like(marrow)
        for patch in red_marrow:
            patch.paint(signal, marrow, self._body, z, noise)
        for patch in lesions:
            lesion = np.maximum(lesion, patch.paint(signal, marrow, self._body, z, noise))
        return self._expose(signal), marrow > 0.5, lesion > 0.5

    def _paint_tissues(self, canvas: Canvas, noise: dict[str, FloatImage]) -> tuple[FloatImage, FloatImage]:
        signal = self._shrink(self._tissues[canvas.tissues])
        fat, muscle, bowel = (
            self._shrink(canvas.tissues == part) for part in (Tissue.FAT, Tissue.MUSCLE, Tissue.BOWEL)
        )
        marrow = self._shrink((canvas.tissues == Tissue.FEMUR_MARROW) | (canvas.tissues == Tissue.PELVIS_MARROW))
        fibres = self._turn_fibres(noise["fibres"], canvas)
        streaks = np.clip(fibres - 1.5 + 0.7 * self._fat_in_muscle * noise["coarse"], 0, 1)
        streaks *= 0.25 + self._fat_in_muscle
        signal += muscle * (streaks * (self._tissues[Tissue.FAT] - signal) + 0.12 * fibres * signal)
        signal += 0.25 * fat * np.exp(-((noise["septa"] / 0.2) ** 2)) * (0.25 - signal)
        marrow_grain = 0.05 * (noise["fine"] + noise["trabeculae"] + noise["coarse"]) + 0.04 * noise["medium"]
        fat_grain = 0.05 * noise["coarse"] + 0.03 * noise["medium"]
        signal *= 1 + marrow * marrow_grain + fat * fat_grain + 0.35 * bowel * noise["medium"]
        if self._contrast is FAT_SUPPRESSED:
            signal += (fat + marrow) * self._failed_suppression * np.clip(noise["shim"] - 0.6, 0, 2)
        return signal, marrow

    def _shrink(self, image: NDArray) -> FloatImage:
        size = (self._body.size, self._body.size)
        return cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA)

    def _turn_fibres(self, noise: FloatImage, canvas: Canvas) -> FloatImage:
        runs = canvas.fibres[::SUPERSAMPLING, ::SUPERSAMPLING]
        turned = np.zeros_like(noise)
        for degrees in set(np.unique(runs)) - {NO_FIBRES}:
            on_screen = 180.0 - degrees if self._body.is_mirrored else float(degrees)
            turn = cv2.getRotationMatrix2D((noise.shape[1] / 2, noise.shape[0] / 2), -on_screen, 1)
            along = cv2.warpAffine(noise, turn, noise.shape[::-1], borderMode=cv2.BORDER_REFLECT)
            turned = np.where(runs == degrees, along, turned)
        return turned

    def _expose(self, signal: FloatImage) -> NDArray[np.uint8]:
        signal = cv2.GaussianBlur(signal, (0, 0), 0.42 / self._body.pixel_spacing)
        falloff = np.exp(-0.5 * self._coil.measure_distance(self._body, 0.0) ** 2)
        signal *= 1 + self._coil.strength * (2 * falloff - 1)
        real, imaginary = self._noise_level * self._draw_noise(2, (0.78, 0.78))
        magnitude = np.hypot(signal + real, imaginary)  # Rician noise
        self._gain = self._gain or self._mean / magnitude.mean()
        magnitude *= self._gain
        bright = magnitude > 0.8
        magnitude[bright] = 0.8 + 0.2 * np.tanh((magnitude[bright] - 0.8) / 0.2)
        return np.round(255 * magnitude).astype(np.uint8)
