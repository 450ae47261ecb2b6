"""Time and memory of operations on tables by number of rows: `python -m tests.benchmarks.load_rows FOLDER`.

`--rows 100000 1000000` makes a manifest for each number, with fingerprints and scores but without an image, and takes
it through the grouping, the search for copies, the split, the sharding, the figures with their intervals, the report
and the sheet of a batch: the library's own functions, each in a process of its own.
"""

import argparse
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hip_mri.config import LABELS, DataSettings, EvaluationSettings, PipelineConfig
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.entries import ENTRY_COLUMNS, keep_entries
from hip_mri.dataset.identities import identify_images
from hip_mri.dataset.manifest import ADDED_COLUMNS, MANIFEST_COLUMNS, read_manifest, write_manifest
from hip_mri.dataset.pseudonyms import make_pseudonyms, store_names
from hip_mri.dataset.row_store import RowStore
from hip_mri.dataset.shards import plan_shards
from hip_mri.evaluation.charts.figures import FigureData, draw_figures
from hip_mri.evaluation.conformal import DecisionRule
from hip_mri.evaluation.metrics.curves import bootstrap_curves
from hip_mri.evaluation.metrics.results import evaluate
from hip_mri.evaluation.report.documents import render_report
from hip_mri.evaluation.report.run_report import RunReport
from hip_mri.evaluation.run_tables import describe_manifest, read_scores
from hip_mri.grouping.fingerprints import FINGERPRINT_RECIPE, ROW
from hip_mri.grouping.groups import group_images
from hip_mri.grouping.similarity import find_similar_images
from hip_mri.grouping.split import split_manifest
from hip_mri.run_files import (
    FIGURES_FOLDER,
    FOLDS_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    NEIGHBORS_FILE,
    PREDICTIONS_FILE,
    REPORT_FILE,
)
from hip_mri.serving.examinations import tabulate_examinations
from hip_mri.serving.prediction_sheet import PredictionSheet, write_sheet
from hip_mri.workspace import Workspace
from tests.benchmarks.load import LESION_FRACTION, MAX_IMAGES_PER_PATIENT, compare_runs
from tests.benchmarks.memory import MemoryWatch

SHARD_SIZE: Final = 2048
NUM_FOLDS: Final = 5
COPY_FRACTION: Final = 0.01  # of images whose fingerprint is that of another one with a few bits turned
DELIVERY: Final = "0123456789abcdef"
SETTINGS: Final = EvaluationSettings()


