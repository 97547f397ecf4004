"""Search among the networks of a split, and by evolution: what is found, in what order, from what."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ghnfast
from ghnfast import ConfigError, PropertyError
from ghnfast.deepnets import DeepNets1M, graph_of
from ghnfast.families import Families
from ghnfast.properties import ArchitectureEmbedding, evolve, make_model, search
from ghnfast.properties.embedding import OF_GENOTYPES

TRAINED = [item.graph for item in DeepNets1M("train", size=60)]
DEPTHS = np.array([graph.depth for graph in TRAINED], dtype=float)


def tiny(**settings: Any) -> ghnfast.GHN:
    torch.manual_seed(0)
    return ghnfast.GHN(**{"max_shape": (8, 8, 3, 3), "hid": 8, **settings}).eval()


MODEL = make_model(tiny()).fit(TRAINED, DEPTHS)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("top", [1, 7, 200])
def test_what_a_prediction_of_every_network_would_find(
    top: int, largest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ghnfast.properties.searching.BATCH", 7)
    monkeypatch.setattr("ghnfast.properties.searching.ROUND", 3)
    dataset = DeepNets1M("search", size=100, seed=3)
    seen: list[int] = []
    found = search(MODEL, dataset, top=top, largest=largest, progress=seen.append)
    predicted = MODEL.predict(list(dataset))
    order = np.argsort(-predicted if largest else predicted, kind="stable")[:top]
    assert [each.network for each in found] == order.tolist()
    np.testing.assert_allclose([each.predicted for each in found], predicted[order], rtol=1e-4)
    assert sum(seen) == 100
    assert max(seen) == 21
    assert found == search(MODEL, dataset, top=top, largest=largest)


def test_it_finds_what_the_labels_say() -> None:
    dataset = DeepNets1M("search", size=150)
    depths = np.array([item.graph.depth for item in dataset])
    deep, flat = (search(MODEL, dataset, top=10, largest=largest) for largest in (True, False))
    assert depths[[each.network for each in deep]].mean() > np.quantile(depths, 0.8)
    assert depths[[each.network for each in flat]].mean() < np.quantile(depths, 0.2)


@pytest.mark.parametrize("settings", [{"hypernet": "mlp"}, {"hypernet": "graphormer", "layers": 1, "heads": 2}])
def test_with_other_ghns_and_other_regressors(settings: dict[str, Any]) -> None:
    steps = ArchitectureEmbedding(tiny(**settings), pool="mean"), StandardScaler(), LinearRegression()
    model = make_pipeline(*steps).fit(TRAINED, DEPTHS)
    dataset = DeepNets1M("search", size=30)
    (found,) = search(model, dataset, top=1)
    np.testing.assert_allclose(found.predicted, max(model.predict(list(dataset))), rtol=1e-3)


def test_the_number_of_threads_changes_nothing() -> None:
    dataset, threads = DeepNets1M("search", size=60), torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(search(MODEL, dataset, top=5))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_a_split_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(DeepNets1M("search")) == 100_000
    monkeypatch.setitem(ghnfast.deepnets.dataset.SIZES, "search", 20)
    assert len(search(MODEL, top=50)) == 20


@pytest.mark.parametrize("top", [0, -1, 2.5, None, "3", True, np.True_])
def test_numbers_that_are_refused(top: Any) -> None:
    with pytest.raises(ConfigError, match="top"):
        search(MODEL, "search", top=top)
    with pytest.raises(ConfigError, match="generations"):
        evolve(MODEL, generations=top)


MODELS = [
    None,
    LinearRegression(),
    make_pipeline(StandardScaler(), LinearRegression()),
    make_pipeline(ArchitectureEmbedding(), StandardScaler()),
]


@pytest.mark.parametrize("model", MODELS)
def test_models_that_are_refused(model: Any) -> None:
    for find in (search, evolve):
        with pytest.raises(ConfigError, match="make_pipeline"):
            find(model)


class Predicting(RegressorMixin, BaseEstimator):
    """Predicts what a function makes of how many networks there are."""

    def __init__(self, predicted: Callable[[int], Any]) -> None:
        self.predicted = predicted

    def fit(self, X: Any, y: Any) -> Predicting:
        self.fitted_ = True
        return self

    def predict(self, X: Any) -> Any:
        return self.predicted(len(X))


PREDICTED: dict[str, tuple[Callable[[int], Any], str]] = {
    "NaN": (lambda count: np.where(np.arange(count) == 1, np.nan, 1.0), "NaN or infinity"),
    "infinite": (lambda count: np.full(count, np.inf), "NaN or infinity"),
    "too few": (lambda count: np.zeros(1), r"numbers of the shape \(1,\)"),
    "several": (lambda count: np.zeros((count, 2)), "numbers of the shape"),
    "one": (lambda count: 3.0, r"numbers of the shape \(\)"),
    "texts": (lambda count: ["good"] * count, "'good'"),
    "nothing": (lambda count: None, "predicts"),
    "complex": (lambda count: np.zeros(count) + 1j, "predicts"),
}


@pytest.mark.parametrize("name", PREDICTED)
def test_predictions_that_rank_nothing(name: str) -> None:
    predicted, message = PREDICTED[name]
    model = make_pipeline(ArchitectureEmbedding(tiny()), Predicting(predicted)).fit(TRAINED[:2], DEPTHS[:2])
    with pytest.raises(PropertyError, match=f"the regressor .*{message}"):
        search(model, DeepNets1M("search", size=8))
    with pytest.raises(PropertyError, match=f"the regressor .*{message}"):
        evolve(model, generations=1, population=4)


def test_labels_in_a_column() -> None:
    flat, column = (
        make_pipeline(ArchitectureEmbedding(tiny()), LinearRegression()).fit(TRAINED, labels)
        for labels in (DEPTHS, DEPTHS[:, None])
    )
    dataset = DeepNets1M("search", size=20)
    options: dict[str, Any] = {"generations": 1, "population": 4}
    assert [each.network for each in search(column, dataset)] == [each.network for each in search(flat, dataset)]
    assert [each.genotype for each in evolve(column, **options)] == [each.genotype for each in evolve(flat, **options)]


def test_networks_that_are_refused() -> None:
    with pytest.raises(ConfigError, match="sampled"):
        search(MODEL, "predefined")
    with pytest.raises(ConfigError, match="split"):
        search(MODEL, "everything")
    for wrong in (None, [1], Families(), 5):
        with pytest.raises(ConfigError, match=r"networks is .*accepted"):
            search(MODEL, wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("largest", [True, False])
def test_evolution_goes_beyond_where_it_began(largest: bool) -> None:
    seen: list[int] = []
    options: dict[str, Any] = {"population": 12, "largest": largest, "seed": 1, "network": {"n_cells": 4}}
    found = evolve(MODEL, generations=6, top=5, progress=seen.append, **options)
    assert seen[0] == 12
    assert len(seen) == 7
    assert len({each.genotype for each in found}) == 5
    values = [each.predicted if largest else -each.predicted for each in found]
    assert values == sorted(values, reverse=True)
    first = evolve(MODEL, generations=1, top=100, **options)
    began = [each.predicted if largest else -each.predicted for each in first]
    assert values[0] > np.quantile(began, 0.9)
    graphs = [graph_of(genotype=each.genotype, **{**OF_GENOTYPES, "n_cells": 4}) for each in found]
    np.testing.assert_allclose(MODEL.predict(graphs), [each.predicted for each in found], rtol=1e-4)
    assert found == evolve(MODEL, generations=6, top=5, **options)


def test_evolution_where_no_network_can_be() -> None:
    with pytest.raises(ConfigError, match="n_cells must be 1 or more, given 0"):
        evolve(MODEL, generations=1, network={"n_cells": 0})


NO_ARGUMENTS: list[dict[str, Any]] = [
    *({"seed": seed} for seed in (-1, 1 << 64, None, "a", 1.5, True)),
    *({name: True} for name in ("tournament", "top")),
    *({"population": population} for population in (1, True, 100_001)),
    *({"network": network} for network in ({"foo": 1}, {"genotype": "DARTS"}, {1: 2}, "x", [1])),
]


@pytest.mark.parametrize("given", NO_ARGUMENTS, ids=str)
def test_arguments_of_evolution_that_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="accepted"):
        evolve(MODEL, generations=1, **given)


class FirstTen(ArchitectureEmbedding):
    def transform(self, X: Any) -> Any:
        return super().transform(X)[:, :10]


def framed() -> Any:
    columns = ColumnTransformer([("some", "passthrough", ["log parameters", "levels"])])
    model = make_pipeline(ArchitectureEmbedding(tiny()), columns, LinearRegression())
    return model.set_output(transform="pandas")


@pytest.mark.parametrize(
    "make",
    [
        framed,
        lambda: make_model(tiny()).set_output(transform="pandas"),
        lambda: make_pipeline(FirstTen(tiny()), LinearRegression()),
    ],
    ids=["columns by name", "data frames", "a subclass"],
)
def test_vectors_are_those_of_the_pipeline(make: Callable[[], Any]) -> None:
    """Whatever becomes of vectors between the two, and without a warning."""
    items = [DeepNets1M("train")[index] for index in range(30)]
    dataset = DeepNets1M("search", size=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make().fit(items, [float(item.graph.depth) for item in items])
        found = search(model, dataset, top=3)
        wanted = model.predict([dataset[index] for index in range(100)])
    np.testing.assert_allclose([each.predicted for each in found], np.sort(wanted)[:-4:-1], rtol=1e-6)


def test_a_search_over_models_is_not_one() -> None:
    with pytest.raises(ConfigError, match="best_estimator_"):
        search(GridSearchCV(make_model(tiny()), {}), DeepNets1M("search", size=2))
