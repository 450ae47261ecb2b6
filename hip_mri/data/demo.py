"""Synthetic hip MRI to try the pipeline without any patient's data: phantoms, packed as a zip like the original's.

All patients are drawn in the same way: some volumes of marrow are chosen, and the slices that cut them are kept. Only
then is the lesion painted, or left out. So nothing but the lesion tells the classes apart.
"""

import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.config import LABELS
from hip_mri.data.images import encode_png
from hip_mri.data.phantom import NO_FIBRES, SUPERSAMPLING, Body, Canvas, Tissue, draw_body, paint_slice
from hip_mri.errors import SettingsError
from hip_mri.workspace import replace_file

TOP_FOLDER: Final = "Synthetic Hip MRI"
NOTICE: Final = "Synthetic phantoms drawn from formulas (seed {seed}): not patients, of no diagnostic use.\n"
NAME_STEMS: Final[dict[str, str]] = dict(zip(LABELS, ("hip-normal", "hip"), strict=True))
ZIP_DATE: Final = (1980, 1, 1, 0, 0, 0)
LESION_FRACTION: Final = 0.4
SLICE_COUNTS: Final = (4, 4, 4, 5, 5, 6)
SLICE_DISTANCE: Final = 3.0  # mm
# Centre x and y and its spread, mm: femoral head, neck, greater trochanter, roof of the acetabulum.
LESION_SITES: Final = ((-1, -3, 5.5), (24, 17, 3), (55, 18, 3), (0, -40, 3.5))
RED_MARROW_SITES: Final = ((26, 19, 4), (40, 36, 4), (40, 70, 4), (-2, -46, 6), (8, -70, 6), (-30, -8, 4), (-28, 50, 4))
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


class Traits(NamedTuple):
    """What is dealt out evenly to the patients of a class, so that none of it tells the class."""

    size: int  # of the images, pixels
    contrast: Contrast
    brightness: float
    num_lesions: int
    lesion_strength: float


TRAIT_VALUES: Final = (
    (256, 272, 288, 304, 320),
    (T1, T1, T1, FAT_SUPPRESSED),
    (0.96, 0.98, 1.0, 1.02, 1.04),
    (1, 1, 2, 2, 3),
    (0.45, 0.55, 0.65, 0.75, 0.85, 0.95),
)


@dataclass(frozen=True)
class DemoImage:
    """One slice of a phantom.

    Attributes:
        source_name: Full name of its entry in the zip.
        patient_id: Whose slice it is; the name does not tell.
        label: One of `LABELS`.
        pixels: Gray levels 0-255, uint8, shape (size, size).
        marrow: Where more than half of the pixel is bone marrow, bool, same shape.
        lesion: Where at least half of a lesion's change of signal shows in marrow, bool, same shape.
    """

    source_name: str
    patient_id: str
    label: str
    pixels: NDArray[np.uint8]
    marrow: NDArray[np.bool_]
    lesion: NDArray[np.bool_]


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


def draw_lesion(generator: np.random.Generator, site: Sequence[float], z: float, depth: float, traits: Traits) -> Patch:
    """Draw an ill-defined (oedema-like) or a circumscribed lesion near a site, centred at `z`, reaching `depth` mm."""
    uniform = generator.uniform
    is_circumscribed = uniform() < 0.5
    return Patch(
        centre=(*generator.normal(site[:2], site[2]), z),
        radii=(*uniform(9, 19, 2), depth),
        degrees=uniform(0, 180),
        softness=uniform(0.1, 0.3) if is_circumscribed else uniform(0.35, 0.7),
        strength=traits.lesion_strength,
        signal=traits.contrast.lesion * uniform(0.85, 1.15),
        mottle=uniform(0.08, 0.18),
        rim=uniform(0.3, 0.9) if is_circumscribed and uniform() < 0.4 else 0.0,
    )


def draw_red_marrow(generator: np.random.Generator, signal: float) -> list[Patch]:
    """Draw what is harmless: islands of red marrow, and the bundle of weight-bearing trabeculae in the head."""
    uniform = generator.uniform
    sites = generator.permutation(RED_MARROW_SITES)[: generator.integers(2, 6)]
    bundle = Patch((4, 4, 0), (9, 26, 40), 20, 0.9, uniform(0.1, 0.4), signal)
    return [bundle] + [
        Patch(
            centre=(*generator.normal(site[:2], site[2]), uniform(-10, 10)),
            radii=uniform([6, 5, 10], [16, 12, 20]),
            degrees=uniform(0, 180),
            softness=uniform(0.5, 0.9),
            strength=uniform(0.1, 0.4),
            signal=signal * uniform(0.85, 1.15),
        )
        for site in sites
    ]


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


