"""`make bench`: costs of the pipeline, as ratios measured in one run; prints a table and writes it as JSON.

Each part can be run alone: `python -m tests.benchmarks.measure latency recipe accuracy preprocessing reruns store`.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from hip_mri.config import LABELS, PreprocessingSettings, RunnerSettings
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import ingest_images
from hip_mri.dataset.preprocessing import preprocess_images
from hip_mri.dataset.row_store import RowStore
from hip_mri.dataset.shards import plan_shards
from hip_mri.grouping.split import split_manifest
from hip_mri.synthetic.demo import draw_demo, write_demo_zip
from hip_mri.workspace import Workspace

PROJECT = Path(__file__).parents[2]
IMAGES_PER_PATIENT = 1.75  # of the demo, on average


def run_pipeline(*options: str) -> tuple[float, float, Path]:
    """Wall seconds from process start to end, peak memory in MB, run folder."""
    return run_flow("pipeline", *options)


def run_flow(flow: str, *options: str) -> tuple[float, float, Path]:
    """The same for any flow, by the name of its file; what it prints last is a folder."""
    before = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, f"flows/{flow}.py", *options], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"flows/{flow}.py {' '.join(options)} failed")
    return time.perf_counter() - before, usage.ru_maxrss / 1024, Path(output.decode().splitlines()[-1])


def find_weights(folder: Path, backbone: str, weights: str) -> str:
    """The weights file that both sides load; random weights are drawn once and written as a file."""
    if weights != "random":
        return str(Path(weights).resolve())
    file = folder / f"{backbone}.weights.h5"
    if not file.exists():
        subprocess.run([sys.executable, "-c", DRAW_WEIGHTS, backbone, str(file)], cwd=PROJECT, check=True)
    return str(file)


DRAW_WEIGHTS = """
import sys, keras
keras.utils.set_random_seed(0)
network = getattr(keras.applications, sys.argv[1])(include_top=False, weights=None)
for layer in network.layers:
    if layer.name.endswith("_3_bn"):  # else activations double from block to block
        layer.gamma.assign(0.3 * layer.gamma)
network.save_weights(sys.argv[2])
"""


def run_recipe(data: Path, backbone: str, weights: str, epochs: int) -> dict[str, Any]:
    """The original recipe on the images that the pipeline preprocessed; see `original_recipe.run`."""
    command = [sys.executable, "-m", "tests.benchmarks.original_recipe", str(data), backbone, weights]
    output = subprocess.run(
        [*command, "--epochs", str(epochs)], cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def measure_accuracy(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Test AUC of the recipe and of the pipeline, all 30 epochs of both, on the same images and weights."""
    backbone = given.backbone if given.weights != "random" else "ResNet50"
    source = write_demo_zip(folder / "demo.zip", seed=1, num_patients=round(given.accuracy_images / IMAGES_PER_PATIENT))
    weights = find_weights(folder, backbone, given.weights)
    options = ["--source", str(source), "--model.backbone", backbone, "--model.weights", weights]
    results: dict[str, Any] = {}
    for precision in given.precisions:
        workspace = folder / precision
        _, _, run = run_pipeline(*options, "--workspace", str(workspace), "--features.precision", precision)
        results[f"auc_{precision}"] = json.loads((run / "metrics.json").read_text())["test"]["auc"]
    results["auc_recipe"] = run_recipe(folder / given.precisions[0] / "DATA", backbone, weights, 30)["auc"]
    return results


