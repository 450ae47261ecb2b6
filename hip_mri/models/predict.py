"""Computes the scores of a network, block by block."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.models.keras_settings import Model, import_keras
from hip_mri.models.network_inputs import Views, cut_positions

ROWS_PER_BLOCK: Final = 4096
"""Feature rows that are scored at once, 8 KB each."""


def predict(network: Model, inputs: NDArray[np.float32], batch_size: int = 32) -> NDArray[np.float32]:
    """Run a network; returns shape (len(inputs),). Short batches are padded, so that scores do not depend on them."""
    import_keras()
    scores = np.empty(len(inputs), np.float32)
    batch = np.zeros((batch_size, *inputs.shape[1:]), np.float32)
    for positions in cut_positions(len(inputs), batch_size):
        batch[: len(positions)] = inputs[positions]
        scores[positions] = np.asarray(network.predict_on_batch(batch))[: len(positions), 0]
    return scores


def predict_views(
    network: Model, views: Views, block_size: int = ROWS_PER_BLOCK, batch_size: int = 32
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Score images, block by block.

    Args:
        network: A head, or a whole network.
        views: Features or pixels of the images.
        block_size: Rows that are read at once.
        batch_size: Rows that are computed at once.

    Yields:
        The plain rows of a block, and the probability of a lesion for each; with mirrored rows the mean of both.
    """
    for positions in cut_positions(len(views), block_size):
        block = views.plain[positions]
        scores = predict(network, block, batch_size)
        if views.mirrored is not None:
            scores = (scores + predict(network, views.mirrored[positions], batch_size)) / np.float32(2)
        yield block, scores
