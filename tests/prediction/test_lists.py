"""Lists of models, graphs that are given, and models whose classification layer is left as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.formulas import (
    IMAGE,
)
from helpers.predicting import assert_same, changed, check_report, predict, values
from helpers.small_networks import NETWORKS, conv, small_network
from torch import Tensor, nn

import ghnfast
from ghnfast import GhnfastError, PredictError


def test_list_of_models_is_predicted_as_one_by_one() -> None:
    names = ("common", "attention", "position encoding with class token", "more classes")
    together = [NETWORKS[name]() for name in names]
    found, reports = predict(together, report=True)
    assert found is together
    for name, model, report in zip(names, together, reports, strict=True):
        alone, alone_report = predict(NETWORKS[name](), report=True)
        assert (report.predicted, report.skipped) == (alone_report.predicted, alone_report.skipped)
        for (key, tensor), expected in zip(model.named_parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6, msg=f"{name}: {key}")


def test_tuple_of_models() -> None:
    models = (small_network(), small_network())
    assert predict(models) is models
    assert_same(values(models[0]), values(models[1]), batched=True)


def test_same_model_twice_in_a_list() -> None:
    model = small_network()
    _, reports = predict([model, model], report=True)
    assert_same(values(model), values(predict(small_network())), batched=True)
    assert reports[0] == reports[1]


@pytest.mark.parametrize("name", ["common", "classes without bias", "1x1 convolution as classifier", "attention"])
def test_without_classifier_exactly_the_classification_layer_is_left(name: str) -> None:
    model, whole = NETWORKS[name](), predict(NETWORKS[name]())
    before = values(model)
    graph = ghnfast.trace(model, input_shape=IMAGE)
    kept = {graph.params[node] for node in (graph.classifier_weight, graph.classifier_bias) if node is not None}
    _, report = predict(model, classifier=False, report=True)
    names = [name for name, _ in model.named_parameters()]
    assert kept == set(names[-len(kept) :])
    check_report(model, report, kept)  # type: ignore[arg-type]
    for key, tensor in model.named_parameters():
        assert torch.equal(tensor, before[key] if key in kept else dict(whole.named_parameters())[key]), key


def test_without_classifier_a_weight_that_is_tied_to_it_is_left_too() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[4].weight = model[2].weight
    before = values(model)
    _, report = predict(model, classifier=False, report=True)
    check_report(model, report, {"2.weight", "4.bias"})
    assert not changed(before, model) & {"2.weight", "4.weight", "4.bias"}


def test_without_classifier_a_network_that_has_none_is_predicted_whole() -> None:
    model = nn.Sequential(conv(3, 8), conv(8, 8))
    _, report = predict(model, classifier=False, report=True)
    check_report(model, report, set())


def test_without_classifier_nothing_is_left_of_a_single_layer() -> None:
    model = nn.Linear(7, 5)
    before = values(model)
    with pytest.raises(PredictError, match="classifier=False"):
        predict(model, input_shape=(7,), classifier=False)
    assert not changed(before, model)


def test_graph_is_used_again_for_another_instance() -> None:
    graph = ghnfast.trace(small_network(), input_shape=IMAGE)
    first, second = predict(small_network(), graph=graph), predict(small_network(), graph=graph)
    assert_same(values(first), values(second))
    assert ghnfast.trace(small_network(), input_shape=IMAGE).params == graph.params
    assert_same(values(first), values(predict(small_network())))


def test_graphs_for_a_list() -> None:
    graph = ghnfast.trace(small_network(), input_shape=IMAGE)
    models = [small_network(), small_network()]
    predict(models, graph=[graph, graph])
    assert_same(values(models[0]), values(predict(small_network())), batched=True)


def test_graph_of_a_model_with_other_names_is_an_error() -> None:
    model = small_network()
    before = values(model)
    with pytest.raises(PredictError, match="the graph has a parameter"):
        predict(model, graph=ghnfast.trace(NETWORKS["attention"](), input_shape=IMAGE))
    assert not changed(before, model)


@pytest.mark.parametrize(
    "other",
    [
        lambda: nn.Sequential(conv(3, 8), conv(8, 24)),
        lambda: nn.Sequential(conv(3, 8, 5), conv(8, 8)),
        lambda: nn.Sequential(nn.Flatten(), conv(3, 8))[1:],
        lambda: nn.Sequential(conv(3, 8, 1), nn.BatchNorm2d(8)),
    ],
)
def test_graph_of_a_model_with_the_same_names_and_other_shapes_is_an_error(other: Callable[[], nn.Module]) -> None:
    """A graph holds the shapes that its node states come from: for another model they would be wrong."""
    model = nn.Sequential(conv(3, 8), conv(8, 8))
    before = values(model)
    with pytest.raises(PredictError, match="graph"):
        predict(model, graph=ghnfast.trace(other(), input_shape=IMAGE))
    assert not changed(before, model)


def test_graph_that_lacks_some_parameters_reports_them() -> None:
    graph = ghnfast.trace(nn.Sequential(conv(3, 8), conv(8, 8)), input_shape=IMAGE)
    model = nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 8))
    before = values(model)
    _, report = predict(model, graph=graph, report=True)
    check_report(model, report, {"2.weight"})
    assert changed(before, model) == {"0.weight", "1.weight"}


def test_wrong_number_of_graphs() -> None:
    graph = ghnfast.trace(small_network(), input_shape=IMAGE)
    with pytest.raises(PredictError, match="1 graphs were given for 2 models"):
        predict([small_network(), small_network()], graph=graph)


@pytest.mark.parametrize("graph", ["graph", 3, [None], [{}]])
def test_something_that_is_no_graph(graph: Any) -> None:
    with pytest.raises(GhnfastError):
        predict(small_network(), graph=graph)


def test_empty_list() -> None:
    with pytest.raises(PredictError, match="empty list"):
        predict([])


@pytest.mark.parametrize("model", [nn.Linear, None, "resnet50", 3, [nn.Linear], [small_network, None]])
def test_something_that_is_no_model(model: Any) -> None:
    with pytest.raises(GhnfastError, match=r"[Mm]odule"):
        predict(model)


class TwoHeads(nn.Module):
    """As distilled transformers: the average of two classification layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.head_dist = conv(3, 8), nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).mean((2, 3))
        return (self.head(x) + self.head_dist(x)) / 2


def test_without_classifier_both_heads_are_left() -> None:
    model = TwoHeads()
    before = values(model)
    predict(model, classifier=False)
    assert changed(before, model) == {"body.weight"}
