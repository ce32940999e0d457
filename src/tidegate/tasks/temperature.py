"""Probabilities that are right as often as they say: scores divided by one temperature.

N sequences or steps, K classes.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def fit_temperature(logits: Array, codes: Array) -> float:
    """What to divide scores (N, K) by, so that stated probabilities are right (Guo et al. 2017).

    The maximum of the likelihood times a normal prior on the logarithm of the temperature (mean 0,
    standard deviation 1/2), so that a few sequences, all classified rightly, do not make it zero.
    """
    if not len(codes):
        return 1.0
    from scipy.optimize import minimize_scalar  # here, as other commands need not wait for it
    from scipy.special import log_softmax

    def loss(log_temperature: float) -> float:
        likelihood = log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(codes)), codes].sum()
        return 2 * log_temperature**2 - likelihood

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def to_probabilities(logits: Array, temperature: float) -> Array:
    """Calibrated probabilities (N, K)."""
    from scipy.special import softmax

    return softmax(logits.astype(np.float64) / temperature, axis=1)
