"""Latency of the commands: `python -m tests.benchmarks.latency` prints a table in Markdown, all of it from one run.

Seconds belong to one machine at one time; ratios, each of two figures taken one after the other, belong to the program.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from hip_mri.models.backbones.engine_choice import computes_bfloat16
from hip_mri.synthetic.demo import write_demo_zip
from tests.benchmarks.measure import IMAGES_PER_PATIENT, PROJECT, find_weights, run_flow, run_recipe
from tests.processes import run_python

NUM_IMAGES: int = 228
"""Images of the comparison with the original recipe."""

EPOCHS: int = 30
"""Epochs of the original recipe."""

TIME_LOADING = """
import os, sys, time
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
from pathlib import Path
import keras
from hip_mri.models.loading import load_network
file = Path(sys.argv[1])
load_network(file), keras.models.load_model(file, compile=False)  # both import what they need
for load in (load_network, lambda file: keras.models.load_model(file, compile=False)):
    start = time.perf_counter()
    load(file)
    print(time.perf_counter() - start)
"""


def measure_latency(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Take every figure of the table.

    Args:
        folder: For everything that is written.
        given: Whether to install, and the number of epochs of the recipe that are run.
    """
    os.environ["PREFECT_HOME"] = str(folder / "prefect")  # an empty database at first, as a new user has it
    os.environ.pop("PREFECT_API_URL", None)
    results: dict[str, Any] = {"machine": describe_machine()}
    if given.install:
        results["installation, s"] = time_installation(folder)
    workspace = ["--workspace", str(folder / "demo")]
    results["the demo, s"], results["the demo, peak MB"], run = run_flow("pipeline", *workspace)
    results["steps of the demo"] = json.loads((run / "metrics.json").read_text())["seconds"]
    results["the demo again, nothing new, s"], _, _ = run_flow("pipeline", *workspace)

    image = str(take_image(folder))
    scoring = [*workspace, "--source", image, "--model", str(run)]
    results["one image scored, first time, s"], _, _ = run_flow("predict", *scoring)
    results["one image scored, later, s"], _, _ = run_flow("predict", *scoring)
    copied = str(shutil.copytree(run, folder / "copied"))
    elsewhere = ["--workspace", str(folder / "elsewhere"), "--source", image, "--model", copied]
    results["one image scored by a copied run, s"], _, _ = run_flow("predict", *elsewhere)
    return results | compare_with_recipe(folder, given)


def describe_machine() -> str:
    """Processor and number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    flags = next((line for line in lines if line.startswith("flags")), "")
    instructions = [title for title, flag in (("AMX", "amx_bf16"), ("AVX-512", "avx512f")) if flag in flags]
    return f"{name} ({', '.join(instructions) or 'no AVX-512'}), {os.cpu_count()} cores"


def time_installation(folder: Path) -> float:
    """Seconds of `make run`'s first part in an empty clone; downloads may come from the cache of uv."""
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(clone)], check=True)
    start = time.perf_counter()
    subprocess.run(["make", ".venv/.installed"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def take_image(folder: Path) -> Path:
    """One image that the demo does not hold."""
    with zipfile.ZipFile(write_demo_zip(folder / "other.zip", seed=7, num_patients=5)) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".png"))
        (folder / "image.png").write_bytes(archive.read(name))
    return folder / "image.png"


def compare_with_recipe(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """A whole run on a few images with a ResNet101, and the original recipe's 30 epochs on the same images."""
    source = write_demo_zip(folder / "few.zip", seed=1, num_patients=round(NUM_IMAGES / IMAGES_PER_PATIENT))
    weights = find_weights(folder, "ResNet101", "random")
    options = ["--source", str(source), "--model.backbone", "ResNet101", "--model.weights", weights]
    if computes_bfloat16("openvino"):  # `auto` takes it for pretrained weights; random ones hardly see JPEG's changes
        options += ["--features.precision", "bfloat16"]
    seconds, _, run = run_flow("pipeline", *options, "--workspace", str(folder / "few"))
    recipe = run_recipe(folder / "few" / "DATA", "ResNet101", weights, given.epochs)
    epochs = recipe["epoch_seconds"]  # the first one compiles; the others stand for those that are not run
    whole = recipe["seconds"] + (EPOCHS - len(epochs)) * epochs[-1]
    metrics = json.loads((run / "metrics.json").read_text())
    loading = run_python("-c", TIME_LOADING, run / "model.keras").stdout.split()
    load_network, load_model = (float(line) for line in loading[-2:])
    return {
        "precision": metrics["features"]["precision"],
        f"run on {metrics['data']['num_images']} images with a ResNet101, s": seconds,
        "original recipe on them, 30 epochs, s": whole,
        "original recipe / run": whole / seconds,
        "cross-validation of that run, s": metrics["seconds"]["cross_validate_fold"],
        "loading a ResNet101, s": load_network,
        "loading a ResNet101 / by Keras itself": load_network / load_model,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hip-mri-bench-") as folder:
        results = measure_latency(Path(folder), given)
    print(f"{results['machine']}\n\n| What | Figure |\n|---|---|")
    for name, value in results.items():
        if isinstance(value, float):
            print(f"| {name} | {value:.3g} |")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this part."""
    parser.add_argument("--install", action="store_true", help="time the installation in an empty clone, too")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of the recipe that are run; 30 needs no estimate")


if __name__ == "__main__":
    main()
