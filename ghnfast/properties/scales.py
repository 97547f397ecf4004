"""A Gaussian process's scales, one for each number of its vectors: `most_probable`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..optional import import_optional

lapack: Any = import_optional("scipy.linalg.lapack", "ghnfast.properties needs")
optimize: Any = import_optional("scipy.optimize", "ghnfast.properties needs")

Vectors = NDArray[np.float64]

SPREAD = 1.5  # standard deviation of the logarithms of relevances around the common one
STEPS = 100
BOUNDS = (np.log([1e-6, 1e4]), np.log([1e-3, 1e3]), np.log([1e-4, 10.0]))  # of relevance, amplitude, noise
FARTHEST = 6.0  # standard deviations that a relevance may be off the common one


class Scales(NamedTuple):
    """The covariance `amplitude` * Matern(`lengths`, nu=2.5), and noise of the variance `noise`."""

    amplitude: float
    lengths: Vectors
    noise: float


def most_probable(points: Vectors, scores: Vectors) -> Scales:
    """The scales that maximize the posterior, by L-BFGS.

    The marginal likelihood (Rasmussen and Williams, "Gaussian Processes for Machine Learning", equations 5.8 and 5.9)
    with automatic relevance determination (the same, section 5.1): the squared distance of two points is the sum over
    dimensions of relevance times squared difference. Logarithms of relevances are drawn around a common one, which is
    free, so that hundreds of dimensions and few labels do as well as with one scale for all.

    Args:
        points: (n, dimensions), standardized.
        scores: (n,), with mean 0 and standard deviation 1.
    """
    objective = Objective(points, scores)
    start = np.zeros(3 + points.shape[1])
    start[2] = np.log(0.1)
    bounds = [*BOUNDS, *([(-FARTHEST, FARTHEST)] * points.shape[1])]
    found = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
    return Scales(np.exp(found.x[1]), 1 / np.sqrt(objective.relevances(found.x)), np.exp(found.x[2]))


class Objective:
    """The negative logarithm of the posterior, but for a constant, and its gradient.

    Of (common relevance, amplitude, noise, and a relevance for each dimension), all logarithms; the last in units of
    `SPREAD` off the common one.
    """

    def __init__(self, points: Vectors, scores: Vectors) -> None:
        self.points, self.squares, self.scores = points, np.square(points), scores

    def relevances(self, values: Vectors) -> Vectors:
        relevances: Vectors = np.exp(values[0] + SPREAD * values[3:]) / self.points.shape[1]
        return relevances

    def __call__(self, values: Vectors) -> tuple[float, Vectors]:
        relevances, amplitude, noise = self.relevances(values), np.exp(values[1]), np.exp(values[2])
        norms = self.squares @ relevances
        distances = norms[:, None] + norms - 2 * (self.points * relevances) @ self.points.T
        roots = np.sqrt(5 * np.maximum(distances, 0))
        decay = amplitude * np.exp(-roots)
        covariance = (1 + roots + np.square(roots) / 3) * decay
        factor, failed = lapack.dpotrf(covariance + noise * np.eye(len(norms)), lower=1)
        if failed:  # to working precision this is no covariance
            return np.inf, np.zeros_like(values)
        inverse = np.tril(lapack.dpotri(factor, lower=1)[0])
        inverse += np.tril(inverse, -1).T
        weights = inverse @ self.scores
        value = self.scores @ weights / 2 + np.log(np.diag(factor)).sum() + np.square(values[3:]).sum() / 2
        by_covariance = (inverse - np.outer(weights, weights)) / 2
        by_distance = -5 / 6 * by_covariance * (1 + roots) * decay
        # The sum over pairs of by_distance times squared differences, for each dimension.
        by_relevance = by_distance.sum(axis=1) @ self.squares
        by_relevance -= np.einsum("ij,ij->j", self.points, by_distance @ self.points)
        by_relevance *= 2 * relevances
        common = by_relevance.sum(), np.vdot(by_covariance, covariance), np.trace(by_covariance) * noise
        return float(value), np.concatenate([common, SPREAD * by_relevance + values[3:]])
