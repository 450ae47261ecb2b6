"""Time and memory of each step of the pipeline by number of images: `python -m tests.benchmarks.load FOLDER`.

`--images 20000 200000` makes a zip of so many small images for each number, runs the real flow over it in a process of
its own, and watches the memory of that process and of all that it starts. What a step takes per image is then compared
between the numbers: a step is linear where the last image costs no more than the first.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tests.benchmarks.memory import MemoryWatch

PROJECT: Final = Path(__file__).parents[2]
IMAGE_SIZE: Final = 32
LESION_FRACTION: Final = 0.1  # of patients
MAX_IMAGES_PER_PATIENT: Final = 8
COPY_FRACTION: Final = 0.02  # of images that resemble one of another patient
SMALL: Final = {
    "data.patient-pattern": "(p[0-9]+)_",
    "preprocessing.image-size": IMAGE_SIZE,
    "model.backbone": "ResNet50",
    "model.weights": "random",
    "model.hidden-units": 16,
    "training.epochs": 3,
    "training.horizontal-flip": "false",
    "evaluation.cross-validation-folds": 2,
    "evaluation.cross-validation-seeds": 1,
}
"""Settings that make the work on one image small, so that what else an image costs shows."""

STEP: Final = re.compile(r"[0-9:]{8}  (\w+) \.\.\.")
"""The log line that marks the start of a step."""


def draw_images(num_images: int, seed: int = 0) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Draw small images, all different: names with class folder and patient, and gray levels.

    A patient has up to `MAX_IMAGES_PER_PATIENT` images of one class; some images come back for another patient with
    a little noise, so that groups are more than patients.
    """
    generator = np.random.default_rng(seed)
    patient = left = 0
    has_lesion, earlier = False, np.zeros((8, 8), np.uint8)
    for number in range(num_images):
        if not left:
            patient, left = patient + 1, int(generator.integers(1, MAX_IMAGES_PER_PATIENT + 1))
            has_lesion = generator.random() < LESION_FRACTION
        left -= 1
        if generator.random() >= COPY_FRACTION:
            earlier = generator.integers(40, 200, (8, 8), np.uint8)
        levels = cv2.resize(earlier, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_CUBIC)
        levels = cv2.add(levels, generator.integers(0, 6, levels.shape, np.uint8))
        if has_lesion:
            cv2.circle(levels, tuple(map(int, generator.integers(8, 24, 2))), 4, 250, cv2.FILLED)
        folder = "osseous_lesion" if has_lesion else "normal"
        yield f"MR/hip/{folder}/p{patient:06d}_{number:07d}.png", levels.astype(np.uint8)


def write_zip(file: Path, num_images: int) -> Path:
    """Write a zip of small images."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, levels in draw_images(num_images):
            archive.writestr(name, cv2.imencode(".png", levels)[1].tobytes())
    return file


def measure_flow(folder: Path, num_images: int) -> dict[str, Any]:
    """Run the pipeline over so many images.

    Returns:
        `images`, `seconds` of all, `report_mb`, and `steps`: by step the seconds, the `processor_seconds` of all
        processes, which a busy machine leaves alone, and at their most `main_mb` of the flow's process and `tree_mb` of
        all, the server among them.
    """
    source = write_zip(folder / f"{num_images}.zip", num_images)
    workspace = folder / f"workspace-{num_images}"
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    command = [sys.executable, "-m", "flows.pipeline", f"--source={source}", f"--workspace={workspace}", *options]
    begun = [("start", time.perf_counter())]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        with MemoryWatch(process.pid, lambda: begun[-1][0]) as watch:
            for line in process.stderr:
                sys.stderr.write(line)
                if found := STEP.match(line):
                    begun.append((found[1], time.perf_counter()))
    if process.returncode:
        raise RuntimeError(f"the pipeline failed on {num_images} images, and left {workspace}")
    names, starts = zip(*begun, strict=True)
    seconds = pd.Series(np.diff([*starts, time.perf_counter()]), index=list(names))
    steps = watch.summarize().join(seconds.groupby(level=0, sort=False).sum().round(2).rename("seconds"))
    report = next((workspace / "runs").glob("*/report.html"))
    sizes = {"report_mb": report.stat().st_size / 1e6}
    pd.DataFrame(watch.samples).to_csv(folder / f"samples-{num_images}.csv", index=False)
    shutil.rmtree(workspace)
    source.unlink()
    return {"images": num_images, "seconds": float(seconds.sum()), **sizes, "steps": steps.to_dict("index")}


def compare_runs(few: dict[str, Any], many: dict[str, Any]) -> dict[str, Any]:
    """What one more image costs between two runs, by step.

    Returns:
        For each step `seconds_ratio`, the time per image of the larger run over that of the smaller: 1 for a linear
        step, less where a fixed part weighs (and `processor_seconds_ratio`, where it was measured); and
        `main_bytes_per_image` and `tree_bytes_per_image`, how much the highest memory grew with each image.
    """
    more = many["images"] - few["images"]
    compared = {}
    for name in few["steps"].keys() & many["steps"].keys():
        before, after = few["steps"][name], many["steps"][name]
        compared[name] = {
            **{
                f"{of}_ratio": round(after[of] / max(before[of], 0.01) * few["images"] / many["images"], 2)
                for of in ("seconds", "processor_seconds")
                if of in after
            },
            **{
                f"{of}_bytes_per_image": round(1e6 * (after[f"{of}_mb"] - before[f"{of}_mb"]) / more)
                for of in ("main", "tree")
                if f"{of}_mb" in after
            },
        }
    return {name: compared[name] for name in many["steps"] if name in compared}


def main() -> None:
    """Measure, and print JSON after each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="an empty one; 20 kB of disk per image are needed")
    parser.add_argument("--images", type=int, nargs="+", default=[20_000, 200_000])
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    for num_images in given.images:
        runs.append(measure_flow(given.folder.resolve(), num_images))
        results = {"runs": runs, "compared": compare_runs(runs[0], runs[-1]) if len(runs) > 1 else {}}
        (given.folder / "load.json").write_text(json.dumps(results, indent=2) + "\n")
    print((given.folder / "load.json").read_text())


if __name__ == "__main__":
    main()
