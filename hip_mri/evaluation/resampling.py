"""Samples as they might have come: groups of images drawn anew, with replacement.

Images of one group are not independent, so whole groups are drawn. A resample draws one group fewer than there are
and weighs what it draws a little more, which makes its variance that of the study (Rao and Wu); without that, few
groups would vary too little. Lesions and normal images are drawn together, not class by class: how many lesions a
study has is chance as well, and measures that depend on it (predictive values, accuracy, calibration) would otherwise
look surer than they are. A resample that happens to lack a class is drawn again.

Source: Rao and Wu, "Resampling inference with complex survey data", Journal of the American Statistical Association
83, 1988.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.evaluation.sample import Sample
from hip_mri.evaluation.weighted import Tally, tally_sample

NUM_RESAMPLES: Final = 2000
"""Resamples by default; chance moves the width of an interval by about 2 %."""

MOST_CELLS: Final = 2**18
"""Images times resamples that are measured at a time: 2 MB per matrix, which stays in a processor's cache."""

Floats = NDArray[np.float64]


def resample(
    sample: Sample, measure: Callable[[Tally], dict[str, Floats]], seed: int, num_resamples: int = NUM_RESAMPLES
) -> dict[str, Floats]:
    """Measure many resamples of a sample.

    Args:
        sample: The images; at least two groups must have lesions, and two normal images (see `count_rarer_groups`).
        measure: Measures all columns of a tally at once; each array's last axis counts the columns.
        seed: The same seed gives the same resamples.
        num_resamples: How many.

    Returns:
        What `measure` returns, with the resamples along the last axis.
    """
    measured = [measure(tally) for tally in tally_resamples(sample, seed, num_resamples)]
    return {name: np.concatenate([chunk[name] for chunk in measured], axis=-1) for name in measured[0]}


def tally_resamples(sample: Sample, seed: int, num_resamples: int) -> Iterator[Tally]:
    """Draw resamples and tally them, so many at a time that memory stays bounded."""
    generator = np.random.default_rng(seed)
    num_columns = max(1, MOST_CELLS // len(sample.labels))
    for first in range(0, num_resamples, num_columns):
        yield tally_sample(sample, draw_group_weights(sample, generator, min(num_columns, num_resamples - first)))


def draw_group_weights(sample: Sample, generator: np.random.Generator, num_columns: int) -> Floats:
    """Draw resamples in which both classes occur.

    Args:
        sample: The images, of at least two groups with lesions and two with normal images.
        generator: Source of chance.
        num_columns: Resamples to draw.

    Returns:
        Weight of each group, shape (num_groups, num_columns); a column's mean is 1.
    """
    images = [np.bincount(sample.groups[sample.labels == label], minlength=sample.num_groups) for label in (0, 1)]
    presence = np.stack(images) > 0
    weights = _draw_columns(sample.num_groups, generator, num_columns)
    while (lacking := np.flatnonzero((np.einsum("pg,gc->pc", presence, weights) == 0).any(axis=0))).size:
        weights[:, lacking] = _draw_columns(sample.num_groups, generator, lacking.size)
    return weights


def count_rarer_groups(sample: Sample) -> int:
    """Groups that have a lesion, or groups that have a normal image, whichever is fewer."""
    return min(len(np.unique(sample.groups[sample.labels == label])) for label in (0, 1))


def _draw_columns(num_groups: int, generator: np.random.Generator, num_columns: int) -> Floats:
    drawn = generator.integers(num_groups, size=(num_columns, num_groups - 1))
    places = drawn + num_groups * np.arange(num_columns)[:, None]
    counts = np.bincount(places.ravel(), minlength=num_groups * num_columns).reshape(num_columns, num_groups)
    return np.ascontiguousarray(counts.T, np.float64) * (num_groups / (num_groups - 1))
