"""Whole runs with each backbone on phantoms, with random weights: `python -m tests.benchmarks.backbones`.

Prints seconds and test AUC of each. With random weights and few images the AUC says little; that a run ends with a
report is what is measured.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hip_mri.config import ARCHITECTURES
from hip_mri.synthetic.demo import write_demo_zip

SETTINGS = {
    "model.weights": "random",
    "model.hidden-units": 64,
    "features.engine": "keras",
    "features.precision": "float32",
    "training.epochs": 5,
    "evaluation.num-resamples": 200,
    "evaluation.cross-validation-seeds": 0,
}


def run_backbone(name: str, image_size: int, source: Path, folder: Path) -> tuple[float, float]:
    """Run the pipeline; returns seconds and AUC."""
    size = max(image_size, ARCHITECTURES[name].min_image_size)
    settings = {
        **SETTINGS,
        "source": source,
        "workspace": folder,
        "model.backbone": name,
        "preprocessing.image-size": size,
    }
    start = time.monotonic()
    options = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    ran = subprocess.run([sys.executable, "flows/pipeline.py", *options], check=False, capture_output=True, text=True)
    seconds = time.monotonic() - start
    if ran.returncode:
        raise SystemExit(f"{name}: exit code {ran.returncode}\n{ran.stderr[-3000:]}")
    run_folder = Path(ran.stdout.splitlines()[-1])
    assert (run_folder / "report.html").is_file()
    return seconds, json.loads((run_folder / "metrics.json").read_text())["test"]["auc"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--num-patients", type=int, default=40)
    parser.add_argument("names", nargs="*", default=list(ARCHITECTURES))
    arguments = parser.parse_args()
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as folder:
            source = write_demo_zip(Path(folder, "demo.zip"), seed=1, num_patients=arguments.num_patients)
            seconds, auc = run_backbone(name, arguments.image_size, source, Path(folder, "workspace"))
        print(f"{name:20} {seconds:6.0f} s  AUC {auc:.3f}", flush=True)


if __name__ == "__main__":
    main()