def measure_store(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Fill a feature store, find its rows and read an epoch of them in random order; memory must stay flat."""
    program = (
        "import json, sys; from pathlib import Path; from tests.benchmarks.measure import fill_store; "
        "print(json.dumps(fill_store(Path(sys.argv[1]), int(sys.argv[2]))))"
    )
    results = {}
    for count in given.rows:
        command = [sys.executable, "-c", program, str(folder / str(count)), str(count)]
        output = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
        results[f"{count} images"] = json.loads(output)
    return results


def fill_store(folder: Path, num_images: int, num_features: int = 2048, batch_size: int = 150) -> dict[str, float]:
    """Seconds and peak anonymous memory of writing, finding and reading plain features of so many images."""
    generator = np.random.default_rng(0)
    hashes = pd.Series([hashlib.sha256(str(number).encode()).hexdigest() for number in range(num_images)])
    store, features = RowStore(folder), generator.random((2048, num_features), np.float32)
    by_range = hashes.sort_values(ignore_index=True)

    def write() -> None:
        for start in range(0, num_images, 2048):
            keys = by_range[start : start + 2048].to_frame("sha256").assign(mirrored=False)
            store.add(keys, features[: len(keys)])

    def read() -> None:
        order = generator.permutation(num_images)
        for start in range(0, num_images, batch_size):
            rows[order[start : start + batch_size]]

    seconds = {"seconds_to_write": timed(write)}
    start = time.perf_counter()
    rows = store.select(hashes, mirrored=False)
    seconds |= {"seconds_to_find": time.perf_counter() - start, "seconds_of_an_epoch_in_random_order": timed(read)}
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return seconds | {"anonymous_memory_mb": int(status["RssAnon"].split()[0]) / 1024}


def measure_recipe(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The original recipe against the pipeline: 30 epochs, the same images, the same weights.

    The recipe runs two epochs; thirty are extrapolated from the second, since the first also compiles.
    """
    source = write_demo_zip(folder / "demo.zip", seed=1, num_patients=round(given.images / IMAGES_PER_PATIENT))
    weights = find_weights(folder, given.backbone, given.weights)
    shared = ["--source", str(source), "--model.backbone", given.backbone, "--model.weights", weights]
    results: dict[str, Any] = {}
    for precision in given.precisions:
        options = [*shared, "--workspace", str(folder / precision), "--features.precision", precision]
        start = time.time()
        seconds, peak, run = run_pipeline(*options)
        scored = max(file.stat().st_mtime for file in (folder / precision / "models").glob("*/predictions.csv")) - start
        again, _, _ = run_pipeline(*options, "--seed", "43")
        metrics = json.loads((run / "metrics.json").read_text())
        results[precision] = {
            "seconds_to_saved_model_and_scores": scored,
            "seconds_with_evaluation_and_report": seconds,
            "seconds_with_features_and_another_seed": again,
            "peak_mb": peak,
            "auc": metrics["test"]["auc"],
            "steps": metrics["seconds"],
            "num_rows": sum(sum(c.values()) for c in metrics["data"]["splits"].values())
            + sum(metrics["data"]["splits"]["train"].values()),
        }
    recipe = run_recipe(folder / given.precisions[0] / "DATA", given.backbone, weights, given.epochs)
    epoch = recipe["epoch_seconds"][1]
    overhead = recipe["seconds"] - sum(recipe["epoch_seconds"])
    thirty = overhead + recipe["epoch_seconds"][0] + 29 * epoch
    results["recipe"] = {"epoch_seconds": epoch, "thirty_epochs_seconds": thirty, "epochs_run": given.epochs}
    results["recipe"]["auc"] = recipe["auc"] if given.epochs >= 30 else "see the part accuracy, or give --epochs 30"
    num_seen = sum(metrics["data"]["splits"][split][label] for split in ("train", "val") for label in LABELS)
    for precision in given.precisions:
        part = results[precision]
        part["times_faster"] = thirty / part["seconds_to_saved_model_and_scores"]
        part["times_faster_with_evaluation_and_report"] = thirty / part["seconds_with_evaluation_and_report"]
        reading = (part["steps"]["ingest_images"] + part["steps"]["preprocess_images"]) / given.images
        extracting = 2 * part["steps"]["extract_features"] / part["num_rows"]
        part["further_image_costs_of_recipe"] = (reading + extracting) / (30 * epoch / num_seen)
    return results


def make_images(folder: Path, num_images: int) -> Path:
    """Many different images of real size: demo slices with a little noise."""
    generator = np.random.default_rng(0)
    slices = list(draw_demo(seed=1, num_patients=20))
    noise = [generator.integers(0, 4, (320, 320), np.uint8) for _ in range(50)]
    for number in range(num_images):
        image = slices[number % len(slices)]
        size = image.pixels.shape[0]
        pixels = cv2.add(image.pixels, np.roll(noise[number % 50], number, axis=1)[:size, :size])
        file = folder / image.label / f"{number:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), pixels)
    return folder


def prepare(folder: Path, num_images: int) -> tuple[Workspace, list]:
    workspace = Workspace(folder / f"workspace-{num_images}")
    workspace.prepare()
    images = make_images(folder / f"images-{num_images}", num_images)
    ingest_images([Delivery("images", images)], workspace, os.cpu_count() or 1)
    split_manifest(workspace, 0.15, 0.15, seed=1)
    return workspace, plan_shards(workspace, shard_size=2048)


def measure_preprocessing(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Images per second through the flow against a plain single-thread loop times the cores; Prefect's share."""
    from prefect import flow
    from prefect.testing.utilities import prefect_test_harness

    from tasks.dataset import preprocess_images as preprocess_task
    from tasks.mapping import map_shards
    from tasks.task_runners.configured import ConfiguredTaskRunner, start_task_runner

    settings, runner, cores, results = PreprocessingSettings(), RunnerSettings(), os.cpu_count() or 1, {}
    with prefect_test_harness(server_startup_timeout=120):
        for num_images in given.counts:
            workspace, shards = prepare(folder, num_images)
            files = sorted((workspace.root / "images").glob("*/*"))[:2000]
            plain = timed(lambda files=files: plain_loop(folder, files))
            direct = timed(lambda w=workspace, s=shards: [preprocess_images(shard, w, settings, cores) for shard in s])
            results_without = workspace.root / "preprocessed"
            results_without.rename(folder / f"direct-{num_images}")

            @flow(task_runner=ConfiguredTaskRunner())
            def through_prefect(shards=shards, workspace=workspace) -> None:
                start_task_runner(runner, workspace)
                map_shards(preprocess_task, shards, workspace, settings)

            @flow
            def do_nothing() -> None:
                pass

            fixed = timed(do_nothing)
            cpu = time.process_time()
            with_prefect = timed(through_prefect) - fixed
            # The machine's speed drifts: the loop is timed before and after what it is compared to.
            plain = (plain + timed(lambda files=files: plain_loop(folder, files))) / 2
            ideal = len(files) / plain * cores
            results[f"{num_images} images"] = {
                "plain_loop_images_per_second": ideal / cores,
                "flow_images_per_second": num_images / with_prefect,
                "share_of_ideal": num_images / with_prefect / ideal,
                "task_runs": len(shards),
                "prefect_share_of_wall": max(0.0, with_prefect - direct) / with_prefect,
                "seconds_of_an_empty_flow": fixed,
                "client_cpu_seconds": time.process_time() - cpu,
            }
    return results


def plain_loop(folder: Path, files: list[Path]) -> None:
    """What a script would do: read, CLAHE, resize, write, one after the other."""
    cv2.setNumThreads(1)
    out = folder / "plain"
    out.mkdir(exist_ok=True)
    for file in files:
        image = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
        image = cv2.resize(cv2.createCLAHE(2.0, (8, 8)).apply(image), (224, 224))
        cv2.imwrite(str(out / f"{file.name}.png"), image)


def measure_reruns(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """A full run, one with nothing changed, and runs with 1 % and 5 % new images."""
    images = make_images(folder / "rerun", given.rerun_images)
    options = ["--source", str(images), "--workspace", str(folder / "rerun-workspace"), "--model.backbone", "ResNet50"]
    options += ["--model.weights", given.weights if "50" in given.backbone else "random"]
    results = {"full": describe(*run_pipeline(*options))}
    results["nothing changed"] = describe(*run_pipeline(*options))
    for percent in (1, 5):
        add_images(images, max(1, given.rerun_images * percent // 100), seed=percent)
        results[f"{percent} % new"] = describe(*run_pipeline(*options))
    return results


def add_images(folder: Path, count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    originals = sorted(folder.glob("*/*.png"))
    for number, original in enumerate(originals[:: max(1, len(originals) // count)][:count]):
        image = cv2.imread(str(original), cv2.IMREAD_GRAYSCALE)
        noise = generator.integers(0, 6, image.shape, np.uint8)
        cv2.imwrite(str(original.with_name(f"new-{seed}-{number}.png")), cv2.add(image, noise))


def describe(seconds: float, peak: float, run: Path) -> dict[str, Any]:
    steps = json.loads((run / "metrics.json").read_text())["seconds"]
    kept = {name: steps[name] for name in ("ingest_images", "preprocess_images", "extract_features", "train_model")}
    return {"seconds": seconds, "peak_mb": peak} | kept


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def show(results: dict[str, Any], depth: int = 0) -> None:
    for name, value in results.items():
        if isinstance(value, dict):
            print(f"{'  ' * depth}{name}")
            show(value, depth + 1)
        else:
            print(
                f"{'  ' * depth}{name:<45} {value:.4g}"
                if isinstance(value, float)
                else f"{'  ' * depth}{name:<45} {value}"
            )


def measure_latency(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """How long a user waits; see `tests.benchmarks.latency`."""
    from tests.benchmarks import latency

    return latency.measure_latency(folder, argparse.Namespace(install=False, epochs=given.epochs))


PARTS = {
    "latency": measure_latency,
    "recipe": measure_recipe,
    "accuracy": measure_accuracy,
    "preprocessing": measure_preprocessing,
    "reruns": measure_reruns,
    "store": measure_store,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--images", type=int, default=1500, help="of the comparison with the recipe")
    parser.add_argument("--backbone", default="ResNet101")
    parser.add_argument("--weights", default="random", help="weights file, or random")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--epochs", type=int, default=2, help="of the recipe when it is timed; 30 also gives its AUC")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 20000], help="images to preprocess")
    parser.add_argument("--accuracy-images", type=int, default=500, help="of the comparison of the AUC")
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000], help="images of the feature store")
    parser.add_argument("--rerun-images", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks.json"))
    given = parser.parse_args()
    results: dict[str, Any] = {"machine": {"processor": platform.processor(), "cores": os.cpu_count()}}
    for part in given.parts:
        with tempfile.TemporaryDirectory(prefix="hip-mri-bench-") as folder:
            results[part] = PARTS[part](Path(folder), given)
        show({part: results[part]})
        given.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
