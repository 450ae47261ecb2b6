"""`python -m tests.benchmarks.sandbox`: cost of decoding in separate processes, as ratios.

The same zip file is ingested into new workspaces, in turn with and without such processes, each time by a process that
does nothing else; the figures are medians of all turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Self

import cv2
import numpy as np

from hip_mri.dataset import entries
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import ingest_images
from hip_mri.images.decoding_results import EncodedPicture, ReadingOptions
from hip_mri.images.reading import read_pictures
from hip_mri.images.stored_png import encode_png, hash_pixels
from hip_mri.synthetic.demo import draw_demo
from hip_mri.workspace import Workspace

SIDES = ("without processes", "with processes")


class DirectReader:
    """Reads where it is asked: what `Sandbox` is held against."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def __init__(self, options: ReadingOptions) -> None:
        self._options = options

    def encode(self, content: bytes) -> list[EncodedPicture]:
        pictures = read_pictures(content, self._options)
        return [EncodedPicture(hash_pixels(it.levels), encode_png(it.levels)) for it in pictures]


def write_images(file: Path, num_images: int) -> None:
    """Demo slices, each made different by its first pixels."""
    slices = list(draw_demo(seed=1, num_patients=20))
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(num_images):
            image = slices[number % len(slices)]
            pixels = image.pixels.copy()
            pixels[0, :4] = np.frombuffer(number.to_bytes(4, "little"), np.uint8)
            archive.writestr(f"{image.label}/{number}.png", encode_png(pixels))


def ingest(side: str, file: Path, folder: Path) -> dict[str, float]:
    """Take the file into a new workspace; seconds by the clock, and of the processors, those of all processes."""
    if side == SIDES[0]:
        entries.Sandbox = DirectReader
        entries.NUM_THREADS_PER_CORE = 1
    cv2.setNumThreads(1)
    workspace = Workspace(folder)
    workspace.prepare()
    wall, before = time.perf_counter(), sum(os.times()[:4])
    ingest_images([Delivery("source", file)], workspace, os.cpu_count() or 1)
    return {"wall_seconds": time.perf_counter() - wall, "processor_seconds": sum(os.times()[:4]) - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=24_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=None, help="for the workspaces; best a disk in memory")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hip-mri-bench-", dir=given.folder) as scratch:
        if given.side:
            print(json.dumps(ingest(given.side, given.file, Path(scratch))))
            return
        file = Path(scratch) / "images.zip"
        write_images(file, given.images)
        command = [sys.executable, "-m", "tests.benchmarks.sandbox", "--folder", scratch, "--file", str(file)]
        turns = {side: [] for side in SIDES}
        for side in SIDES * given.turns:
            turns[side].append(json.loads(subprocess.check_output([*command, "--side", side], text=True)))
    costs = {
        side: {name: statistics.median(turn[name] for turn in turned) for name in turned[0]}
        for side, turned in turns.items()
    }
    ratios = {name: costs[SIDES[1]][name] / costs[SIDES[0]][name] for name in costs[SIDES[0]]}
    print(json.dumps({"num_images": given.images, **costs, "ratio": ratios}, indent=2))


if __name__ == "__main__":
    main()
