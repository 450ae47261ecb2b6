"""Draws the synthetic hip MRI of the demo, without any patient's data, and packs them as a zip like the original data.

All patients are drawn in the same way: some volumes of marrow are chosen, and the slices that cut them are kept. Only
then is the lesion painted, or left out. So the classes differ in nothing but the lesion.
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

from hip_mri.config import LABELS, SYNTHETIC_MARK
from hip_mri.errors import SettingsError
from hip_mri.images.stored_png import encode_png
from hip_mri.storage import replace_file
from hip_mri.synthetic.phantom import draw_body
from hip_mri.synthetic.scanner import FAT_SUPPRESSED, T1, Contrast, Patch, Scanner, Slice

TOP_FOLDER: Final = "Synthetic Hip MRI"
NOTICE: Final = "Synthetic phantoms drawn from formulas (seed {seed}): not patients, of no diagnostic use.\n"
NAME_STEMS: Final[dict[str, str]] = dict(zip(LABELS, ("hip-normal", "hip"), strict=True))
ZIP_DATE: Final = (1980, 1, 1, 0, 0, 0)
NUM_PATIENTS: Final = 290
"""The test split of 15 % then holds 42 patients, enough for a useful interval of the AUC."""
LESION_FRACTION: Final = 0.4
SLICE_DISTANCE: Final = 3.0  # mm
# Center x and y and its spread, mm: femoral head, neck, greater trochanter, roof of the acetabulum.
LESION_SITES: Final = ((-1, -3, 5.5), (24, 17, 3), (55, 18, 3), (0, -40, 3.5))
RED_MARROW_SITES: Final = ((26, 19, 4), (40, 36, 4), (40, 70, 4), (-2, -46, 6), (8, -70, 6), (-30, -8, 4), (-28, 50, 4))


SEQUENCES: Final = ("T1", "fat-suppressed")
"""Names of the contrasts `T1` and `FAT_SUPPRESSED`."""


class Traits(NamedTuple):
    """Traits with the same distribution in both classes."""

    size: int  # of the images, pixels
    contrast: Contrast
    brightness: float
    num_slices: int
    num_lesions: int
    lesion_strength: float


TRAIT_VALUES: Final = (
    (224, 224, 224, 240, 256),
    (T1, T1, T1, FAT_SUPPRESSED),
    (0.9, 0.95, 1.0, 1.05, 1.1),
    (1, 2, 2, 2),
    (2, 2, 3),
    (0.85, 0.9, 0.95, 1.0),
)


@dataclass(frozen=True)
class DemoImage:
    """One slice of a phantom.

    Attributes:
        source_name: Full name of its entry in the zip.
        patient_id: The patient, which the name does not contain.
        label: One of `LABELS`.
        sequence: One of `SEQUENCES`.
        pixels: Gray levels 0-255, uint8, shape (size, size).
        marrow: Whether more than half of the pixel is bone marrow, bool, same shape.
        lesion: Whether at least half of a lesion's change of signal is in marrow, bool, same shape.
    """

    source_name: str
    patient_id: str
    label: str
    sequence: str
    pixels: NDArray[np.uint8]
    marrow: NDArray[np.bool_]
    lesion: NDArray[np.bool_]


def draw_lesion(generator: np.random.Generator, site: Sequence[float], z: float, depth: float, traits: Traits) -> Patch:
    """Draw an ill-defined (edema-like) or a circumscribed lesion near a site, centered at `z`, reaching `depth` mm."""
    uniform = generator.uniform
    is_circumscribed = uniform() < 0.5
    return Patch(
        center=(*generator.normal(site[:2], site[2]), z),
        radii=(*uniform(12, 20, 2).tolist(), depth),
        degrees=uniform(0, 180),
        softness=uniform(0.1, 0.3) if is_circumscribed else uniform(0.3, 0.5),
        strength=traits.lesion_strength,
        signal=traits.contrast.lesion * uniform(0.85, 1.15),
        mottle=uniform(0.15, 0.21),
        rim=uniform(0.3, 0.9) if is_circumscribed and uniform() < 0.4 else 0.0,
    )


def draw_red_marrow(generator: np.random.Generator, signal: float) -> list[Patch]:
    """Draw normal variants: islands of red marrow, and the bundle of weight-bearing trabeculae in the head."""
    uniform = generator.uniform
    sites = generator.permutation(RED_MARROW_SITES)[: generator.integers(2, 6)]
    bundle = Patch((4, 4, 0), (9, 26, 40), 20, 0.9, uniform(0.1, 0.25), signal)
    return [bundle] + [
        Patch(
            center=(*generator.normal(site[:2], site[2]), uniform(-10, 10)),
            radii=uniform([6, 5, 10], [16, 12, 20]).tolist(),
            degrees=uniform(0, 180),
            softness=uniform(0.5, 0.9),
            strength=uniform(0.1, 0.25),
            signal=signal * uniform(0.85, 1.15),
        )
        for site in sites
    ]


def draw_patient(generator: np.random.Generator, traits: Traits, has_lesion: bool) -> list[Slice]:
    """Draw the neighboring slices of a new patient; `has_lesion` decides whether lesions are painted, nothing else."""
    scanner = Scanner(generator, draw_body(generator, traits.size), traits.contrast, traits.brightness)
    middle, depth = generator.uniform(-4, 4), 0.65 * SLICE_DISTANCE * traits.num_slices
    sites = generator.permutation(LESION_SITES)[: traits.num_lesions]
    lesions = [draw_lesion(generator, site, middle, depth, traits) for site in sites]
    red_marrow = draw_red_marrow(generator, traits.contrast.red_marrow)
    first = middle - SLICE_DISTANCE * (traits.num_slices - 1) / 2
    return [
        scanner.scan(first + SLICE_DISTANCE * number, red_marrow, lesions if has_lesion else [])
        for number in range(traits.num_slices)
    ]


def draw_demo(seed: int, num_patients: int = NUM_PATIENTS) -> Iterator[DemoImage]:
    """Draw all patients in random order, each with 1 to 3 neighboring slices under consecutive numbers.

    Args:
        seed: Decides everything; not negative.
        num_patients: At least 5, so that there are both classes; each has 2 images on average.

    Yields:
        The images, about 40 % of them with a lesion.

    Raises:
        SettingsError: Too few patients.
    """
    if num_patients < 5:
        raise SettingsError(f"num_patients: found {num_patients}. Give at least 5, so that both classes have patients.")
    cv2.setNumThreads(1)  # most steps take microseconds, less than to start threads
    numbers = Counter[str]()
    for patient, (label, traits) in enumerate(_plan_patients(np.random.default_rng(seed), num_patients)):
        generator, sequence = np.random.default_rng([seed, patient]), SEQUENCES[traits.contrast is FAT_SUPPRESSED]
        for pixels, marrow, lesion in draw_patient(generator, traits, label == LABELS[1]):
            numbers[label] += 1
            name = f"{TOP_FOLDER}/{label}/{NAME_STEMS[label]}{numbers[label]:06d}.png"
            yield DemoImage(name, f"synthetic-{seed}-{patient + 1:04d}", label, sequence, pixels, marrow, lesion)


def _plan_patients(generator: np.random.Generator, num_patients: int) -> list[tuple[str, Traits]]:
    num_lesions = round(LESION_FRACTION * num_patients)
    plan = []
    for label, count in zip(LABELS, (num_patients - num_lesions, num_lesions), strict=True):
        dealt = ([values[i % len(values)] for i in generator.permutation(count)] for values in TRAIT_VALUES)
        plan += [(label, Traits(*traits)) for traits in zip(*dealt, strict=True)]
    return [plan[i] for i in generator.permutation(num_patients)]


def write_demo_zip(zip_file: Path, seed: int, num_patients: int = NUM_PATIENTS) -> Path:
    """Write the demo as a zip file, atomically and byte for byte the same for the same seed.

    Beside the class folders are `SYNTHETIC.txt`, which marks the images as synthetic, and `SYNTHETIC-patients.csv` with
    the columns source_name, patient_id and sequence.

    Args:
        zip_file: The file to write or replace.
        seed: See `draw_demo`.
        num_patients: See `draw_demo`.

    Returns:
        `zip_file`.

    Raises:
        SettingsError: Too few patients.
        WorkspaceError: The disk is full or not writable.
    """
    rows = ["source_name,patient_id,sequence"]
    with replace_file(zip_file) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(_describe_entry(f"{TOP_FOLDER}/{SYNTHETIC_MARK}"), NOTICE.format(seed=seed))
        for image in draw_demo(seed, num_patients):
            archive.writestr(_describe_entry(image.source_name), encode_png(image.pixels))
            rows.append(f"{image.source_name},{image.patient_id},{image.sequence}")
        archive.writestr(_describe_entry(f"{TOP_FOLDER}/SYNTHETIC-patients.csv"), "\n".join(rows) + "\n")
    return zip_file


def _describe_entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, ZIP_DATE)
    entry.create_system, entry.external_attr = 3, 0o100644 << 16  # Unix, whatever this machine is
    return entry
