"""How often the drift check errs: `python -m tests.benchmarks.drift --patients 240 --batches 1000`.

One pool of phantoms is drawn and described once. Each trial then draws training patients and a new batch of other
patients from it, as they are (a false alarm is an error) or with their images changed in one way of
`tests.monitoring.changes` (silence is an error, where the change is strong).
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.stats import binomtest

from hip_mri.config import DriftSettings, PreprocessingSettings
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import ingest_images
from hip_mri.grouping.split import split_manifest
from hip_mri.images.clahe_and_resizing import preprocess_image
from hip_mri.images.image_statistics import compute_statistics
from hip_mri.models.backbones.engines import FeatureEngine, open_engine
from hip_mri.models.backbones.preparation import prepare_backbone
from hip_mri.models.backbones.weights import resolve_weights
from hip_mri.monitoring.drift import Batch, DriftReport, detect_drift
from hip_mri.monitoring.shift import sample_one_per_group
from hip_mri.synthetic.demo import draw_demo, write_demo_zip
from hip_mri.workspace import Workspace
from tests.monitoring.changes import MODERATE, SLIGHT, STRONG

PATIENTS_AT_ONCE = 60
MIN_PATIENTS, MAX_PATIENTS = 10, 20
"""Of a new batch."""
SETTINGS = DriftSettings()


@dataclass(frozen=True)
class Phantom:
    patient: int
    pixels: NDArray[np.uint8]


def draw_phantoms(number: int) -> list[Phantom]:
    drawn = draw_demo(1000 + number, PATIENTS_AT_ONCE)
    return [Phantom(number * 10_000 + int(image.patient_id.rpartition("-")[2]), image.pixels) for image in drawn]


def open_network(folder: Path, weights: str, settings: PreprocessingSettings, num_threads: int) -> FeatureEngine:
    """A ResNet50; random weights are calibrated on phantoms that are in no trial."""
    workspace = Workspace(folder / "workspace")
    source = write_demo_zip(folder / "demo.zip", seed=1, num_patients=30)
    ingest_images([Delivery("source", source)], workspace, num_threads)
    split_manifest(workspace, 0.15, 0.15, seed=1)
    resolved = resolve_weights(weights, "ResNet50", fall_back_to_random=False)
    backbone = prepare_backbone(resolved, workspace, settings, 1, num_threads)
    return open_engine(backbone, "openvino", "float32")


def describe(
    phantoms: list[Phantom],
    change: Callable[[NDArray], NDArray],
    engine: FeatureEngine,
    settings: PreprocessingSettings,
    num_threads: int,
) -> Batch:
    def look_at(pixels: NDArray) -> tuple[NDArray, NDArray]:
        changed = change(pixels)
        return compute_statistics(changed), preprocess_image(changed, settings)

    parallel = Parallel(num_threads, backend="threading")
    described = list(parallel(delayed(look_at)(phantom.pixels) for phantom in phantoms))
    features = engine.compute([image for _, image in described])
    groups = np.array([phantom.patient for phantom in phantoms])
    return Batch(np.array([row for row, _ in described]), features, groups)


def choose(batch: Batch, patients: NDArray) -> Batch:
    chosen = np.isin(batch.groups, patients)
    return Batch(batch.statistics[chosen], batch.features[np.flatnonzero(chosen)], batch.groups[chosen])


def try_batches(
    pool: Batch, batches: Batch, num_training: int, count: int, num_threads: int, num_references: int | None = None
) -> dict[str, Any]:
    """Draw new batches from `batches` and training patients from the rest of `pool`.

    With `num_references`, that many choices of training patients are kept, and batches are drawn from all others.
    """

    def try_one(seed: int) -> DriftReport:
        patients = np.unique(batches.groups)
        if num_references:
            fixed = np.random.default_rng([seed % num_references]).permutation(patients)[:num_training]
            patients = np.setdiff1d(patients, fixed)
        generator = np.random.default_rng([1, seed])
        new = generator.permutation(patients)[: generator.integers(MIN_PATIENTS, MAX_PATIENTS + 1)]
        others = generator.permutation(np.setdiff1d(pool.groups, new))[:num_training]
        reference = choose(pool, fixed if num_references else others)
        return detect_drift(reference, choose(batches, new), SETTINGS, seed)

    reports = list(Parallel(num_threads, backend="threading")(delayed(try_one)(seed) for seed in range(count)))
    results = summarize(reports)
    if num_references:
        results["alarms_by_reference"] = [
            sum(report.is_shifted for report in reports[number::num_references]) for number in range(num_references)
        ]
    return results


def summarize(reports: list[DriftReport]) -> dict[str, Any]:
    alarms = [report for report in reports if report.is_shifted]
    by_features = [any(reason.startswith("Features:") for reason in report.reasons) for report in alarms]
    interval = binomtest(len(alarms), len(reports)).proportion_ci(method="exact")
    lowest = [min(report.p_values.values()) for report in reports]
    return {
        "batches": len(reports),
        "alarms": len(alarms),
        "interval_95": [round(interval.low, 5), round(interval.high, 5)],
        "by_features": sum(by_features),
        "by_appearance": sum(len(report.reasons) > found for report, found in zip(alarms, by_features, strict=True)),
        "median_auc": round(float(np.median([report.features.auc for report in reports])), 3),
        "p_below_alpha": round(float(np.mean(np.array(lowest) <= SETTINGS.false_alarm_rate / 2)), 4),
        "median_lowest_p": round(float(np.median(lowest)), 5),
    }


def keep_one_image(batch: Batch) -> Batch:
    """One image of each patient, drawn at random."""
    chosen = sample_one_per_group(batch.groups, seed=99, max_groups=len(batch.groups))
    return Batch(batch.statistics[chosen], batch.features[chosen], batch.groups[chosen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=240, help="in the pool")
    parser.add_argument("--training", type=int, default=46, help="training patients of a trial")
    parser.add_argument("--batches", type=int, default=1000, help="unchanged batches")
    parser.add_argument("--references", type=int, default=20, help="choices of training patients that are kept")
    parser.add_argument("--changed", type=int, default=200, help="batches of each change")
    parser.add_argument("--size", type=int, default=64, help="pixels of the network's input")
    parser.add_argument("--weights", default="random", help="`random` or a file of ResNet50's weights")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    settings = PreprocessingSettings(image_size=given.size)
    before = time.perf_counter()
    numbers = range(-(-given.patients // PATIENTS_AT_ONCE))
    parts = list(Parallel(given.threads)(delayed(draw_phantoms)(number) for number in numbers))
    results: dict[str, Any] = {"images": sum(map(len, parts)), "drawing_seconds": round(time.perf_counter() - before)}
    with tempfile.TemporaryDirectory() as folder:
        engine = open_network(Path(folder), given.weights, settings, given.threads)
        phantoms = [phantom for part in parts for phantom in part]
        pool = describe(phantoms, lambda pixels: pixels, engine, settings, given.threads)
        results["describing_seconds"] = round(time.perf_counter() - before - results["drawing_seconds"])
        print(json.dumps(results), flush=True)

        def print_results(name: str, *trials: Any) -> None:
            print(name, json.dumps(try_batches(pool, *trials)), flush=True)

        print_results("unchanged", pool, given.training, given.batches, given.threads)
        print_results(
            "unchanged, fixed references", pool, given.training, given.batches, given.threads, given.references
        )
        print_results("unchanged, one image each", keep_one_image(pool), given.training, given.batches, given.threads)
        for name, change in (STRONG | MODERATE | SLIGHT).items():
            changed = describe(parts[0][: len(parts[0]) // 2], change, engine, settings, given.threads)
            print_results(name, changed, given.training, given.changed, given.threads)


if __name__ == "__main__":
    main()
