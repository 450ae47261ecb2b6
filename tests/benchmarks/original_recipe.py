"""The original recipe, written out with plain Keras: the whole network trained by `fit` on live images.

`python -m tests.benchmarks.original_recipe DATA ResNet50 weights.h5 --epochs 30` prints one JSON line.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BATCH_SIZE = 150
LEARNING_RATE = 1e-4
HIDDEN_UNITS = 1024


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


def read(folder: Path, image_size: int, *, flips: bool, seed: int):
    """Images of one split as a `tf.data` pipeline: RGB, preprocessed, randomly flipped for training."""
    import keras

    images = keras.utils.image_dataset_from_directory(
        folder,
        label_mode="binary",
        color_mode="rgb",
        batch_size=BATCH_SIZE,
        image_size=(image_size, image_size),
        shuffle=flips,
        seed=seed,
        verbose=False,
    )
    flip = keras.layers.RandomFlip("horizontal", seed=seed)
    prepare = keras.applications.resnet.preprocess_input
    return images.map(lambda x, y: (prepare(flip(x, training=True) if flips else x), y)).prefetch(1)


def run(data: Path, backbone: str, weights: str | None, epochs: int, seed: int, image_size: int = 224) -> dict:
    """Train, score the test images, and say how long what took."""
    start = time.perf_counter()
    import keras
    import numpy as np
    from sklearn.metrics import roc_auc_score

    keras.utils.set_random_seed(seed)
    network = build(backbone, weights, image_size)
    training = read(data / "train", image_size, flips=True, seed=seed)
    validation = read(data / "val", image_size, flips=False, seed=seed)
    clock = _make_clock()
    history = network.fit(training, validation_data=validation, epochs=epochs, verbose=0, callbacks=[clock]).history
    test = read(data / "test", image_size, flips=False, seed=seed)
    before_scoring = time.perf_counter()
    labels = np.concatenate([batch[1].numpy() for batch in test])[:, 0]
    scores = network.predict(test, verbose=0)[:, 0]
    return {
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
