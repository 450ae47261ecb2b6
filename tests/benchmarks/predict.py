"""Time of scoring new images, compared with the engine alone: `python -m tests.benchmarks.predict --images 10000`."""

import argparse
import json
import tempfile
import time
from pathlib import Path

from hip_mri.images.clahe_and_resizing import preprocess_image
from hip_mri.images.reading import read_pictures
from hip_mri.models.backbones.engines import open_engine
from hip_mri.serving.served_model import load_served_model
from hip_mri.serving.served_network import prepare_network
from hip_mri.workspace import Workspace
from tests.benchmarks.measure import make_images, run_flow

NUM_TIMED = 400
"""Images on which the bare engine is timed, before and after."""


def time_engine(model, folder: Path, images: list[Path]) -> float:
    """Images per second of the backbone alone, decoded and preprocessed beforehand."""
    workspace = Workspace(folder / "bare")
    workspace.prepare()
    features = prepare_network(model.network, "openvino", "float32", len(images), workspace).features
    settings = model.network.preprocessing
    inputs = [preprocess_image(read_pictures(file.read_bytes())[0].levels, settings) for file in images]
    engine = open_engine(features.backbone, features.choice.engine, features.choice.precision)
    engine.compute(inputs[:32])
    start = time.perf_counter()
    engine.compute(inputs)
    return len(inputs) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--backbone", default="ResNet50")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hip-mri-bench-") as temporary:
        folder = Path(temporary)
        options = ["--workspace", str(folder / "workspace"), "--model.backbone", given.backbone]
        options += ["--model.weights", "random", "--training.epochs", "3", "--evaluation.cross-validation-seeds", "0"]
        _, _, run = run_flow("pipeline", *options)
        images = make_images(folder / "images", given.images)
        some = sorted(images.glob("*/*.png"))[:: max(1, given.images // NUM_TIMED)][:NUM_TIMED]
        model = load_served_model(run)
        before = time_engine(model, folder, some)
        scoring = ["--workspace", str(folder / "workspace"), "--model", str(run), "--engine", "openvino"]
        scoring += ["--precision", "float32", "--source"]
        fixed, _, _ = run_flow("predict", *scoring, str(some[0]))
        seconds, peak, result = run_flow("predict", *scoring, str(images))
        bare = (before + time_engine(model, folder, some)) / 2
    rate = given.images / (seconds - fixed)
    print(
        json.dumps(
            {
                "images": given.images,
                "seconds": seconds,
                "seconds_of_one_image": fixed,
                "images_per_second": rate,
                "bare_engine_images_per_second": bare,
                "share_of_engine": rate / bare,
                "share_of_engine_with_start": given.images / seconds / bare,
                "peak_mb": peak,
                "result": result.name,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
