"""Draws bootstrap resamples of groups and computes metrics on them.

Images of one group are correlated, so whole groups are drawn, with replacement. A resample draws one group fewer than
there are and scales the weights accordingly, which makes its variance unbiased (Rao and Wu); otherwise few groups would
vary too little. Lesions and normal images are drawn together, not class by class, since the number of lesions varies
between studies as well, and metrics that depend on it (predictive values, accuracy, calibration) would otherwise get
intervals that are too narrow. A resample without one of the classes is drawn again.

Source: Rao and Wu, "Resampling inference with complex survey data", Journal of the American Statistical Association
83, 1988.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.evaluation.metrics.measures import Tally, tally_scores
from hip_mri.evaluation.metrics.validation import ValidatedScores

NUM_RESAMPLES: Final = 2000
"""Default number of resamples; random variation of an interval's width is then about 2%."""

MAX_CELLS: Final = 2**18
"""Images times resamples per matrix: 2 MB, which fits into a processor's cache."""

Floats = NDArray[np.float64]


def resample(
    validated: ValidatedScores,
    compute: Callable[[Tally], dict[str, Floats]],
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Floats]:
    """Compute metrics of many resamples.

    Args:
        validated: The images; at least two groups must have lesions, and two normal images.
        compute: Computes all columns of a tally at once; the last axis of each array is the columns.
        seed: The same seed gives the same resamples.
        num_resamples: Number of resamples.

    Returns:
        The results of `compute`, with the resamples along the last axis.
    """
    chunks = [compute(tally) for tally in tally_resamples(validated, seed, num_resamples)]
    return {key: np.concatenate([chunk[key] for chunk in chunks], axis=-1) for key in chunks[0]}


def tally_resamples(validated: ValidatedScores, seed: int, num_resamples: int) -> Iterator[Tally]:
    """Draw and tally resamples, in chunks that limit the memory."""
    generator = np.random.default_rng(seed)
    num_columns = max(1, MAX_CELLS // len(validated.labels))
    for first in range(0, num_resamples, num_columns):
        yield tally_scores(validated, draw_group_weights(validated, generator, min(num_columns, num_resamples - first)))


def draw_group_weights(validated: ValidatedScores, generator: np.random.Generator, num_columns: int) -> Floats:
    """Draw resamples with images of both classes.

    Args:
        validated: The images; at least two groups must have lesions, and two normal images.
        generator: Random generator.
        num_columns: Number of resamples.

    Returns:
        Weight of each group, shape (num_groups, num_columns); the mean of a column is 1.
    """
    groups, num_groups = validated.groups, validated.num_groups
    counts = [np.bincount(groups[validated.labels == label], minlength=num_groups) for label in (0, 1)]
    has_class = np.stack(counts) > 0
    weights = _draw_columns(num_groups, generator, num_columns)
    while (missing := np.flatnonzero((np.einsum("pg,gc->pc", has_class, weights) == 0).any(axis=0))).size:
        weights[:, missing] = _draw_columns(num_groups, generator, missing.size)
    return weights


def _draw_columns(num_groups: int, generator: np.random.Generator, num_columns: int) -> Floats:
    drawn = generator.integers(num_groups, size=(num_columns, num_groups - 1))
    cells = drawn + num_groups * np.arange(num_columns)[:, None]
    counts = np.bincount(cells.ravel(), minlength=num_groups * num_columns).reshape(num_columns, num_groups)
    return np.ascontiguousarray(counts.T, np.float64) * (num_groups / (num_groups - 1))
