"""Draws the anatomy of a synthetic hip: the tissue of each pixel of a coronal slice.

Frame of all outlines: millimeters, origin in the center of the femoral head, x to the patient's side (lateral), y to
the feet, z to the front. They change smoothly with z, so neighboring slices look alike. The shapes are drawn by hand;
the angle of neck and shaft (about 130 degrees) follows Toogood et al., Clin Orthop Relat Res 467:876, 2009.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

HEAD_RADIUS: Final = 24.0  # mm
SUPERSAMPLING: Final = 2  # finer than the image; averaging then gives the partial volume at borders

Points = NDArray[np.float64]
Shape = tuple[int, Points, float]
"""Part, outline or path, and width of a path in mm; 0 fills the outline. Later shapes cover earlier ones."""

Tissue = IntEnum(
    "Tissue",
    "AIR SKIN FAT MUSCLE TENDON CORTEX FEMUR_MARROW PELVIS_MARROW CARTILAGE FLUID VESSEL BOWEL SYNOVIUM",
    start=0,
)


def parse_outline(text: str) -> Points:
    """Read corner points written as `x y, x y, ...`; gives shape (corners, values)."""
    return np.array([row.split() for row in text.split(",")], dtype=np.float64)


def round_corners(corners: Points, num_steps: int = 5) -> Points:
    """Run a closed Catmull-Rom spline through corners, shape (n, values); gives (n * num_steps, values)."""
    step = np.arange(num_steps)[:, None] / num_steps
    ring = np.concatenate([corners[-1:], corners, corners[:2]])[:, None, :]
    before, here, after, beyond = ring[:-3], ring[1:-2], ring[2:-1], ring[3:]
    linear, square = after - before, 2 * before - 5 * here + 4 * after - beyond
    cubic = 3 * (here - after) + beyond - before
    return (here + 0.5 * (linear * step + square * step**2 + cubic * step**3)).reshape(-1, corners.shape[1])


# Tissue, relative growth per mm to the front, run of the fibers in degrees from the x axis, outline.
SOFT_TISSUES: Final = (
    (Tissue.BOWEL, -0.01, 0, "-104 -112, -72 -118, -58 -98, -66 -78, -86 -72, -106 -82"),
    (Tissue.BOWEL, 0.02, 0, "-62 -74, -54 -68, -58 -54, -72 -52, -78 -60, -72 -72"),
    (Tissue.FLUID, 0.02, 0, "-115 -44, -90 -47, -72 -36, -66 -12, -72 6, -92 13, -115 8"),
    # levator ani, iliopsoas, obturator internus, obturator externus
    (Tissue.MUSCLE, 0.0, 70, "-58 -12, -56 4, -62 26, -80 50, -84 47, -68 24, -62 4"),
    (Tissue.MUSCLE, 0.006, 108, "-30 -135, 1 -135, -3 -100, -9 -72, -22 -46, -35 -30, -43 -32, -50 -52, -46 -92"),
    (Tissue.MUSCLE, -0.01, 85, "-40 -30, -40.5 -5, -39.5 14, -35 29, -40 37, -51 28, -55 0, -51 -25"),
    (Tissue.MUSCLE, 0.01, 5, "-46 39, -26 34, -8 32, 6 35, 16 43, 14 51, -4 50, -24 50, -46 51"),
    # gluteus minimus, gluteus medius, gluteus maximus with the tensor of the fascia lata
    (Tissue.MUSCLE, 0.003, 60, "18 -96, 27 -64, 37 -40, 49 -20, 54 -11, 48 -6, 40 -8, 33 -16, 27 -24, 22 -33, 17 -54"),
    (Tissue.MUSCLE, -0.004, 72, "21 -125, 48 -122, 60 -88, 66 -54, 69 -28, 67 -4, 62 -5, 56 -13, 47 -29, 26 -78"),
    (Tissue.MUSCLE, -0.015, 75, "52 -135, 68 -102, 77 -68, 77 -36, 73 -14, 70 -40, 66 -78"),
    # vastus lateralis, vastus medialis, pectineus, adductor longus, adductor magnus, gracilis
    (Tissue.MUSCLE, 0.004, 85, "66 38, 71 52, 75 80, 76 115, 75 150, 57 150, 57 95, 60 62"),
    (Tissue.MUSCLE, 0.004, 95, "19 66, 20 95, 22 150, 6 150, 7 98, 13 76"),
    (Tissue.MUSCLE, 0.01, 15, "-46 55, -20 52, 4 53, 17 57, 15 70, -8 74, -32 67"),
    (Tissue.MUSCLE, 0.006, 42, "-57 58, -40 61, -10 77, 11 76, 7 98, -5 116, -31 92"),
    (Tissue.MUSCLE, -0.008, 58, "-65 62, -55 65, -33 95, -12 118, 3 150, -38 150, -55 110, -65 84"),
    (Tissue.MUSCLE, 0.0, 85, "-75 67, -68 70, -60 100, -55 150, -68 150, -75 95"),
)

SOFT_OUTLINES: Final = tuple(round_corners(parse_outline(outline)) for *_, outline in SOFT_TISSUES)

# A part is a tissue or, from `len(Tissue)` on, an entry of `SOFT_TISSUES`. Tables for OpenCV have 256 entries.
TISSUE_OF_PART: Final = np.resize(np.array([*Tissue, *(tissue for tissue, *_ in SOFT_TISSUES)], np.uint8), 256)
FIBER_DEGREES_OF_PART: Final = np.resize([0] * len(Tissue) + [degrees for _, _, degrees, _ in SOFT_TISSUES], 256)

# Columns: x, y, drift of x and of y per mm to the front, thickness of the cortex in mm.
FEMUR_BELOW_HEAD: Final = parse_outline(
    "27 6 0 .1 1.2, 33 11 0 .1 1.4, 41 11 -.05 .2 1, 47 4 -.1 .5 .8, 53 -4 -.1 .7 .8, 60 -3 -.15 .7 .8,"
    "65.5 8 -.2 .4 .8, 67 22 -.25 .2 .9, 63 38 -.2 0 1.4, 59 52 -.1 0 3, 56 80 0 0 4.5, 55 110 0 0 5.5, 54 160 0 0 6,"
    "26 160 0 0 6, 24 110 0 0 5.5, 22.5 80 0 0 4.5, 20.5 66 .2 0 3, 16 56 .5 0 1.6, 18.5 46 .3 0 2.2, 17 37 0 -.1 3,"
    "10 27.5 0 -.1 2.4"
)
PELVIS_BESIDE_SOCKET: Final = parse_outline(
    "-25 25 0 0 1, -31 29 0 0 1.2, -36 16 0 0 1.4, -36.5 -2 0 0 1.2, -34 -20 0 0 1.4, -24 -40 0 0 1.6, -9 -66 .1 0 1.8,"
    "0 -100 .2 0 2, 4 -140 .2 0 2, 22 -140 .2 0 2, 17 -100 .2 0 2, 14 -75 .1 0 2, 15 -54 .1 0 1.8, 19 -38 0 .1 1.4,"
    "21 -28 0 .1 1.2"
)
ISCHIUM: Final = round_corners(parse_outline("-34 30, -22 31, -14 41, -16 54, -22 66, -34 71, -43 62, -40 45"))
PUBIS: Final = round_corners(parse_outline("-36 20, -52 16, -74 10, -100 14, -100 36, -74 31, -52 31, -38 30"))
BODY_SKIN: Final = parse_outline(
    "-120 -170, 66 -170, 70 -99, 78 -60, 80 -15, 80 25, 78 70, 78 120, 77 170, -76 170, -79 110, -84 78, -98 66, -99 62"
)
FASCIA_LATA: Final = round_corners(
    parse_outline("66 -150, 72 -100, 79 -64, 78 -30, 72 -8, 69 18, 71 46, 77 90, 77 150")
)[:-10]  # an open path
# Columns: x, y, half of the visible course in x and y, width; mm.
VESSELS: Final = parse_outline(
    "8 57 6 -1 1.2, -20 52 6 0 1, -58 36 2 5 1.6, 31 -48 3 6 1, 42 -26 2 4 .9, -57 -24 1 6 2.2, -30 80 5 6 1.2,"
    "30 80 0 7 1.2, -68 20 4 3 1.3, -39 -40 1 5 1.4, 53 47 4 3 .9, -66 -62 5 3 1.4"
)


@dataclass(frozen=True)
class Body:
    """One patient's shape and position in the scanner."""

    size: int  # height and width of the image, pixels
    pixel_spacing: float  # mm of the frame
    center: Points  # of the image in the frame, shape (2,)
    is_mirrored: bool  # the patient's side lies left in the image
    pelvis_degrees: float  # tilt of the whole body
    femur_degrees: float  # abduction of the femur
    fat_thickness: float  # of the subcutaneous fat beside the hip, mm
    muscle_bulk: float  # size of the muscles against their compartments
    joint_space: float  # from bone to bone, mm
    effusion: float  # width of the fluid beside the head, on top of 1 mm
    waves: Points  # individual deformation; a row: amplitude (mm), direction, wave vector of x, y and z, phase

    def place(self, points: Points, z: float) -> Points:
        """Map points of the frame (mm), shape (n, 2), to columns and rows (pixels) of the slice at `z`."""
        amplitude, direction, wave_x, wave_y, wave_z, phase = self.waves.T
        angle = points @ np.array([wave_x, wave_y]) + wave_z * z + phase
        shift = amplitude * np.sin(angle.astype(np.float32))  # less than 1e-4 mm off, and faster
        bent = points + shift @ np.column_stack([np.cos(direction), np.sin(direction)])
        turned = rotate(bent - self.center, self.pelvis_degrees) * [-1 if self.is_mirrored else 1, 1]
        return turned / self.pixel_spacing + self.size / 2


