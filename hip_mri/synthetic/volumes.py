"""Draws examinations as volumes: patients of many neighboring slices in several series, numbered as in a real data set.

The demo's patients have one or two slices. Here a patient has 3 to `MAX_SLICES` slices of each series, so that grouping
by order and by features can be measured. No file name contains the patient.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.config import LABELS
from hip_mri.synthetic.demo import LESION_SITES, NAME_STEMS, TOP_FOLDER, Traits, draw_lesion, draw_red_marrow
from hip_mri.synthetic.phantom import Body, draw_body
from hip_mri.synthetic.scanner import FAT_SUPPRESSED, T1, Contrast, Scanner

MIN_SLICES: Final = 3
MAX_SLICES: Final = 20
"""Slices of one series of a patient."""
SLICE_DISTANCE: Final = 1.9  # of the acquisition, of which every `spacing`-th slice is kept; mm
NUM_ACQUIRED: Final = 24  # the whole acquisition reaches 22 mm before and behind the center of the femoral head
MAX_SPACING: Final = (NUM_ACQUIRED - 1) // (MIN_SLICES - 1)
MAX_SERIES: Final = 3
LESION_FRACTION: Final = 0.4
MIXED_FRACTION: Final = 0.1  # of the patients have slices in both class folders
MIN_LESION_PIXELS: Final = 60  # from which a slice of these patients belongs to the class with a lesion
GAP_FRACTION: Final = 0.1  # of the running numbers follow a gap
MAX_GAP: Final = 30
SIZES: Final = (224, 240, 256)
T1_WEIGHTS: Final = (1.0, 0.7, 0.5, 0.0)  # of the contrast of a series; the rest is that of fat suppression


class Look(NamedTuple):
    """What a patient's scanner does to every image."""

    gamma: float
    blur: float  # standard deviation, pixels
    noise: float  # standard deviation, gray levels


@dataclass(frozen=True)
class VolumeImage:
    """One slice of an examination.

    Attributes:
        source_name: Folder of the class and file name with a running number.
        patient_id: The patient, which the name does not contain.
        series: Number of the series within the patient, from 0.
        position: Distance from the center of the femoral head to the front, mm.
        label: One of `LABELS`.
        pixels: Gray levels 0-255, uint8, shape (size, size).
    """

    source_name: str
    patient_id: str
    series: int
    position: float
    label: str
    pixels: NDArray[np.uint8]


def draw_volumes(
    seed: int,
    num_patients: int,
    spacings: Sequence[int] = (1,),
    *,
    has_random_labels: bool = False,
    is_shuffled: bool = False,
) -> list[VolumeImage]:
    """Draw patients one after the other, each with 1 to `MAX_SERIES` series of neighboring slices.

    Args:
        seed: Decides everything; not negative.
        num_patients: Number of patients.
        spacings: Every how many slices of an acquisition one is kept, 1 to `MAX_SPACING`; drawn for each patient.
        has_random_labels: Whether labels are drawn for each patient and no lesion is painted.
        is_shuffled: Whether the running numbers say nothing about the order.

    Returns:
        The images in the order in which they were acquired. Running numbers count within each class folder.
    """
    generator = np.random.default_rng(seed)
    images: list[VolumeImage] = []
    for patient in range(num_patients):
        spacing = int(generator.choice(spacings))
        examination = list(_draw_examination([seed, patient], spacing, paints_lesions=not has_random_labels))
        if has_random_labels:
            label = str(generator.choice(LABELS))
            examination = [replace(image, label=label) for image in examination]
        images += examination
    return _number_files(images, generator, is_shuffled=is_shuffled)


def _draw_examination(seed: Sequence[int], spacing: int, *, paints_lesions: bool) -> Iterator[VolumeImage]:
    generator = np.random.default_rng(seed)
    body, look, positions = _draw_body(generator), _draw_look(generator), _choose_positions(generator, spacing)
    chance = generator.uniform()
    is_mixed, has_lesion = chance < MIXED_FRACTION, paints_lesions and chance < LESION_FRACTION
    middle = float(generator.choice(positions[1:-1]) if is_mixed else positions.mean())
    reach = float(np.ptp(positions)) * (0.25 if is_mixed else 0.7)
    for series in range(generator.integers(1, MAX_SERIES + 1)):
        contrast = _mix_contrast(float(generator.choice(T1_WEIGHTS)))
        anatomy = np.random.default_rng([*seed, 1])  # the same for every series
        traits = Traits(body.size, contrast, 1.0, len(positions), num_lesions=2, lesion_strength=0.9)
        sites = anatomy.permutation(LESION_SITES)[: traits.num_lesions]
        lesions = [draw_lesion(anatomy, site, middle, reach, traits) for site in sites]
        red_marrow = draw_red_marrow(anatomy, contrast.red_marrow)
        scanner = Scanner(anatomy, _move_body(generator, body), contrast, float(generator.uniform(0.85, 1.15)))
        for position in (positions + SLICE_DISTANCE * generator.uniform(-0.5, 0.5)).tolist():
            pixels, _, lesion = scanner.scan(position, red_marrow, lesions if has_lesion else [])
            label = LABELS[int(has_lesion and (not is_mixed or lesion.sum() >= MIN_LESION_PIXELS))]
            pixels = _apply_look(pixels, look, generator)
            yield VolumeImage("", "-".join(map(str, seed)), series, position, label, pixels)