def draw_patient(generator: np.random.Generator, traits: Traits, has_lesion: bool) -> Iterator[Slice]:
    """Draw the neighbouring slices of a new patient; `has_lesion` changes nothing but whether lesions are painted."""
    scanner = Scanner(generator, draw_body(generator, traits.size), traits.contrast, traits.brightness)
    num_slices, middle = int(generator.choice(SLICE_COUNTS)), generator.uniform(-4, 4)
    depth = 0.65 * SLICE_DISTANCE * num_slices
    sites = generator.permutation(LESION_SITES)[: traits.num_lesions]
    lesions = [draw_lesion(generator, site, middle, depth, traits) for site in sites]
    red_marrow = draw_red_marrow(generator, traits.contrast.red_marrow)
    for z in middle + SLICE_DISTANCE * (np.arange(num_slices) - (num_slices - 1) / 2):
        yield scanner.scan(z, red_marrow, lesions if has_lesion else [])


def draw_demo(seed: int, num_patients: int = 66) -> Iterator[DemoImage]:
    """Draw all patients in random order, each with 4 to 6 neighbouring slices under consecutive numbers.

    Args:
        seed: Decides everything; not negative.
        num_patients: At least 5, so that there are both classes; the default gives about 300 images.

    Yields:
        One image after the other, about 40 % with a lesion.

    Raises:
        SettingsError: Too few patients.
    """
    if num_patients < 5:
        raise SettingsError(f"num_patients: found {num_patients}. Give at least 5, so that both classes have patients.")
    numbers = Counter[str]()
    for patient, (label, traits) in enumerate(_plan_patients(np.random.default_rng(seed), num_patients)):
        generator = np.random.default_rng([seed, patient])
        for pixels, marrow, lesion in draw_patient(generator, traits, label == LABELS[1]):
            numbers[label] += 1
            name = f"{TOP_FOLDER}/{label}/{NAME_STEMS[label]}{numbers[label]:06d}.png"
            yield DemoImage(name, f"synthetic-{patient + 1:04d}", label, pixels, marrow, lesion)


def _plan_patients(generator: np.random.Generator, num_patients: int) -> list[tuple[str, Traits]]:
    num_lesions = round(LESION_FRACTION * num_patients)
    plan = []
    for label, count in zip(LABELS, (num_patients - num_lesions, num_lesions), strict=True):
        dealt = ([values[i % len(values)] for i in generator.permutation(count)] for values in TRAIT_VALUES)
        plan += [(label, Traits(*traits)) for traits in zip(*dealt, strict=True)]
    return [plan[i] for i in generator.permutation(num_patients)]


def write_demo_zip(zip_file: Path, seed: int, num_patients: int = 66) -> Path:
    """Pack the demo as a zip: whole or not at all, and byte for byte the same for the same seed.

    Beside the class folders lie `SYNTHETIC.txt`, which says what this is, and `SYNTHETIC-patients.csv` with the
    columns source_name and patient_id.

    Args:
        zip_file: Where to; an older file is replaced.
        seed: See `draw_demo`.
        num_patients: See `draw_demo`.

    Returns:
        `zip_file`.

    Raises:
        SettingsError: Too few patients.
        WorkspaceError: The disk is full or not writable.
    """
    entries = {f"{TOP_FOLDER}/SYNTHETIC.txt": NOTICE.format(seed=seed).encode()}
    rows = ["source_name,patient_id"]
    for image in draw_demo(seed, num_patients):
        entries[image.source_name] = encode_png(image.pixels)
        rows.append(f"{image.source_name},{image.patient_id}")
    entries[f"{TOP_FOLDER}/SYNTHETIC-patients.csv"] = ("\n".join(rows) + "\n").encode()
    with replace_file(zip_file) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in entries.items():
            archive.writestr(_describe_entry(name), content)
    return zip_file


def _describe_entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, ZIP_DATE)
    entry.create_system, entry.external_attr = 3, 0o100644 << 16  # Unix, whatever this machine is
    return entry
