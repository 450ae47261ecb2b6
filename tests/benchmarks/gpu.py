"""Speed on a GPU: `HIP_MRI_KERAS_BACKEND=jax python -m tests.benchmarks.gpu` prints JSON, within ten minutes.

Feature extraction by batch size, decoding apart; training of the head; and an epoch of fine-tuning. All three run the
library's own code on random images and weights. `--num-images 64 --image-size 64` tries it out on a CPU.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from hip_mri.config import FineTuneSettings, HeadDesign, TrainingSettings
from hip_mri.images.stored_png import decode_png, encode_png
from hip_mri.models.backbones import engines
from hip_mri.models.backbones.backbone import build_backbone, open_backbone, write_backbone
from hip_mri.models.fine_tune import fine_tune
from hip_mri.models.fitting import TrainingImages
from hip_mri.models.heads.dense import compile_head, train_head
from hip_mri.models.heads.head import build_head, join_network
from hip_mri.models.keras_settings import describe_keras

BATCH_SIZES = (16, 64, 256)
HIDDEN_UNITS = 1024
NUM_EPOCHS = 30
NUM_FEATURES = 2048


def time_call(function: Callable[[], object]) -> float:
    """Seconds of the second call; the first compiles."""
    function()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (given.num_images, given.image_size, given.image_size), np.uint8)
    labels = np.arange(given.num_images) % 2
    backbone = build_backbone("ResNet101", given.image_size)
    write_backbone(backbone, folder, {"name": "ResNet101", "image_size": given.image_size, "is_standardized": False})
    results: dict[str, Any] = {"keras": describe_keras(), "images": given.num_images, "pixels": given.image_size}

    files = [encode_png(image) for image in images]
    with ThreadPoolExecutor() as pool:
        seconds = time_call(lambda: list(pool.map(decode_png, files)))
    results["decoding, images/s"] = round(len(files) / seconds)

    for precision in ("bfloat16", "float32"):
        engine = engines.open_engine(open_backbone(folder), "keras", precision)
        for batch_size in BATCH_SIZES:
            engines.KERAS_BATCH_SIZE = batch_size  # the library's own is the first
            seconds = time_call(lambda engine=engine: engine.compute(list(images)))
            results[f"extraction in {precision}, batches of {batch_size}, images/s"] = round(len(images) / seconds)

    rows = generator.random((given.num_images, NUM_FEATURES), np.float32)
    settings = TrainingSettings(epochs=NUM_EPOCHS, batch_size=150)
    head, features = compile_head(NUM_FEATURES, HIDDEN_UNITS, settings), TrainingImages(rows, rows, labels)
    seconds = time_call(lambda: train_head(head, features, features, settings, seed=0))
    results[f"head, {NUM_EPOCHS} epochs, s"] = round(seconds, 2)

    pixels = images[..., None].astype(np.float32)
    tuned = TrainingImages(pixels, pixels, labels)
    network = join_network(backbone, build_head(NUM_FEATURES, HeadDesign("dense", HIDDEN_UNITS), seed=0))
    times: list[float] = [time.perf_counter()]
    fine_tune(
        network,
        tuned,
        TrainingImages(pixels[:16], None, labels[:16]),
        FineTuneSettings(epochs=2, batch_size=32),
        None,
        0,
        folder / "checkpoint",
        on_epoch=lambda _: times.append(time.perf_counter()),
    )
    results["epoch of fine-tuning, s"] = round(times[2] - times[1], 2)  # the first compiles
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=2048)
    parser.add_argument("--image-size", type=int, default=224)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(given, Path(folder)), indent=2))


if __name__ == "__main__":
    main()
