"""Scales of Gaussian processes: the likelihood that scikit-learn has, its gradient, and what they find relevant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from ghnfast.properties import PropertyPredictor
from ghnfast.properties.scales import Objective, most_probable


def drawn(seed: int, count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = random.standard_normal(count)
    return random.standard_normal((count, width)), (scores - scores.mean()) / scores.std()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 9))
def test_the_likelihood_and_its_gradient(seed: int, count: int, width: int) -> None:
    points, scores = drawn(seed, count, width)
    objective = Objective(points, scores)
    values = np.random.default_rng(seed).normal(size=3 + width) / 2
    value, gradient = objective(values)
    kernel = ConstantKernel(np.exp(values[1])) * Matern(1 / np.sqrt(objective.relevances(values)), nu=2.5)
    kernel += WhiteKernel(np.exp(values[2]))
    process = GaussianProcessRegressor(kernel, optimizer=None, alpha=0).fit(points, scores)
    prior = np.square(values[3:]).sum() / 2
    wanted = -process.log_marginal_likelihood_value_ - count / 2 * np.log(2 * np.pi) + prior
    np.testing.assert_allclose(value, wanted, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(gradient, approx_fprime(values, lambda at: objective(at)[0]), rtol=1e-3, atol=1e-3)


def test_what_matters_is_found() -> None:
    points, _ = drawn(0, 120, 30)
    scores = np.sin(2 * points[:, 4]) + points[:, 9]
    lengths = most_probable(points, (scores - scores.mean()) / scores.std()).lengths
    assert set(np.argsort(lengths)[:2].tolist()) == {4, 9}
    others, _ = drawn(1, 200, 30)
    wanted = np.sin(2 * others[:, 4]) + others[:, 9]
    assert PropertyPredictor().fit(points, scores).score(others, wanted) > 0.85


@pytest.mark.parametrize("kept", [0.0, 1.0])
def test_numbers_that_never_change(kept: float) -> None:
    points, scores = drawn(2, 40, 3)
    points[:, 1] = kept
    scales = most_probable(points - points.mean(axis=0), scores)
    assert np.isfinite(scales.lengths).all()
