"""Measures size and time of `review.html`, and how long Chromium takes to show it.

    python -m tests.benchmarks.review [NUM_IMAGES ...]

Draws 300 phantoms, which are used again and again with other ids; each is decoded from PNG, as in a run.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from playwright.sync_api import sync_playwright

from hip_mri.config import LABELS, EvaluationSettings, PreprocessingSettings
from hip_mri.evaluation.figure_data import RunImages
from hip_mri.evaluation.metrics.results import Scores, evaluate
from hip_mri.evaluation.report.run_report import RunReport
from hip_mri.evaluation.review.page import read_review_data, write_review
from hip_mri.images.clahe_and_resizing import preprocess_image
from hip_mri.images.stored_png import decode_png, encode_png
from hip_mri.synthetic.demo import draw_demo
from tests.browser import find_chromium
from tests.evaluation.conftest import make_label_review

NUM_THREADS: Final = 2

MOVE: Final = """slider => {
    const start = performance.now();
    slider.value = 0.3;
    for (const kind of ["input", "change"]) slider.dispatchEvent(new Event(kind, { bubbles: true }));
    return performance.now() - start;
}"""
"""Moves the threshold, and returns the milliseconds that the page takes."""


class Phantoms:
    """Stands in for `RunImages`."""

    def __init__(self, num_drawn: int) -> None:
        drawn = [image.pixels for image, _ in zip(draw_demo(0), range(num_drawn), strict=False)]
        self._originals = [encode_png(image) for image in drawn]
        self._inputs = [encode_png(preprocess_image(image, PreprocessingSettings())) for image in drawn]

    def read(self, image_ids: Sequence[str]) -> list[NDArray[np.uint8]]:
        return [decode_png(self._inputs[int(image_id, 16) % len(self._inputs)]) for image_id in image_ids]

    def read_original(self, image_id: str) -> NDArray[np.uint8]:
        return decode_png(self._originals[int(image_id, 16) % len(self._originals)])


def draw_scores(num_images: int) -> Scores:
    """Scores of an AUC of about 0.9; images of four are a group."""
    generator, order = np.random.default_rng(0), np.arange(num_images)
    is_lesion = order // 4 % 5 < 2
    predictions = pd.DataFrame(
        {
            "image_id": [f"{number:016x}" for number in order],
            "split": np.array(["train", "train", "train", "val", "test"])[order // 4 % 23 % 5],
            "label": np.array(LABELS)[is_lesion.astype(int)],
            "score": 1 / (1 + np.exp(-generator.normal(np.where(is_lesion, 0.9, -0.9), 1.0))),
            "group": [f"{number // 4:016x}" for number in order],
            "patient": "",
        }
    )
    neighbors = pd.DataFrame(columns=["image_id", "neighbour_id", "distance"])
    return Scores(
        predictions, neighbors, label_review=make_label_review(predictions.drop(columns=["group", "patient"]))
    )


def measure(num_images: int, phantoms: Phantoms, folder: Path) -> None:
    scores = draw_scores(num_images)
    metrics = evaluate(scores, EvaluationSettings(num_resamples=200), seed=0)
    config = {
        "evaluation": {"min_subgroup_size": 10},
        "preprocessing": {"clahe_clip_limit": 2.0},
        "training": {"fine_tune": {"epochs": 0}},
    }
    run = RunReport(metrics | {"notices": []}, config)
    file, start = folder / "review.html", time.perf_counter()
    write_review(file, run, scores, None, cast("RunImages", phantoms), [], NUM_THREADS)
    seconds = time.perf_counter() - start
    num_shown = len(read_review_data(file)["images"]["image_id"])
    num_large = file.read_text().count('"original":')
    print(
        f"{num_images:,} images: {num_shown:,} shown, {num_large:,} with large pictures, "
        f"{file.stat().st_size / 1e6:.1f} MB, written in {seconds:.1f} s, {show(file)}",
        flush=True,
    )


def show(file: Path) -> str:
    """Seconds until Chromium shows the images, and until a moved threshold has its figures and order."""
    if (program := find_chromium()) is None:
        return "no Chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page, start = browser.new_page(), time.perf_counter()
        page.goto(file.as_uri())
        page.locator("#grid .card").first.wait_for()
        shown = time.perf_counter() - start
        milliseconds = page.locator("[name=threshold]").evaluate(MOVE)
        browser.close()
    return f"shown after {shown:.1f} s, threshold moved in {milliseconds:.0f} ms"


if __name__ == "__main__":
    drawn = Phantoms(300)
    with TemporaryDirectory() as folder:
        for argument in sys.argv[1:] or ("500", "5000", "50000"):
            measure(int(argument), drawn, Path(folder))
