"""How often text in phantoms is found, how often it is found where there is none, and how long an image takes.

python -m tests.benchmarks.burned_in_text
"""

import itertools
import time
from collections import defaultdict
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hip_mri.images.burned_in_text import find_text
from hip_mri.synthetic.demo import draw_demo

NUM_IMAGES = 300
SIDES = (None, None, 320, 384, 512)
"""Height and width; `None` leaves the phantom's own, 224 to 256 pixels."""

FONT_FILE = Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
CAPITAL_HEIGHT = 0.73
"""Of the font's size."""

TEXTS = {
    "name": ("MUELLER^ANNA", "Schmidt, Karl", "DOE JANE"),
    "date": ("12.03.1958", "07.11.2019", "2018-04-30"),
    "id": ("ID 482913", "ID 100274", "ID 990118"),
    "window": ("W 410 L 205", "W 800 L 60", "W 350 L 40"),
    "letter": ("R", "L", "A"),
    "scale bar": ("5 cm", "10 cm", "5 cm"),
}


def draw_clean() -> list[np.ndarray]:
    phantoms = itertools.islice((image.pixels for image in draw_demo(11, num_patients=190)), NUM_IMAGES)
    sides = itertools.cycle(SIDES)
    return [
        image if side is None else np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC))
        for image, side in zip(phantoms, sides, strict=False)
    ]


def add_text(image: np.ndarray, text: str, height: int, gray: int, generator: np.random.Generator) -> np.ndarray:
    font = ImageFont.truetype(str(FONT_FILE), round(height / CAPITAL_HEIGHT))
    picture = Image.fromarray(image)
    drawing = ImageDraw.Draw(picture)
    left, top, right, bottom = drawing.textbbox((0, 0), text, font=font)
    x = generator.integers(2, max(3, picture.width - right + left - 2))
    y = generator.choice([4, picture.height // 2, picture.height - bottom + top - 12])
    drawing.text((x - left, y - top), text, fill=gray, font=font)
    if text.endswith("cm"):
        end = y + bottom - top + 5
        drawing.line([(x, end - 3), (x, end), (x + 60, end), (x + 60, end - 3)], fill=gray)
    return np.array(picture)


def main() -> None:
    """Print the figures."""
    generator = np.random.default_rng(1)
    clean = draw_clean()
    find_text(clean[0])
    start = time.process_time()
    num_false = sum(bool(find_text(image)) for image in clean)
    print(f"{num_false} false alarms in {len(clean)} images")
    print(f"{(time.process_time() - start) / len(clean):.3f} s of processor time an image")
    found = defaultdict[str, list[bool]](list)
    for number, image in enumerate(clean):
        kind = list(TEXTS)[number % len(TEXTS)]
        height, gray = (int(generator.choice(values)) for values in ((8, 10, 12, 16, 20), (140, 180, 230, 255)))
        hit = bool(find_text(add_text(image, str(generator.choice(TEXTS[kind])), height, gray, generator)))
        for name in (kind, f"height {height:2}", f"gray {gray}"):
            if name == "letter" or kind != "letter":
                found[name].append(hit)
    for name, hits in sorted(found.items()):
        print(f"{name:10} {np.mean(hits):.2f} of {len(hits)}")


if __name__ == "__main__":
    main()
