"""Which layer is the classifier, and what becomes of branches without a path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.models import Net
from helpers.traced import A, C, abc, check, conv, linear, trace
from torch import Tensor, nn

from ghnfast import ArchGraph

# Branches without a path ----------------------------------------------------------------------------------------------


def test_branch_that_no_output_needs_is_dropped_and_reported() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.norm(m.b(m.a(x)))
        return m.c(m.a(x))

    graph = trace(abc(forward, norm=nn.BatchNorm2d(8)))
    check(graph, f"input > {A} > {C}")
    assert set(graph.skipped) == {"b.weight", "norm.weight", "norm.bias"}
    assert all("output" in reason for reason in graph.skipped.values())


def test_branch_fed_by_constants_is_dropped_and_reported() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.c(m.a(x) + m.norm(m.k(torch.ones(2, 3, 16, 16))))

    graph = trace(abc(forward, k=conv(3, 8, bias=True), norm=nn.BatchNorm2d(8)))
    check(graph, f"input > {A} > {C}")
    assert set(graph.skipped) == {"b.weight", "k.weight", "k.bias", "norm.weight", "norm.bias"}
    assert "input" in graph.skipped["k.weight"]


def test_output_multiplied_by_zero_shapes_still_connects() -> None:
    """`zeros_like` takes the shape of its argument and nothing else: the branch is dead."""
    graph = trace(abc(lambda m, x: m.c(torch.zeros_like(m.b(m.a(x))) + m.a(x))))
    check(graph, f"input > {A} > {C}")
    assert list(graph.skipped) == ["b.weight"]


# The classification layer ---------------------------------------------------------------------------------------------


def last(graph: ArchGraph) -> list[str | None]:
    assert graph.classifier_weight is not None
    return [graph.params[node] for node in range(graph.classifier_weight, len(graph))]


def test_classifier_comes_last_even_where_an_auxiliary_head_is_deeper() -> None:
    def forward(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x = m.a(x)
        return m.fc(x.mean((2, 3))), m.aux(x).mean((2, 3))

    aux = nn.Sequential(*(conv(8, 8, bias=True) for _ in range(6)))
    graph = trace(Net(forward, a=conv(3, 8), fc=nn.Linear(8, 5), aux=aux))
    assert last(graph) == ["fc.weight", "fc.bias"]
    assert graph.classifier_bias == len(graph) - 1
    assert graph.levels[-1] > graph.levels[-2] > graph.levels[-3]


def test_classifier_of_the_first_output_is_the_classifier() -> None:
    model = Net(lambda m, x: {"cls": m.b(x.mean((2, 3))), "box": m.a(x.mean((2, 3)))}, a=linear(3, 4), b=linear(3, 5))
    assert last(trace(model)) == ["b.weight"]


@pytest.mark.parametrize("bias", [True, False])
def test_pool_behind_the_classifier_moves_in_front(bias: bool) -> None:
    head = nn.Sequential(
        nn.Dropout(), conv(8, 5, 1, bias=bias), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    graph = trace(Net(lambda m, x: m.head(m.a(x)), a=conv(3, 8), head=head))
    check(graph, f"input > {A} > glob_avg > conv:head.1.weight" + (" > bias:head.1.bias" if bias else ""))
    assert last(graph) == ["head.1.weight", "head.1.bias"][: 1 + bias]


def test_network_without_a_classifier() -> None:
    graph = trace(abc(lambda m, x: m.b(m.a(x))))
    assert graph.classifier_weight is None
    assert graph.classifier_bias is None


def test_network_that_ends_in_an_activation_or_a_softmax() -> None:
    graph = trace(Net(lambda m, x: m.fc(m.a(x).mean((2, 3))).log_softmax(-1), a=conv(3, 8), fc=nn.Linear(8, 5)))
    assert last(graph) == ["fc.weight", "fc.bias"]


def test_one_linear_layer() -> None:
    graph = trace(nn.Linear(7, 5), input_shape=(7,))
    check(graph, "input > conv:weight > bias:bias")
    assert last(graph) == ["weight", "bias"]


def test_one_convolution() -> None:
    graph = trace(conv(3, 8))
    check(graph, "input > conv:weight")
    assert graph.depth == 2


def test_one_linear_layer_without_bias_on_tokens() -> None:
    check(trace(linear(7, 5), input_shape=(4, 7)), "input > conv:weight")