def draw_body(generator: np.random.Generator, size: int) -> Body:
    """Draw one patient's shape and position; `size` is the height and width of the image in pixels."""
    uniform = generator.uniform
    pitch = np.repeat([0.035, 0.15], 6)
    amplitude = uniform(0.3, 1.3, pitch.size) * (0.05 / (0.015 + pitch)) ** 0.7
    direction, phase = uniform(0, 2 * np.pi, (2, pitch.size))
    wave_vector = generator.normal(0, 1, (pitch.size, 2)) * pitch[:, None]
    return Body(
        size=size,
        pixel_spacing=uniform(169, 181) / size,
        center=uniform([7, 1], [15, 9]),
        is_mirrored=bool(generator.integers(2)),
        pelvis_degrees=generator.normal(0, 3),
        femur_degrees=generator.normal(0, 4),
        fat_thickness=14 + 22 * generator.beta(1.5, 3),
        muscle_bulk=uniform(0.93, 1.02),
        joint_space=uniform(3.0, 4.6),
        effusion=4 * generator.beta(1.3, 4),
        waves=np.column_stack([amplitude, direction, wave_vector, generator.normal(0, 0.04, pitch.size), phase]),
    )


def paint_slice(body: Body, z: float) -> NDArray[np.uint8]:
    """Paint the coronal slice at `z` mm, at most 16 mm before or behind the center of the femoral head.

    Returns:
        The part of each pixel, uint8, shape (size * SUPERSAMPLING, size * SUPERSAMPLING). `TISSUE_OF_PART` gives the
        tissue of a part, `FIBER_DEGREES_OF_PART` the direction of a muscle's fibers.
    """
    head_radius = float(np.sqrt(HEAD_RADIUS**2 - z**2))
    shapes = [
        *_outline_soft_tissues(body, z),
        *_outline_pelvis(head_radius + body.joint_space, z),
        *_outline_joint(body, head_radius),
        *_outline_femur(body.femur_degrees, head_radius, z),
    ]
    parts = np.full((body.size * SUPERSAMPLING, body.size * SUPERSAMPLING), Tissue.AIR, np.uint8)
    points = body.place(np.concatenate([points for _, points, _ in shapes]), z) * SUPERSAMPLING - 0.5
    ends = np.cumsum([len(points) for _, points, _ in shapes])
    placed = np.split(np.round(points * 2**4).astype(np.int32), ends[:-1])
    for (part, _, width), corners in zip(shapes, placed, strict=True):
        if width:
            num_pixels = max(1, round(width * SUPERSAMPLING / body.pixel_spacing))
            cv2.polylines(parts, [corners], False, int(part), num_pixels, shift=4)
        else:
            cv2.fillPoly(parts, [corners], int(part), shift=4)
    return parts