def make_entries(num_rows: int, workspace: Workspace) -> pd.DataFrame:
    """A list of entries as reading a delivery makes it, its names remembered; one patient in ten has lesions."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, MAX_IMAGES_PER_PATIENT + 1, num_rows)
    patients = np.repeat(np.arange(num_rows), sizes)[:num_rows]
    labels = np.array(LABELS)[(generator.random(num_rows) < LESION_FRACTION).astype(int)][patients]
    numbered = zip(labels, patients, range(num_rows), strict=True)
    names = [f"MR/hip/{label}/p{patient:07d}_{number:07d}.png" for label, patient, number in numbered]
    pseudonyms = make_pseudonyms(names, workspace)
    store_names(dict(zip(pseudonyms, names, strict=True)), workspace)
    entries = pd.DataFrame(
        {
            "entry": pseudonyms,
            "version": [f"{number:08x}-1024" for number in range(num_rows)],
            "label": labels,
            "sha256": [hashlib.sha256(str(number).encode()).hexdigest() for number in range(num_rows)],
        }
    )
    numbers = {"slice": 0, "num_slices": 1, "num_bytes": 1024, "num_stored_bytes": 1024, "position": np.nan}
    entries = entries.assign(**numbers, **ADDED_COLUMNS, decoding="", patient="", series="", reason="")
    return entries[list(ENTRY_COLUMNS)]


def make_fingerprints(folder: Path, hashes: pd.Series) -> None:
    """Fingerprints without likeness, in parts as shards write them; a few are nearly that of another image."""
    generator = np.random.default_rng(0)
    sorted_hashes = hashes.sort_values(ignore_index=True)
    for start in range(0, len(hashes), SHARD_SIZE):
        keys = sorted_hashes[start : start + SHARD_SIZE].to_frame("sha256").assign(mirrored=False)
        rows = np.frombuffer(generator.bytes(len(keys) * ROW.itemsize), ROW).copy()
        copies = generator.random(len(keys)) < COPY_FRACTION
        originals = generator.integers(len(keys), size=int(copies.sum()))
        for field in ("hashes", "mirrored_hash", "thumbnail"):
            rows[field][copies] = rows[field][originals]
        rows["hashes"][copies, 0, 0] ^= 1
        RowStore(folder).add(keys, rows)


def make_workspace(root: Path, num_rows: int) -> None:
    """What ingest and fingerprinting leave behind, as far as the steps here read it."""
    workspace = Workspace(root)
    workspace.prepare()
    entries = make_entries(num_rows, workspace)
    keep_entries(DELIVERY, entries, workspace)
    manifest = entries.assign(image_id=entries["sha256"].str[:16], delivery=DELIVERY, state="ready")
    manifest = manifest.assign(group=manifest["image_id"]).reindex(columns=list(MANIFEST_COLUMNS), fill_value="")
    write_manifest(workspace.manifest_file, manifest)
    make_fingerprints(workspace.fingerprints_folder / str(FINGERPRINT_RECIPE), entries["sha256"])
    (root / "delivery").mkdir()


def plan(root: Path) -> None:
    """Cut the manifest into shards."""
    plan_shards(Workspace(root), SHARD_SIZE)


def group(root: Path) -> None:
    """Group by the pattern of names; copies are another step."""
    settings = DataSettings(patient_pattern="(p[0-9]+)_", group_similar=False)
    identify_images([Delivery(DELIVERY, root / "delivery")], Workspace(root), settings)
    group_images(Workspace(root), settings, num_threads=os.cpu_count() or 1)


def search_copies(root: Path) -> None:
    """Find near duplicates among all fingerprints."""
    workspace = Workspace(root)
    hashes = read_manifest(workspace.manifest_file)["sha256"]
    find_similar_images(list(hashes), workspace, os.cpu_count() or 1)


def split(root: Path) -> None:
    """Divide the groups."""
    split_manifest(Workspace(root), 0.15, 0.15, seed=1)


def write_scores(root: Path) -> None:
    """Write the outputs of training: scores that separate the classes a little, neighbors, folds, history."""
    generator = np.random.default_rng(1)
    folder = root / "run"
    folder.mkdir()
    manifest = describe_manifest(read_manifest(Workspace(root).manifest_file))
    manifest.to_csv(folder / MANIFEST_FILE, index=False)
    signal = generator.normal(1.5 * (manifest["label"] == LABELS[1]) - 2, 1)
    predictions = manifest[["image_id", "split", "label"]].assign(score=(1 / (1 + np.exp(-signal))).astype(np.float32))
    predictions.to_csv(folder / PREDICTIONS_FILE, index=False)
    train = predictions[predictions["split"] == "train"].drop(columns="split")
    schemes = [*(("grouped", seed) for seed in range(SETTINGS.cross_validation_seeds)), ("by_image", 0)]
    folds = [train.assign(scheme=scheme, seed=seed, fold=np.arange(len(train)) % NUM_FOLDS) for scheme, seed in schemes]
    pd.concat(folds).to_csv(folder / FOLDS_FILE, index=False)
    asked = train["image_id"].head(2000).to_numpy()
    neighbors = pd.DataFrame({"image_id": asked, "neighbour_id": asked, "distance": generator.random(len(asked))})
    neighbors.to_csv(folder / NEIGHBORS_FILE, index=False)


def measure(root: Path) -> None:
    """Compute every figure with its interval."""
    metrics = evaluate(read_scores(root / "run", Workspace(root), None), SETTINGS, seed=1)
    (root / "run" / METRICS_FILE).write_text(json.dumps(metrics))


def report(root: Path) -> None:
    """Draw the pictures with their bands, and write the page that holds them."""
    folder = root / "run"
    scores = read_scores(folder, Workspace(root), None)
    predictions = scores.predictions
    metrics = json.loads((folder / METRICS_FILE).read_text()) | describe_rows(predictions)
    test = predictions[predictions["split"] == "test"]
    bands = bootstrap_curves(test["label"] == LABELS[1], test["score"], test["group"], 1, SETTINGS.num_resamples)
    history = pd.DataFrame({"epoch": [1, 2, 3], "loss": 0.5, "accuracy": 0.8, "val_loss": 0.6, "val_accuracy": 0.7})
    data = FigureData(predictions, metrics, history, bands.roc, bands.precision_recall)
    figures = draw_figures(data, folder / FIGURES_FOLDER)
    run = RunReport(metrics, PipelineConfig().model_dump(mode="json"), "0001", tuple(figures))
    (root / "run" / REPORT_FILE).write_text(render_report(run))


def describe_rows(predictions: pd.DataFrame) -> dict[str, Any]:
    """Describe the images of a run as in `metrics.json`."""
    counts = predictions.groupby(["split", "label"]).size().unstack().to_dict("index")
    zeros = (
        "held_out",
        "held_out_lesions",
        "duplicates",
        "quarantined",
        "ignored",
        "taken_over",
        "kept",
        "prescribed",
        "assigned",
    )
    sizes = predictions["group"].value_counts()
    num_images = len(predictions)
    data = {f"num_{name}": 0 for name in zeros} | {"num_entries": num_images, "num_images": num_images}
    grouping = {"num_groups": len(sizes), "largest_group": int(sizes.max()), "num_patients": len(sizes)}
    grouping |= {
        "num_without_patient": 0,
        "evidence": {},
        "num_contradictory": 0,
        "is_patient_level": True,
        "has_constant_patient": False,
    }
    return {
        "weights": "random",
        "notices": [],
        "data": data
        | {"quarantined": {}, "splits": counts, "largest_deviation": 0.0}
        | {"given_split": {"by": "", "num_held_out": {}}},
        "grouping": grouping,
        "test_set": {"sha256": "ab" * 32, "num_images": int((predictions["split"] == "test").sum()), "num_missing": 0},
        "features": {"engine": "openvino", "precision": "float32", "reason": "there are none"},
        "seconds": {},
        "versions": {"hip-mri": "0"},
        "environment": {"commit": None, "flow_run_id": None, "model_sha256": "ab" * 32},
        "created": "2025-11-22T21:14:00+00:00",
    }


def show_batch(root: Path) -> None:
    """Write the sheet of a batch that holds every image."""
    predictions = pd.read_csv(root / "run" / PREDICTIONS_FILE)
    table = predictions.assign(state="scored", reason="", distance=0.5, known_split="", decision="")
    table = table.assign(examination=table["image_id"], model="0001", model_sha256="ab" * 32)
    table["is_outside"], rule = table["score"] > 0.5, DecisionRule(0.5)
    names = ("images", "lesion", "normal", "uncertain", "outside", "unreadable", "copies", "ignored")
    facts = {
        "notices": [],
        "counts": {f"num_{name}": 0 for name in names} | {"num_images": len(table)},
        "reasons": {},
        "model": {"name": "0001", "sha256": "ab" * 32, "threshold": 0.5},
        "features": {"engine": "openvino", "precision": "float32", "reason": "there are none"},
        "preprocessing": {},
        "decisions": asdict(rule),
        "examinations": {"num_examinations": len(table), "num_images_without": 0, "rule": asdict(rule)},
        "novelty": None,
        "known": {"train": 0, "val": 0, "test": 0},
        "created": "2025-11-22T21:14:00+00:00",
    }
    sheet = PredictionSheet(root / "run", facts, table, tabulate_examinations(table, rule), {})
    write_sheet(root / "run" / "sheet.html", sheet)


STEPS: Final[tuple[Callable[[Path], None], ...]] = (
    plan, group, search_copies, split, write_scores, measure, report, show_batch
)  # fmt: skip


def measure_step(step: Callable[[Path], None], root: Path) -> dict[str, float]:
    """Run a step in this process; its time, and the most memory beyond what the imports take.

    Processor seconds do not depend on the load of the machine.
    """
    with MemoryWatch(os.getpid(), lambda: step.__name__, interval_seconds=0.05) as watch:
        time.sleep(0.2)
        before, start, start_of_work = float(watch.samples[0]["main_mb"]), time.perf_counter(), time.process_time()
        step(root)
        seconds, worked = time.perf_counter() - start, time.process_time() - start_of_work
        time.sleep(0.2)
    more = float(watch.summarize()["main_mb"].iloc[0]) - before
    return {"seconds": round(seconds, 2), "processor_seconds": round(worked, 2), "main_mb": round(more, 1)}


def measure_rows(root: Path, num_rows: int, steps: tuple[Callable[[Path], None], ...]) -> dict[str, Any]:
    """Take so many rows through the steps; each in a fresh process."""
    make_workspace(root, num_rows)
    measured = {}
    for step in steps:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            measured[step.__name__] = fresh.submit(measure_step, step, root).result()
        logging.warning("%d rows, %s: %s", num_rows, step.__name__, measured[step.__name__])
    sizes = {f"{file.stem}_kb": file.stat().st_size // 1000 for file in sorted((root / "run").glob("*.html"))}
    shutil.rmtree(root)
    return {"images": num_rows, **sizes, "steps": measured}


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="4 kB of disk per row are needed")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--without", nargs="*", default=[], help="steps to leave out, such as search_copies")
    given = parser.parse_args()
    steps = tuple(step for step in STEPS if step.__name__ not in given.without)
    runs = [measure_rows(given.folder / f"rows-{num_rows}", num_rows, steps) for num_rows in given.rows]
    print(json.dumps({"runs": runs, "compared": compare_runs(runs[0], runs[-1]) if len(runs) > 1 else {}}, indent=2))


if __name__ == "__main__":
    main()