def _choose_positions(generator: np.random.Generator, spacing: int) -> NDArray[np.float64]:
    max_slices = min(MAX_SLICES, (NUM_ACQUIRED - 1) // spacing + 1)
    num_slices = int(generator.integers(MIN_SLICES, max_slices + 1))
    first = generator.integers(NUM_ACQUIRED - spacing * (num_slices - 1)) - (NUM_ACQUIRED - 1) / 2
    return SLICE_DISTANCE * (first + spacing * np.arange(num_slices))


def _draw_peculiarity(generator: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Draw traits of which most are common and some rare: within -1 to 1, shape (size,)."""
    return np.clip(generator.standard_t(3, size), -3, 3) / 3


def _draw_body(generator: np.random.Generator) -> Body:
    """Draw a body that differs from others more than in the demo, and changes more from slice to slice."""
    body = draw_body(generator, int(generator.choice(SIZES)))
    zoom, x, y, pelvis, femur = _draw_peculiarity(generator, 5).tolist()
    waves = body.waves * [1.2 * generator.lognormal(0, 0.3), 1, 1, 1, 2, 1]
    return replace(
        body,
        pixel_spacing=body.pixel_spacing * 1.35**zoom,
        center=body.center + 15 * np.array([x, y]),
        pelvis_degrees=6 * pelvis,
        femur_degrees=8 * femur,
        waves=waves,
    )


def _move_body(generator: np.random.Generator, body: Body) -> Body:
    """Move the body a little, and change the field of view, between two series."""
    return replace(
        body,
        pixel_spacing=body.pixel_spacing * float(generator.uniform(0.95, 1.05)),
        center=body.center + generator.normal(0, 2, 2),
        pelvis_degrees=body.pelvis_degrees + float(generator.normal(0, 1)),
    )


def _draw_look(generator: np.random.Generator) -> Look:
    contrast, blur, noise = _draw_peculiarity(generator, 3).tolist()
    return Look(2**contrast, max(0.0, 2 * blur), max(0.0, 18 * noise))


def _apply_look(pixels: NDArray[np.uint8], look: Look, generator: np.random.Generator) -> NDArray[np.uint8]:
    levels = 255 * (pixels / 255) ** look.gamma
    if look.blur > 0:
        levels = cv2.GaussianBlur(levels, (0, 0), look.blur)
    levels += look.noise * generator.standard_normal(levels.shape)
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)


def _mix_contrast(t1_weight: float) -> Contrast:
    if t1_weight == 0:
        return FAT_SUPPRESSED  # itself, since the scanner lets the suppression fail in places

    def mix(one: float, other: float) -> float:
        return t1_weight * one + (1 - t1_weight) * other

    return Contrast(
        tissues=[mix(one, other) for one, other in zip(T1.tissues, FAT_SUPPRESSED.tissues, strict=True)],
        red_marrow=mix(T1.red_marrow, FAT_SUPPRESSED.red_marrow),
        lesion=mix(T1.lesion, FAT_SUPPRESSED.lesion),
        mean=mix(T1.mean, FAT_SUPPRESSED.mean),
    )


def _number_files(
    images: Sequence[VolumeImage], generator: np.random.Generator, *, is_shuffled: bool
) -> list[VolumeImage]:
    named = list(images)
    for label in LABELS:
        chosen = [place for place, image in enumerate(images) if image.label == label]
        gaps = (generator.uniform(size=len(chosen)) < GAP_FRACTION) * generator.integers(1, MAX_GAP, len(chosen))
        numbers = np.cumsum(1 + gaps)
        if is_shuffled:
            numbers = generator.permutation(numbers)
        for place, number in zip(chosen, numbers.tolist(), strict=True):
            name = f"{TOP_FOLDER}/{label}/{NAME_STEMS[label]}{number:06d}.png"
            named[place] = replace(images[place], source_name=name)
    return named
