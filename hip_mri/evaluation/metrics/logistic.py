"""Fits logistic regressions on one feature, for many weightings of the same images at once.

A weighting (a bootstrap resample) is a column. Newton's method updates all columns together, so that a bootstrap of two
thousand regressions takes a few passes over one matrix.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_STEPS: Final = 100
"""Newton's method needs about seven steps; more only next to perfect separation, where the optimum is far away."""

TOLERANCE: Final = 1e-8
"""Step length, relative to 1 + the coefficient of a standardized feature, below which the fit has converged."""

MAX_STEP: Final = 5.0
"""Maximum step in log odds, in addition to the size of the coefficients; where the likelihood is flat, Newton's step
is unbounded."""

RIDGE: Final = 1e-12
"""Added to the curvature, so that it can be inverted where all probabilities are 0 or 1. It moves no optimum."""

MAX_OVERSHOOT: Final = 0.5
"""Slope of the loss at the end of a step, relative to its slope at the start, above which the step is halved."""

MIN_PROBABILITY: Final = 1e-6
"""Scores are clipped to this distance from 0 and 1, so that their logit stays finite (at most 13.8)."""

Floats = NDArray[np.float64]


def compute_logits(scores: Floats) -> Floats:
    """Compute log odds of scores clipped to `MIN_PROBABILITY` from 0 and 1."""
    clipped = np.clip(scores, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return np.log(clipped / (1 - clipped))


def fit_logistic(features: Floats, lesions: Floats, normals: Floats) -> tuple[Floats, Floats]:
    """Fit P(lesion) = 1 / (1 + exp(-(intercept + slope * feature))) by maximum likelihood.

    Args:
        features: The feature's values, ascending, shape (num_values,).
        lesions: Weight of the lesions at each value, shape (num_values, num_columns).
        normals: Weight of the normal images, the same shape.

    Returns:
        Slopes and intercepts, shape (num_columns,) each; NaN where a threshold separates the classes (both may have
        images at the threshold itself): the likelihood then has no maximum.

    Source: Albert and Anderson, "On the existence of maximum likelihood estimates in logistic regression models",
    Biometrika 71, 1984.
    """
    separated = _find_separated(features, lesions, normals)
    center, scale = float(features.mean()), float(features.std()) or 1.0
    design = np.stack([np.ones_like(features), (features - center) / scale])
    intercepts, slopes = _maximize_likelihood(design, np.zeros_like(features), lesions, normals, separated)
    slopes /= scale
    return slopes, intercepts - slopes * center


def fit_intercept(offsets: Floats, lesions: Floats, normals: Floats) -> Floats:
    """Fit P(lesion) = 1 / (1 + exp(-(intercept + offset))): calibration in the large.

    Args:
        offsets: Log odds as predicted, shape (num_values,).
        lesions: Weight of the lesions at each value, shape (num_values, num_columns).
        normals: Weight of the normal images, the same shape.

    Returns:
        Intercepts, shape (num_columns,); NaN where a class has no weight.
    """
    unsolvable = (lesions.sum(axis=0) <= 0) | (normals.sum(axis=0) <= 0)
    return _maximize_likelihood(np.ones((1, len(offsets))), offsets, lesions, normals, unsolvable)[0]


def _maximize_likelihood(
    design: Floats, offsets: Floats, lesions: Floats, normals: Floats, unsolvable: NDArray[np.bool_]
) -> Floats:
    """Apply Newton's method from 0, with steps halved where they overshoot.

    Args:
        design: One row per coefficient, shape (num_coefficients, num_values).
        offsets: Fixed part of the log odds, shape (num_values,).
        lesions: Weights, shape (num_values, num_columns).
        normals: Weights, shape (num_values, num_columns).
        unsolvable: Columns without a maximum, shape (num_columns,).

    Returns:
        Coefficients, shape (num_coefficients, num_columns); NaN in unsolvable columns.
    """
    coefficients = np.zeros((len(design), lesions.shape[1]))
    steps, slopes, unfinished = np.zeros_like(coefficients), np.zeros(lesions.shape[1]), ~unsolvable
    for _ in range(MAX_STEPS):
        gradients, curvatures = _compute_gradients(design, offsets, lesions, normals, coefficients)
        newton = _compute_newton_steps(gradients, curvatures, coefficients)
        is_too_far = (gradients * steps).sum(axis=0) > MAX_OVERSHOOT * slopes
        moves = np.where(unsolvable, 0, np.where(is_too_far, -steps / 2, newton))
        slopes = np.where(is_too_far, slopes / 2, -(gradients * newton).sum(axis=0))
        steps = np.where(is_too_far, steps / 2, newton)
        coefficients += moves
        unfinished = np.abs(moves).max(axis=0) > TOLERANCE * (1 + np.abs(coefficients).max(axis=0))
        if not unfinished.any():
            break
    return np.where(unsolvable | unfinished, np.nan, coefficients)


def _compute_gradients(
    design: Floats, offsets: Floats, lesions: Floats, normals: Floats, coefficients: Floats
) -> tuple[Floats, Floats]:
    """Compute first and second derivatives of the negative log likelihood.

    `einsum` instead of `@`: for matrices of this shape BLAS threads take ten times the processor time on a busy
    machine, and the last digits would depend on the number of cores.

    Returns:
        Gradients, shape (num_coefficients, num_columns), and curvatures, shape (num_columns, num_coefficients,
        num_coefficients).
    """
    with np.errstate(over="ignore"):  # an infinite exponential is a probability of 0
        probabilities = 1 / (1 + np.exp(-(offsets[:, None] + np.einsum("kn,kc->nc", design, coefficients))))
    expected = (lesions + normals) * probabilities
    products = (design[:, None] * design).reshape(len(design) ** 2, -1)
    curvatures = np.einsum("pn,nc->pc", products, expected * (1 - probabilities))
    return np.einsum("kn,nc->kc", design, expected - lesions), curvatures.T.reshape(-1, len(design), len(design))


def _compute_newton_steps(gradients: Floats, curvatures: Floats, coefficients: Floats) -> Floats:
    """Compute Newton's steps, limited by `MAX_STEP`, shape (num_coefficients, num_columns)."""
    curvatures = curvatures + RIDGE * np.eye(len(coefficients))
    steps = -np.linalg.solve(curvatures, gradients.T[:, :, None])[:, :, 0].T
    longest = MAX_STEP + np.abs(coefficients).max(axis=0)
    return steps * (longest / np.maximum(np.abs(steps).max(axis=0), longest))


def _find_separated(features: Floats, lesions: Floats, normals: Floats) -> NDArray[np.bool_]:
    """Find columns in which a threshold separates the classes."""
    lowest_lesion, highest_lesion = _find_range(features, lesions > 0)
    lowest_normal, highest_normal = _find_range(features, normals > 0)
    return ~((lowest_lesion < highest_normal) & (lowest_normal < highest_lesion))


def _find_range(features: Floats, present: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Find the lowest and highest value present in each column; NaN where none is."""
    lowest = features[present.argmax(axis=0)]
    highest = features[len(features) - 1 - present[::-1].argmax(axis=0)]
    empty = ~present.any(axis=0)
    return np.where(empty, np.nan, lowest), np.where(empty, np.nan, highest)