def _outline_soft_tissues(body: Body, z: float) -> Iterator[Shape]:
    skin = round_corners(BODY_SKIN + (BODY_SKIN[:, :1] > 0) * [body.fat_thickness, 0])
    yield Tissue.SKIN, skin, 0
    yield Tissue.FAT, shrink_outline(skin, 1.8), 0
    yield Tissue.TENDON, FASCIA_LATA, 0.9
    for part, ((_, growth, _, _), outline) in enumerate(zip(SOFT_TISSUES, SOFT_OUTLINES, strict=True), len(Tissue)):
        yield part, resize_outline(outline, body.muscle_bulk * (1 + growth * z)), 0
    for x, y, half_x, half_y, width in VESSELS:
        yield Tissue.VESSEL, np.array([[x - half_x, y - half_y], [x, y + 0.5], [x + half_x, y + half_y]]), width


def _outline_bone(marrow: Tissue, outline: Points, cortex: Points | float) -> list[Shape]:
    return [(Tissue.CORTEX, outline, 0), (marrow, shrink_outline(outline, cortex), 0)]


def _outline_pelvis(socket_radius: float, z: float) -> Iterator[Shape]:
    outline, cortex = _close_around_head(PELVIS_BESIDE_SOCKET, draw_arc(socket_radius, -54, -218), z)
    yield from _outline_bone(Tissue.PELVIS_MARROW, outline, cortex)
    for outline, size in ((ISCHIUM, 0.75 - 0.035 * z), (PUBIS, 0.55 + 0.04 * z)):
        if size > 0.4:
            yield from _outline_bone(Tissue.PELVIS_MARROW, resize_outline(outline, min(size, 1.1)), 1.3)


