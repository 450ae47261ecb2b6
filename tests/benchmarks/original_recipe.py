"""The original recipe, written out with plain Keras: the whole network trained by `fit` on live images.

Runs on every backend of Keras; `KERAS_BACKEND=torch` or `jax` reaches a GPU where TensorFlow has no build for it.
`python -m tests.benchmarks.original_recipe DATA ResNet50 weights.h5 --epochs 30` prints one JSON line.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BATCH_SIZE = 150
LEARNING_RATE = 1e-4
HIDDEN_UNITS = 1024
LABELS = ("normal", "osseous_lesion")


def build(backbone: str, weights: str | None, image_size: int):
    """Frozen ResNet without top, pooling, Dense 1024 ReLU, sigmoid; binary cross-entropy and Adam."""
    import keras

    base = getattr(keras.applications, backbone)(
        include_top=False, weights=None, input_shape=(image_size, image_size, 3), pooling="avg"
    )
    if weights:
        base.load_weights(weights)
    base.trainable = False
    image = keras.Input((image_size, image_size, 3))
    hidden = keras.layers.Dense(HIDDEN_UNITS, "relu")(base(image, training=False))
    network = keras.Model(image, keras.layers.Dense(1, "sigmoid")(hidden))
    network.compile(keras.optimizers.Adam(LEARNING_RATE), "binary_crossentropy", metrics=["accuracy"])
    return network


def read(folder: Path, *, flips: bool, seed: int):
    """Images of one split as batches: read, RGB, randomly flipped for training, preprocessed, one batch ahead."""
    import cv2
    import keras
    import numpy as np

    files = [(file, label) for label, name in enumerate(LABELS) for file in sorted((folder / name).glob("*.png"))]
    generator = np.random.default_rng(seed)

    class Batches(keras.utils.PyDataset):
        def __init__(self) -> None:
            super().__init__()
            self.on_epoch_end()

        def __len__(self) -> int:
            return math.ceil(len(files) / BATCH_SIZE)

        def __getitem__(self, index: int):
            chosen = self._order[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
            images = np.stack([cv2.imread(str(files[number][0]), cv2.IMREAD_COLOR_RGB) for number in chosen])
            mirror = self._mirror[chosen]
            images[mirror] = images[mirror, :, ::-1]
            labels = np.array([[files[number][1]] for number in chosen], np.float32)
            return keras.applications.resnet.preprocess_input(images.astype(np.float32)), labels

        def on_epoch_end(self) -> None:
            self._order = generator.permutation(len(files)) if flips else np.arange(len(files))
            self._mirror = generator.random(len(files)) < (0.5 if flips else 0.0)

    return Batches(), np.array([label for _, label in files])


def run(data: Path, backbone: str, weights: str | None, epochs: int, seed: int, image_size: int = 224) -> dict:
    """Train, score the test images, and say how long what took."""
    start = time.perf_counter()
    import keras
    from sklearn.metrics import roc_auc_score

    keras.utils.set_random_seed(seed)
    network = build(backbone, weights, image_size)
    training, _ = read(data / "train", flips=True, seed=seed)
    validation, _ = read(data / "val", flips=False, seed=seed)
    clock = _make_clock()
    history = network.fit(
        training, validation_data=validation, epochs=epochs, verbose=0, shuffle=False, callbacks=[clock]
    ).history
    test, labels = read(data / "test", flips=False, seed=seed)
    before_scoring = time.perf_counter()
    scores = network.predict(test, verbose=0)[:, 0]
    return {
        "backend": keras.backend.backend(),
        "auc": float(roc_auc_score(labels, scores)),
        "val_loss": history["val_loss"][-1],
        "seconds": time.perf_counter() - start,
        "epoch_seconds": clock.seconds,
        "scoring_seconds": time.perf_counter() - before_scoring,
    }


def _make_clock():
    import keras

    class Clock(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []

        def on_epoch_begin(self, epoch, logs=None) -> None:
            self._start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None) -> None:
            self.seconds.append(time.perf_counter() - self._start)

    return Clock()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("backbone")
    parser.add_argument("weights", nargs="?")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps(run(given.data, given.backbone, given.weights, given.epochs, given.seed)))
