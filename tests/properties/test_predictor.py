"""Predictors: scikit-learn's own checks, pipelines, what they learn, and what they refuse."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import sklearn
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kendalltau
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

import ghnfast
from ghnfast import ConfigError, PropertyError
from ghnfast.deepnets import DeepNets1M
from ghnfast.properties import ArchitectureEmbedding, PropertyPredictor, kendall_tau
from ghnfast.properties.predictor import GRID, METHODS
from ghnfast.properties.ranking import NormalScores

GRAPHS = [item.graph for item in DeepNets1M("train", size=80)]
# What a predictor can learn from node states.
LABELS = np.array([np.log(graph.depth) + graph.ops.count("conv") / len(graph) for graph in GRAPHS])
TRAINED = 60


def tiny(hid: int = 8) -> ghnfast.GHN:
    torch.manual_seed(0)
    return ghnfast.GHN(max_shape=(8, 8, 3, 3), hid=hid).eval()


GHN = tiny()
VECTORS = ArchitectureEmbedding(GHN).fit_transform(GRAPHS)
# The grid of the published method has 105 points; a part of it does for scikit-learn's checks.
SMALL_GRID = {key: values[:1] for key, values in GRID.items()}


@pytest.mark.parametrize("method", METHODS)
def test_the_checks_of_scikit_learn(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghnfast.properties.predictor.GRID", SMALL_GRID)
    checked = 0
    for estimator, check in estimator_checks_generator(PropertyPredictor(method)):
        if check.func.__name__ == "check_array_api_input":
            continue  # needs an environment variable and another array library
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(estimator)
        checked += 1
    assert checked > 30


@pytest.mark.parametrize("method", METHODS)
def test_a_pipeline_learns(method: str) -> None:
    model = make_pipeline(ArchitectureEmbedding(GHN), PropertyPredictor(method)).fit(GRAPHS[:TRAINED], LABELS[:TRAINED])
    predictions = model.predict(GRAPHS[TRAINED:])
    assert model.score(GRAPHS[TRAINED:], LABELS[TRAINED:]) == kendalltau(predictions, LABELS[TRAINED:])[0] > 0.5
    assert np.abs(predictions - LABELS[TRAINED:]).mean() < np.abs(LABELS[TRAINED:] - LABELS[:TRAINED].mean()).mean()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(GRAPHS[TRAINED:]), predictions)
    np.testing.assert_array_equal(
        clone(model).fit(GRAPHS[:TRAINED], LABELS[:TRAINED]).predict(GRAPHS[TRAINED:]), predictions
    )


def test_cross_validation() -> None:
    model = make_pipeline(ArchitectureEmbedding(GHN, pool="mean"), PropertyPredictor())
    scores = cross_val_score(model, GRAPHS, LABELS, cv=4)
    assert scores.shape == (4,)
    assert scores.mean() > 0.5


def test_labels_without_a_relation_are_not_predicted() -> None:
    shuffled = np.random.default_rng(0).permutation(LABELS)
    scores = cross_val_score(PropertyPredictor(), VECTORS, shuffled, cv=4)
    assert abs(scores.mean()) < 0.4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [2, 3, 7])
def test_few_labels(method: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghnfast.properties.predictor.GRID", SMALL_GRID)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scales at the end of their range
        predictions = PropertyPredictor(method).fit(VECTORS[:count], LABELS[:count]).predict(VECTORS)
    assert np.isfinite(predictions).all()


def test_more_labels_than_scales_are_searched_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghnfast.properties.predictor.MOST_SEARCHED", 15)
    model = PropertyPredictor().fit(VECTORS[:TRAINED], LABELS[:TRAINED])
    assert len(model.model_[-1].X_train_) == TRAINED
    assert model.score(VECTORS[TRAINED:], LABELS[TRAINED:]) > 0.5


NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(arrays(np.float64, st.integers(2, 30), elements=NUMBERS))
def test_normal_scores_and_back(labels: np.ndarray) -> None:
    scores = NormalScores(labels)
    np.testing.assert_allclose(scores.back(scores.scores), labels, rtol=1e-9, atol=1e-9)
    ranked = np.argsort(labels, kind="stable")
    assert (np.diff(scores.scores[ranked]) >= 0).all()
    # Beyond the outermost labels, too, more is more.
    assume(labels.max() - labels.min() > 1e-3)
    beyond = np.array([-9.0, -5.0, scores.known[0], scores.known[-1], 5.0, 9.0])
    assert (np.diff(scores.back(beyond)) > 0).all()


@given(st.lists(NUMBERS, min_size=2, max_size=20).flatmap(lambda a: st.tuples(st.just(a), st.permutations(a))))
def test_kendalls_tau(pair: tuple[list[float], list[float]]) -> None:
    first, second = pair
    tau = kendall_tau(first, second)
    assert tau == kendall_tau(second, first)
    assert -1 <= tau <= 1
    np.testing.assert_allclose(kendall_tau(first, [-value for value in second]), -tau, atol=1e-12)
    assert kendall_tau(first, first) == pytest.approx(1.0 if len(set(first)) > 1 else 0.0)


WRONG_LABELS: dict[str, tuple[Any, str]] = {
    "one too few": (LABELS[:-1], "80 networks and 79 labels"),
    "one too many": ([*LABELS, 1.0], "80 networks and 81 labels"),
    "NaN": ([*LABELS[:-1], float("nan")], "NaN"),
    "infinity": ([float("inf"), *LABELS[1:]], "position 0"),
    "none at all": ([], "labels|sample"),
    "a text": (["good"] * 80, "numbers"),
    "too large": ([10**400] * 80, "numbers"),
    "two columns": (np.stack([LABELS, LABELS], axis=1), "shape"),
    "None": (None, "labels"),
    "complex ones": (LABELS + 1j, "no numbers"),
    "dates": (np.arange(80).astype("datetime64[D]"), "no numbers"),
    "masked": (np.ma.masked_less(LABELS, np.median(LABELS)), "NaN"),
    "larger than any": (LABELS / np.abs(LABELS).max() * 1e300, r"of the size 1e\+300; up to 1e\+100"),
    "with gradients": (torch.tensor(LABELS, requires_grad=True), "no numbers"),
}


@pytest.mark.parametrize("case", WRONG_LABELS)
def test_labels_that_are_refused(case: str) -> None:
    labels, words = WRONG_LABELS[case]
    with pytest.raises(PropertyError, match=words) as caught:
        PropertyPredictor().fit(VECTORS, labels)
    assert isinstance(caught.value, ValueError)


def test_one_label() -> None:
    with pytest.raises(PropertyError, match=r"(?s)1 sample.*two or more of them are accepted"):
        PropertyPredictor().fit(VECTORS[:1], LABELS[:1])
    with pytest.raises(PropertyError, match="1 sample"):
        make_pipeline(ArchitectureEmbedding(GHN), PropertyPredictor()).fit(GRAPHS[:1], LABELS[:1])


def test_labels_that_are_all_the_same() -> None:
    model = PropertyPredictor()
    with pytest.raises(PropertyError, match="all 80 labels are 3"):
        model.fit(VECTORS, np.full(80, 3.0))
    with pytest.raises(NotFittedError):
        model.predict(VECTORS)


@pytest.mark.parametrize("method", METHODS)
def test_a_ghn_of_another_width(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghnfast.properties.predictor.GRID", SMALL_GRID)
    model = PropertyPredictor(method).fit(VECTORS, LABELS)
    other = ArchitectureEmbedding(tiny(hid=16)).fit_transform(GRAPHS[:3])
    with pytest.raises(PropertyError, match="163 features, but PropertyPredictor is expecting 123"):
        model.predict(other)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e99])
def test_scales_of_labels(method: str, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghnfast.properties.predictor.GRID", SMALL_GRID)
    labels = LABELS / np.abs(LABELS).max() * scale
    assert PropertyPredictor(method).fit(VECTORS, labels).score(VECTORS, labels) > 0.5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-250, 1e-160, 1.0, 1e90])
def test_scales_of_vectors(method: str, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far from those of `fit` others are, their property is a number."""
    monkeypatch.setattr("ghnfast.properties.predictor.GRID", SMALL_GRID)
    model = PropertyPredictor(method).fit(scale * np.array([[0.0], [1.0], [2.0]]), [0, 1, 2])
    assert np.isfinite(model.predict([[0.0], [scale], [1.0], [-1e99]])).all()


