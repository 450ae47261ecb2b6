"""The k-nearest-neighbors head: the weighted share of lesions among the most similar training images.

Features are standardized and compared by cosine similarity. A neighbor of similarity s has the weight
exp((s - s_max) / T), and half a neighbor of each class is added, so that scores are never exactly 0 or 1.

Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018 (weights and
temperature).
"""

import functools
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.models.fitting import TrainingImages
from hip_mri.models.heads.dense import SCORE
from hip_mri.models.keras_settings import import_keras

NUM_NEIGHBORS: Final = 20
TEMPERATURE: Final = 0.07

MAX_NUM_REFERENCES: Final = 20_000
"""Training images that the head holds; of more, a random part. 8 KB each for a ResNet."""

MIN_SPREAD: Final = 1e-6
"""Standard deviation below which a feature counts as constant; features are of the order of 1."""

KNN_CLASS: Final = "NearestNeighbors"


def add_nearest_neighbors(features: Any, num_references: int) -> Any:
    """Add the layer to symbolic features; returns the symbolic probability."""
    return _define_layer()(num_references, dtype="float32", trainable=False, name=SCORE)(features)


def fit_nearest_neighbors(training: TrainingImages, seed: int) -> list[NDArray[np.float32]]:
    """Select the references; mirrored images are not used.

    Args:
        training: Features.
        seed: Seed of the selection from more than `MAX_NUM_REFERENCES` images.

    Returns:
        Weights of the layer: mean and standard deviation of the features, shape (num_features,); standardized
        references of length 1, shape (num_references, num_features); their labels, shape (num_references,).
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(training.labels))[:MAX_NUM_REFERENCES])
    rows = training.plain[chosen].astype(np.float32)
    mean, spread = rows.mean(axis=0), np.maximum(rows.std(axis=0), np.float32(MIN_SPREAD))
    references = (rows - mean) / spread
    references /= np.maximum(np.linalg.norm(references, axis=1, keepdims=True), np.float32(MIN_SPREAD))
    return [mean, spread, references, training.labels[chosen].astype(np.float32)]


def differentiate_nearest_neighbors(
    weights: list[NDArray[np.float32]], features: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Compute the gradient of the logit with respect to the features in closed form; see `differentiate_head`."""
    mean, spread, references, labels = weights
    rows = (features - mean) / spread
    lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), MIN_SPREAD)
    rows = rows / lengths
    similarities = rows @ references.T
    places = np.argsort(-similarities, axis=1, kind="stable")[:, :NUM_NEIGHBORS]
    nearest = np.take_along_axis(similarities, places, axis=1)
    shares = np.exp((nearest - nearest[:, :1]) / TEMPERATURE)
    total = shares.sum(axis=1, keepdims=True) + 1
    scores = ((shares * labels[places]).sum(axis=1, keepdims=True) + 0.5) / total
    by_neighbor = shares * (labels[places] - scores) / (TEMPERATURE * total * scores * (1 - scores))
    by_neighbor[:, 0] -= by_neighbor.sum(axis=1)  # the weights are relative to the first neighbor
    gradients = np.einsum("nk,nkf->nf", by_neighbor, references[places])
    gradients -= (gradients * rows).sum(axis=1, keepdims=True) * rows
    return (gradients / lengths / spread).astype(np.float32)


@functools.cache
def _define_layer() -> Any:
    """Define the layer; Keras is imported only where a network is needed."""
    keras = import_keras()
    ops = keras.ops

    @keras.saving.register_keras_serializable("hip_mri", KNN_CLASS)
    class NearestNeighbors(keras.layers.Layer):
        """Weighted share of lesions among the nearest references."""

        def __init__(self, num_references: int, **options: Any) -> None:
            super().__init__(**options)
            self.num_references = num_references

        def build(self, input_shape: tuple[int | None, ...]) -> None:
            num_features, count = input_shape[-1], self.num_references
            shapes = {
                "mean": (num_features,),
                "spread": (num_features,),
                "references": (count, num_features),
                "labels": (count,),
            }
            for name, shape in shapes.items():
                setattr(self, name, self.add_weight(shape=shape, initializer="ones", trainable=False, name=name))

        def call(self, features: Any) -> Any:
            rows = ops.normalize((features - self.mean) / self.spread, axis=-1)
            similarities = ops.matmul(rows, ops.transpose(self.references))
            nearest, places = ops.top_k(similarities, min(NUM_NEIGHBORS, self.num_references))
            shares = ops.exp((nearest - nearest[:, :1]) / TEMPERATURE)
            lesions = ops.sum(shares * ops.take(self.labels, places), axis=-1, keepdims=True)
            return (lesions + 0.5) / (ops.sum(shares, axis=-1, keepdims=True) + 1)

        def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
            return (input_shape[0], 1)

        def get_config(self) -> dict[str, Any]:
            return super().get_config() | {"num_references": self.num_references}

    return NearestNeighbors
