"""A small finished run."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hip_mri.config import LABELS, EvaluationSettings
from hip_mri.evaluation.charts.captions import collect_notices, summarize_notices
from hip_mri.evaluation.charts.figures import FigureData, draw_figures
from hip_mri.evaluation.charts.image_sheets import ContrastSample
from hip_mri.evaluation.metrics.results import Scores, evaluate
from hip_mri.evaluation.report.run_report import RunReport
from hip_mri.images.shortcut_statistics import NUMBERS
from hip_mri.monitoring.shortcuts import COMBINATIONS

NUM_IMAGES = {"train": 140, "val": 30, "test": 40}
NOTICES = collect_notices(is_synthetic=True, weights_notice="RANDOM WEIGHTS: the backbone was given random weights.")


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
def scores(predictions) -> Scores:
    """The predictions in groups of two neighbors, with tables of neighbors, folds and the leakage test."""
    generator = np.random.default_rng(3)
    order = np.arange(len(predictions))
    grouped = predictions.assign(
        score=predictions["score"].astype(float), group=[f"{number // 2:016x}" for number in order], patient=""
    )
    grouped["patient"] = grouped["group"]
    neighbors = pd.DataFrame(
        {
            "image_id": list(predictions["image_id"][170:]),
            "neighbour_id": list(predictions["image_id"][40:80]),
            "distance": generator.uniform(0.4, 0.7, 40),
        }
    )
    training = predictions[predictions["split"] == "train"]
    folds = [
        training[["image_id", "label", "score"]].assign(scheme=scheme, seed=0, fold=np.arange(len(training)) % 5)
        for scheme in ("grouped", "by_image")
    ]
    leakage = draw_leakage_aucs(generator, 0.5)
    tables = {
        "shortcuts": draw_shortcut_table(grouped, generator),
        "training_sizes": draw_curve_table(generator),
        "label_review": make_label_review(predictions),
    }
    return Scores(grouped, neighbors, pd.concat(folds, ignore_index=True), leakage, **tables)


def draw_shortcut_table(predictions: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Numbers and scores of the test images that do not depend on the label."""
    images = predictions.loc[predictions["split"] == "test", ["image_id"]].reset_index(drop=True)
    drawn = {name: generator.random(len(images)) for name in (*NUMBERS, *(f"score_{name}" for name in COMBINATIONS))}
    return images.assign(file_kind="png", **drawn)


def draw_curve_table(generator: np.random.Generator) -> pd.DataFrame:
    """A rising curve with ten draws and fifty resamples."""
    sizes = np.array([9, 18, 36, 63, 90])
    curve = pd.DataFrame({"fraction": (0.1, 0.2, 0.4, 0.7, 1.0), "num_groups": sizes, "num_images": 2 * sizes})
    return pd.concat(
        curve.assign(kind=kind, number=number, auc=0.95 - 0.5 * sizes**-0.5 + generator.normal(0, 0.005, 5))
        for kind, count in (("draw", 10), ("resample", 50))
        for number in range(count)
    )


def make_label_review(predictions: pd.DataFrame) -> pd.DataFrame:
    """The labels that contradict the score most; two of them have near duplicates with another label."""
    confidence = predictions["score"].where(predictions["label"] == LABELS[1], 1 - predictions["score"])
    review = predictions.assign(score=predictions["score"].astype(float), confidence=confidence)
    review = review.sort_values("confidence", ignore_index=True).drop(columns="confidence")
    reasons = ["score", "score+near_duplicate", "near_duplicate", *["score"] * 6]
    reasons += [""] * (len(review) - len(reasons))
    is_suspected = [str(reason != "") for reason in reasons]
    rank = range(1, len(review) + 1)
    return review.assign(
        rank=rank, is_suspected=is_suspected, reason=reasons, neighbors=review["image_id"].iloc[::-1].to_numpy()
    )


def draw_leakage_aucs(generator: np.random.Generator, mean: float) -> pd.DataFrame:
    """Draws of a leakage test with three kinds of blocks."""
    kinds = [("order", 2, 0.03), ("order", 8, 0.06), ("features", 2, 0.03)]
    return pd.concat(
        pd.DataFrame(
            {"by": by, "length": length, "num_images": 140, "num_blocks": 140 // length, "draw": range(50)}
        ).assign(auc=mean + spread * generator.normal(size=50))
        for by, length, spread in kinds
    )


@pytest.fixture(scope="session")
def metrics(scores) -> dict[str, Any]:
    """What `metrics.json` of this run holds."""
    counts = scores.predictions.groupby(["split", "label"]).size()
    return evaluate(scores, EvaluationSettings(num_resamples=200), seed=7) | {
        "weights": "random",
        "notices": list(NOTICES),
        "data": {
            "num_entries": 230,
            "num_images": 210,
            "num_held_out": 0,
            "num_held_out_lesions": 0,
            "num_duplicates": 12,
            "num_quarantined": 5,
            "num_ignored": 3,
            "num_taken_over": 0,
            "quarantined": {"not_an_image": 3, "contradictory_label": 2},
            "splits": {split: {label: int(counts[split, label]) for label in LABELS} for split in NUM_IMAGES},
            "largest_deviation": 0.004,
            "num_kept": 0,
            "num_prescribed": 0,
            "num_assigned": 210,
            "given_split": {
                "by": "",
                "num_given_twice": 0,
                "num_images": {},
                "num_held_out": {},
                "num_divided_groups": 0,
                "num_drawn": {},
            },
        },
        "grouping": {
            "num_groups": 105,
            "largest_group": 2,
            "num_patients": 0,
            "num_without_patient": 210,
            "evidence": {"patient_id": 0, "patient_pattern": 0, "exact": 4, "similar": 206, "order": 180},
            "inferred": {
                "num_images": 210,
                "num_examinations": 105,
                "num_ordered": 210,
                "has_features": False,
                "false_cuts": 0.012,
                "missed_borders": 0.08,
            },
            "num_contradictory": 0,
            "is_patient_level": False,
            "has_constant_patient": False,
        },
        "test_set": {"sha256": "ab" * 32, "num_images": 40, "num_missing": 0},
        "features": {
            "engine": "openvino",
            "precision": "bfloat16",
            "reason": "bfloat16 was asked for",
            "input_scaling": "caffe",
        },
        "seconds": {"extract_features": 412.7, "train_head": 11.4, "draw_figures": 0.3},
        "versions": {"hip-mri": "1.2.0", "keras": "3.15.0"},
        "environment": {"commit": "cd" * 20, "flow_run_id": None, "model_sha256": "ef" * 32},
        "created": "2025-11-22 21:14 UTC",
    }


@pytest.fixture(scope="session")
def figure_data(scores, metrics, history, samples) -> FigureData:
    at_half = metrics | {"threshold": 0.5}
    return FigureData(scores.predictions, at_half, history, samples=samples)


@pytest.fixture(scope="session")
def figures(figure_data, tmp_path_factory) -> list[Path]:
    return draw_figures(figure_data, tmp_path_factory.mktemp("figures"), summarize_notices(NOTICES))


@pytest.fixture(scope="session")
def run(metrics, figures) -> RunReport:
    config = {
        "source": "Smith.zip",
        "workspace": "/srv/w",
        "model": {"backbone": "ResNet101", "weights": "/home/x/r.h5"},
    }
    config |= {"preprocessing": {"clahe_clip_limit": 0, "image_size": 224}, "evaluation": {"num_resamples": 200}}
    return RunReport(metrics, config, Path("workspace/runs/0001"), tuple(figures))