def test_vectors_that_are_refused() -> None:
    others = (scipy.sparse.csr_matrix(VECTORS), np.ma.masked_greater(VECTORS, 1), VECTORS + 1j, VECTORS * 1e200)
    with_gradients = torch.tensor(VECTORS, requires_grad=True)
    for vectors in (np.full((80, 3), np.nan), VECTORS[0], [["a"]] * 80, [], *others, with_gradients):
        with pytest.raises(PropertyError, match="accepted"):
            PropertyPredictor().fit(vectors, LABELS)


@pytest.mark.parametrize("method", METHODS)
def test_numbers_are_finite_though_scikit_learn_assumes_so(method: str) -> None:
    with sklearn.config_context(assume_finite=True):
        with pytest.raises(PropertyError, match="vectors have a number of the size nan; up to"):
            PropertyPredictor(method).fit(np.full((80, 3), np.nan), LABELS)
        with pytest.raises(PropertyError, match="size inf"):
            PropertyPredictor().fit(VECTORS, LABELS).predict(np.full_like(VECTORS, np.inf))


def test_settings_that_are_refused() -> None:
    for method in ("forest", None, ["gp"]):
        with pytest.raises(ConfigError, match="method"):
            PropertyPredictor(method).fit(VECTORS, LABELS)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="sample_weight"):
        PropertyPredictor().fit(VECTORS, LABELS).score(VECTORS, LABELS, sample_weight=LABELS)  # type: ignore[arg-type]
