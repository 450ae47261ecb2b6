"""Describes p-values of which some are of true differences by a mixture of a uniform and a beta distribution.

Source: Pounds and Morris, "Estimating the occurrence of false positives and false negatives in microarray studies by
approximating and partitioning the empirical distribution of p-values", Bioinformatics 19:1236, 2003.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

MIN_P_VALUE: Final = 1e-6
"""Smaller p-values count as this one."""

MIN_LOG_LIKELIHOOD_GAIN: Final = 5.0
"""Gain in the logarithm of the likelihood over all p-values being uniform, from which any pairs belong together; by
chance the gain is larger in less than 1 % of the cases."""


@dataclass(frozen=True)
class PValueMixture:
    """Mixture of p-values: uniform for strangers, and with density `shape * p ** (shape - 1)` for pairs of one kind.

    Attributes:
        stranger_fraction: Fraction of the pairs that are strangers, 0-1.
        shape: 0-1; the nearer to 0, the smaller are the p-values of pairs that belong together.
    """

    stranger_fraction: float
    shape: float

    def miss_fraction(self, limit: float) -> float:
        """Expected fraction of the pairs that belong together whose p-value exceeds a limit."""
        return 1 - limit**self.shape

    def find_limit(self, miss_fraction: float) -> float:
        """P-value above which the expected fraction of the pairs that belong together lies, 0-1."""
        return float((1 - min(miss_fraction, 1)) ** (1 / self.shape))

    def find_certain(self, certainty: float) -> float:
        """Largest p-value of pairs that belong together with at least this probability, 0-1."""
        if self.stranger_fraction == 1:
            return 0.0
        odds = (1 - self.stranger_fraction) / max(self.stranger_fraction, MIN_P_VALUE) * (1 - certainty) / certainty
        return float(min((odds * self.shape) ** (1 / max(1 - self.shape, MIN_P_VALUE)), 1))

    def certainty(self, p_values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability that pairs with these p-values belong together, 0-1."""
        p_values = np.clip(p_values, MIN_P_VALUE, 1)
        together = (1 - self.stranger_fraction) * self.shape * p_values ** (self.shape - 1)
        return together / (together + self.stranger_fraction)


def fit_mixture(p_values: NDArray[np.float64]) -> PValueMixture:
    """Fit the mixture by maximum likelihood; shape (pairs,), at least one."""
    p_values = np.clip(p_values, MIN_P_VALUE, 1)
    is_smallest = p_values <= MIN_P_VALUE

    def negative_log_likelihood(parameters: NDArray[np.float64]) -> float:
        strangers, shape = expit(np.clip(parameters, -7, 7))
        densities = strangers + (1 - strangers) * shape * p_values[~is_smallest] ** (shape - 1)
        smallest = strangers * MIN_P_VALUE + (1 - strangers) * MIN_P_VALUE**shape
        return -float(np.log(densities).sum() + is_smallest.sum() * np.log(smallest))

    starts = [(strangers, shape) for strangers in (-1.0, 1.0) for shape in (-4.0, -1.0)]
    fits = [minimize(negative_log_likelihood, start, method="Nelder-Mead") for start in starts]
    best = min(fits, key=lambda fit: fit.fun)
    if -best.fun - is_smallest.sum() * np.log(MIN_P_VALUE) < MIN_LOG_LIKELIHOOD_GAIN:
        return PValueMixture(1.0, 1.0)
    strangers, shape = expit(np.clip(best.x, -7, 7))
    return PValueMixture(float(strangers), float(shape))
