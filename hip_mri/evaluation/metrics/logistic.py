"""Logistic regression on one feature, for many weightings of the same images at once.

A weighting (a resample) is a column. Newton's method serves all columns together, so that a bootstrap of two thousand
regressions costs a few passes over one matrix.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

MOST_STEPS: Final = 100
"""Newton needs about seven; more only beside perfect separation, where the optimum is far away."""

TOLERANCE: Final = 1e-8
"""Longest last step, relative to 1 + the coefficient of a standardised feature, at which the optimum is found."""

LONGEST_STEP: Final = 5.0
"""Longest step in log odds, beyond the present coefficients' size. Where the likelihood is flat Newton's is endless."""

RIDGE: Final = 1e-12
"""Added to the curvature, so that it can be inverted where all probabilities are 0 or 1. It moves no optimum."""

OVERSHOOT: Final = 0.5
"""Share of its first steepness with which the loss may rise at the end of a step; beyond it the step is halved."""

SMALLEST_PROBABILITY: Final = 1e-6
"""Scores nearer to 0 or 1 than this count as this near, so that their logit stays finite (at most 13.8)."""

Floats = NDArray[np.float64]


def find_logits(scores: Floats) -> Floats:
    """Log odds of scores, which are first kept `SMALLEST_PROBABILITY` away from 0 and 1."""
    clipped = np.clip(scores, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return np.log(clipped / (1 - clipped))


def fit_logistic(features: Floats, lesions: Floats, normals: Floats) -> tuple[Floats, Floats]:
    """Fit P(lesion) = 1 / (1 + exp(-(intercept + slope * feature))) by maximum likelihood.

    Args:
        features: The feature's values, ascending, shape (num_values,).
        lesions: Weight of the lesions at each value, shape (num_values, num_columns).
        normals: Weight of the normal images, the same shape.

    Returns:
        Slopes and intercepts, shape (num_columns,) each; NaN where some threshold separates the classes (both may
        stand at the threshold itself), for then the likelihood has no maximum.

    Source: Albert and Anderson, "On the existence of maximum likelihood estimates in logistic regression models",
    Biometrika 71, 1984.
    """
    separated = _find_separated(features, lesions, normals)
    centre, scale = float(features.mean()), float(features.std()) or 1.0
    design = np.stack([np.ones_like(features), (features - centre) / scale])
    intercepts, slopes = _maximize_likelihood(design, np.zeros_like(features), lesions, normals, separated)
    slopes /= scale
    return slopes, intercepts - slopes * centre


def fit_intercept(offsets: Floats, lesions: Floats, normals: Floats) -> Floats:
    """Fit P(lesion) = 1 / (1 + exp(-(intercept + offset))): how far log odds are off on the whole.

    Args:
        offsets: Log odds as predicted, shape (num_values,).
        lesions: Weight of the lesions at each value, shape (num_values, num_columns).
        normals: Weight of the normal images, the same shape.

    Returns:
        Intercepts, shape (num_columns,); NaN where a class has no weight.
    """
    lacking = (lesions.sum(axis=0) <= 0) | (normals.sum(axis=0) <= 0)
    return _maximize_likelihood(np.ones((1, len(offsets))), offsets, lesions, normals, lacking)[0]


def _maximize_likelihood(
    design: Floats, offsets: Floats, lesions: Floats, normals: Floats, impossible: NDArray[np.bool_]
) -> Floats:
    """Newton's method from 0, with steps halved where they overshoot.

    Args:
        design: One row per coefficient, shape (num_coefficients, num_values).
        offsets: Part of the log odds that is given, shape (num_values,).
        lesions: Weights, shape (num_values, num_columns).
        normals: Weights, shape (num_values, num_columns).
        impossible: Columns without a maximum, shape (num_columns,).

    Returns:
        Coefficients, shape (num_coefficients, num_columns); NaN in impossible columns.
    """
    coefficients = np.zeros((len(design), lesions.shape[1]))
    steps, steepness, unfinished = np.zeros_like(coefficients), np.zeros(lesions.shape[1]), ~impossible
    for _ in range(MOST_STEPS):
        gradients, curvatures = _find_gradients(design, offsets, lesions, normals, coefficients)
        newton = _find_newton_steps(gradients, curvatures, coefficients)
        too_far = (gradients * steps).sum(axis=0) > OVERSHOOT * steepness
        moves = np.where(impossible, 0, np.where(too_far, -steps / 2, newton))
        steepness = np.where(too_far, steepness / 2, -(gradients * newton).sum(axis=0))
        steps = np.where(too_far, steps / 2, newton)
        coefficients += moves
        unfinished = np.abs(moves).max(axis=0) > TOLERANCE * (1 + np.abs(coefficients).max(axis=0))
        if not unfinished.any():
            break
    return np.where(impossible | unfinished, np.nan, coefficients)


def _find_gradients(
    design: Floats, offsets: Floats, lesions: Floats, normals: Floats, coefficients: Floats
) -> tuple[Floats, Floats]:
    """First and second derivatives of the negative log likelihood.

    The sums are left to `einsum`, since `@` hands these flat matrices to BLAS, whose threads wait for each other longer
    than they work: ten times the processor time on a busy machine, and last digits that depend on the cores.

    Returns:
        Gradients, shape (num_coefficients, num_columns), and curvatures, shape (num_columns, num_coefficients,
        num_coefficients).
    """
    with np.errstate(over="ignore"):  # the exponential of a far point may be infinite: the probability is 0
        probabilities = 1 / (1 + np.exp(-(offsets[:, None] + np.einsum("kn,kc->nc", design, coefficients))))
    expected = (lesions + normals) * probabilities
    products = (design[:, None] * design).reshape(len(design) ** 2, -1)
    curvatures = np.einsum("pn,nc->pc", products, expected * (1 - probabilities))
    return np.einsum("kn,nc->kc", design, expected - lesions), curvatures.T.reshape(-1, len(design), len(design))


def _find_newton_steps(gradients: Floats, curvatures: Floats, coefficients: Floats) -> Floats:
    """Newton's steps, none longer than `LONGEST_STEP` allows, shape (num_coefficients, num_columns)."""
    curvatures = curvatures + RIDGE * np.eye(len(coefficients))
    steps = -np.linalg.solve(curvatures, gradients.T[:, :, None])[:, :, 0].T
    longest = LONGEST_STEP + np.abs(coefficients).max(axis=0)
    return steps * (longest / np.maximum(np.abs(steps).max(axis=0), longest))


def _find_separated(features: Floats, lesions: Floats, normals: Floats) -> NDArray[np.bool_]:
    """Columns in which no lesion lies strictly among the normal images, or the reverse."""
    lowest_lesion, highest_lesion = _find_ends(features, lesions > 0)
    lowest_normal, highest_normal = _find_ends(features, normals > 0)
    return ~((lowest_lesion < highest_normal) & (lowest_normal < highest_lesion))


def _find_ends(features: Floats, present: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """First and last value that is present in each column; NaN where none is."""
    lowest = features[present.argmax(axis=0)]
    highest = features[len(features) - 1 - present[::-1].argmax(axis=0)]
    empty = ~present.any(axis=0)
    return np.where(empty, np.nan, lowest), np.where(empty, np.nan, highest)