def _outline_joint(body: Body, head_radius: float) -> Iterator[Shape]:
    gap, slack = body.joint_space, 0.7 * body.effusion
    above_neck = [[18, -30], [22 + slack, -18], [26 + slack, -5], [36, 10]]
    capsule = round_corners(np.array([*above_neck, [13, 33], [3, 26 + slack], [-12, 23 + slack], [-26, 24]]))
    yield Tissue.TENDON, capsule, 0
    yield Tissue.SYNOVIUM, shrink_outline(capsule, 1.3), 0
    for first_degrees, last_degrees in ((-44, 2), (76, 132)):
        yield Tissue.FLUID, draw_arc(head_radius + 0.9, first_degrees, last_degrees), 1 + body.effusion
    yield Tissue.CARTILAGE, draw_arc(head_radius + gap, 140, 306), 0
    fossa = np.concatenate([draw_arc(head_radius + gap + 1, 150, 208), draw_arc(head_radius, 208, 150)])
    yield Tissue.FAT, fossa, 0
    yield Tissue.CARTILAGE, draw_arc(head_radius + gap * 0.4, 0, 360), 0
    yield Tissue.FLUID, draw_arc(head_radius + gap * 0.5, 212, 308), 0.4
    labrum = np.concatenate([draw_arc(head_radius + gap * 0.6, 300, 316), [[24, -27], [18, -30]]])
    yield Tissue.TENDON, labrum, 0


def _outline_femur(femur_degrees: float, head_radius: float, z: float) -> Iterator[Shape]:
    outline, cortex = _close_around_head(FEMUR_BELOW_HEAD, draw_arc(head_radius, 82, 352), z)
    yield from _outline_bone(Tissue.FEMUR_MARROW, rotate(outline, femur_degrees), cortex)
    scar_of_physis = draw_arc(head_radius * 1.25, 165, 268) + np.array([18, 16])
    yield Tissue.TENDON, rotate(scar_of_physis[1:-1], femur_degrees), 0.4


def _close_around_head(bone: Points, arc: Points, z: float) -> tuple[Points, Points]:
    still_with_thin_cortex = np.column_stack([arc, np.zeros_like(arc), np.ones(len(arc))])
    corners = round_corners(np.concatenate([bone, still_with_thin_cortex]))
    return corners[:, :2] + corners[:, 2:4] * z, corners[:, 4]


def draw_arc(radius: float, first_degrees: float, last_degrees: float) -> Points:
    """Points about every 12 degrees on a circle about the femoral head; 0 is lateral, 90 towards the feet."""
    return radius * _draw_unit_arc(first_degrees, last_degrees)


@functools.cache
def _draw_unit_arc(first_degrees: float, last_degrees: float) -> Points:
    angles = np.deg2rad(np.linspace(first_degrees, last_degrees, 2 + int(abs(last_degrees - first_degrees) / 12)))
    return np.column_stack([np.cos(angles), np.sin(angles)])


def rotate(points: Points, degrees: float) -> Points:
    """Turn points, shape (n, 2), about the origin."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def resize_outline(outline: Points, factor: float) -> Points:
    """Scale an outline about its middle."""
    middle = outline.mean(axis=0)
    return middle + (outline - middle) * factor


def shrink_outline(outline: Points, thickness: Points | float) -> Points:
    """Move a closed outline, shape (n, 2), that runs clockwise on the screen, inwards by `thickness` mm."""
    ring = np.concatenate([outline[-1:], outline, outline[:1]])
    tangent = ring[2:] - ring[:-2]
    normal = np.column_stack([-tangent[:, 1], tangent[:, 0]]) / (np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9)
    return outline + normal * np.reshape(thickness, (-1, 1))
