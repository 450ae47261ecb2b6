"""Measures how often the shortcut test warns: of differences planted in the demo's phantoms, and without any.

    python -m tests.benchmarks.shortcuts WEIGHTS [NUM_DRAWS]

WEIGHTS is a weights file of ResNet50. Phantoms of 1,400 patients are drawn once; each draw takes 290 of them, divides
them into training and test patients, and compares trees on size, file and margin with a ridge regression on features.
Takes about half an hour on two idle cores.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS, PreprocessingSettings
from hip_mri.evaluation.audits.shortcuts import DECISIVE, is_explained, measure_auc
from hip_mri.images.clahe_and_resizing import preprocess_image
from hip_mri.images.shortcut_statistics import compute_numbers
from hip_mri.models.backbones.engines import FeatureEngine
from hip_mri.monitoring.shortcuts import score_images
from hip_mri.synthetic.demo import draw_demo
from tests.benchmarks.drift import open_network

Image = NDArray[np.uint8]

NUM_PATIENTS: Final = 1400
NUM_DRAWN: Final = 290
SETTINGS: Final = PreprocessingSettings()


def put_marker(image: Image) -> Image:
    """Write a letter of 9 pixels into the upper left corner."""
    image = image.copy()
    cv2.putText(image, "L", (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255,), 1, cv2.LINE_AA)
    return image


def brighten(image: Image) -> Image:
    """Raise all gray levels by a fifth."""
    return (image * 1.2).clip(0, 255).round().astype(np.uint8)


def change_scanner(image: Image) -> Image:
    """Blur by 0.6 pixels, add noise of 2 gray levels, and raise gray levels by 3%."""
    noise = np.random.default_rng(int(image.sum())).normal(0, 2, image.shape)
    return (cv2.GaussianBlur(image, (0, 0), 0.6) * 1.03 + noise).clip(0, 255).round().astype(np.uint8)


PLANTS: Final[dict[str, Callable[[Image], Image]]] = {
    "none": lambda image: image,
    "marker": put_marker,
    "brighter": brighten,
    "scanner": change_scanner,
}


def measure_rate(images: pd.DataFrame, features: NDArray[np.float32], num_draws: int) -> float:
    """Fraction of the draws that warn; columns label, group and the numbers of `images`."""
    patients = images.groupby("group")["label"].first()
    warnings = []
    for draw in range(num_draws):
        chosen = patients.sample(NUM_DRAWN, random_state=draw)
        is_training = images["group"].isin(chosen.index[: round(0.7 * NUM_DRAWN)]).to_numpy()
        is_test = images["group"].isin(chosen.index[round(0.85 * NUM_DRAWN) :]).to_numpy()
        training, test = images[is_training], images[is_test]
        scores = score_images(training, test)[f"score_{DECISIVE}"]
        found = fit_ridge(features[is_training], training["label"] == LABELS[1], features[is_test])
        network = measure_auc(test, found, draw, 400)
        warnings.append(is_explained(measure_auc(test, scores, draw, 400), network["interval"]))
    return float(np.mean(warnings))


def fit_ridge(rows: NDArray[np.float32], labels: pd.Series, new_rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Score new rows by ridge regression on standardized features; 0-1."""
    mean, spread = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-3)
    rows, new_rows = (rows - mean) / spread, (new_rows - mean) / spread
    gram = rows @ rows.T
    gram[np.diag_indices_from(gram)] += gram.trace() / len(gram)
    signs = np.where(labels, 1.0, -1.0)
    return 1 / (1 + np.exp(-2 * (new_rows @ (rows.T @ np.linalg.solve(gram, signs - signs.mean())))))


def compute_features(engine: FeatureEngine, images: list[Image]) -> NDArray[np.float32]:
    """Preprocess images and compute their features."""
    blocks = [images[start : start + 128] for start in range(0, len(images), 128)]
    return np.concatenate([engine.compute([preprocess_image(image, SETTINGS) for image in block]) for block in blocks])


def main(weights_file: str, num_draws: int = 100) -> None:
    """Print the rate of warnings for each of `PLANTS`."""
    drawn = list(draw_demo(77, NUM_PATIENTS))
    known = pd.DataFrame(
        {"label": [i.label for i in drawn], "group": [i.patient_id for i in drawn], "file_kind": "png"}
    )
    with TemporaryDirectory() as folder:
        engine = open_network(Path(folder), weights_file, SETTINGS, 2)
        for name, plant in PLANTS.items():
            images = [plant(image.pixels) if image.label == LABELS[1] else image.pixels for image in drawn]
            numbers = pd.DataFrame([compute_numbers(image, 1.0) for image in images])
            rate = measure_rate(pd.concat([known, numbers], axis=1), compute_features(engine, images), num_draws)
            print(f"{name:9} warned in {rate:.0%} of {num_draws} draws", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *(int(number) for number in sys.argv[2:3]))
