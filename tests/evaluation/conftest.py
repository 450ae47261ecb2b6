"""A small finished run, as the evaluation meets it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hip_mri.config import LABELS
from hip_mri.data.ingest import IngestReport
from hip_mri.evaluation.charts.sheets import ContrastSample
from hip_mri.evaluation.figures import draw_figures
from hip_mri.evaluation.metrics import evaluate_predictions
from hip_mri.evaluation.summary import ReportSummary
from hip_mri.evaluation.wording import collect_notices, summarize_notices

NUM_IMAGES = {"train": 140, "val": 30, "test": 40}
NOTICES = collect_notices(is_demo=True, weights_notice="RANDOM WEIGHTS: the backbone was given random weights.")


@pytest.fixture(scope="session")
def predictions() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    splits = np.repeat(list(NUM_IMAGES), list(NUM_IMAGES.values()))
    labels = np.arange(len(splits)) % 5 < 2
    scores = 1 / (1 + np.exp(-generator.normal(np.where(labels, 1.0, -1.0), 1.2)))
    return pd.DataFrame(
        {
            "image_id": [f"{number:016x}" for number in range(len(splits))],
            "split": splits,
            "label": np.array(LABELS)[labels.astype(int)],
            "score": scores.astype(np.float32),
        }
    )


@pytest.fixture(scope="session")
def history() -> pd.DataFrame:
    epochs = np.arange(1, 9)
    falling = np.exp(-epochs / 4)
    return pd.DataFrame(
        {
            "epoch": epochs,
            "loss": 0.2 + 0.5 * falling,
            "accuracy": 0.95 - 0.4 * falling,
            "val_loss": 0.4 + 0.3 * falling,
            "val_accuracy": 0.85 - 0.3 * falling,
        }
    )


@pytest.fixture(scope="session")
def samples() -> list[ContrastSample]:
    generator = np.random.default_rng(1)

    def draw(height: int, width: int) -> np.ndarray:
        return generator.integers(0, 256, (height, width), np.uint8)

    labels = [LABELS[0], LABELS[0], LABELS[0], LABELS[1], LABELS[1]]
    return [ContrastSample(f"{row:016x}", label, draw(256, 300), draw(224, 224)) for row, label in enumerate(labels)]


@pytest.fixture(scope="session")
def figures(predictions, history, samples, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("figures")
    return draw_figures(predictions, history, samples, 0.5, folder, summarize_notices(NOTICES))


@pytest.fixture(scope="session")
def summary(predictions, figures) -> ReportSummary:
    counts = predictions.groupby(["split", "label"]).size()
    return ReportSummary(
        title="Osseous lesions on hip MRI",
        run_name="0001",
        created="2025-11-22 21:14 UTC",
        threshold=0.5,
        metrics=evaluate_predictions(predictions, 0.5),
        split_counts={split: {label: int(counts[split, label]) for label in LABELS} for split in NUM_IMAGES},
        ingest=IngestReport(num_images=210, num_duplicates=12, num_quarantined=5, num_ignored=3, num_taken_over=0),
        quarantine_reasons={"not_an_image": 3, "contradictory_label": 2},
        weights="random",
        engine="openvino, bfloat16",
        engine_reason="bfloat16 was asked for",
        settings={"source": "Smith.zip", "workspace": "/srv/w", "model.weights": "/home/x/r.h5", "training.epochs": 30},
        seconds={"extract_features": 412.7, "train_head": 11.4, "draw_figures": 0.3},
        versions={"keras": "3.15.0"},
        figures=tuple(figures),
        notices=NOTICES,
        report_location="runs/0001/report.html",
    )
