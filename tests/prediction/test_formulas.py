"""What is predicted is what the formulas say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers.formulas import (
    CONFIGS,
    IMAGE,
    expected_parameters,
    final_states,
    ghn_of,
)
from helpers.predicting import predict
from helpers.small_networks import NETWORKS
from hypothesis import given, settings
from hypothesis import strategies as st

import ghnfast
from ghnfast import ArchGraph
from ghnfast.graph import PRIMITIVES


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_predicted_parameter_is_what_the_formulas_say(name: str, kind: str) -> None:
    ghn, model = ghn_of(kind), NETWORKS[name]()
    graph = ghnfast.trace(model, input_shape=IMAGE)
    expected = expected_parameters(ghn, model, graph)
    _, report = predict(model, kind, graph=graph, report=True)
    assert set(report.predicted) == set(expected)
    parameters = dict(model.named_parameters())
    for parameter_name, values_expected in expected.items():
        np.testing.assert_allclose(
            parameters[parameter_name].detach().numpy(), values_expected, rtol=2e-4, atol=2e-5, err_msg=parameter_name
        )


@pytest.mark.parametrize("kind", CONFIGS)
def test_node_states_of_a_real_network(kind: str) -> None:
    graph = ghnfast.trace(NETWORKS["attention"](), input_shape=IMAGE)
    found = ghn_of(kind).embed(graph).detach().numpy()
    np.testing.assert_allclose(found, final_states(ghn_of(kind), graph), rtol=1e-4, atol=1e-5)


def graph_of(edges: Sequence[tuple[int, int]], primitives: Sequence[int], shapes: Sequence[Any]) -> ArchGraph:
    """A graph without parameters; its edges go to higher numbers, and nodes are renumbered in the order of levels."""
    nodes = len(primitives)
    level = np.zeros(nodes, dtype=np.int64)
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        level[target] = max(level[target], level[source] + 1)
    order = np.argsort(level, kind="stable")
    place = np.argsort(order)
    moved = sorted((int(place[target]), int(place[source])) for source, target in edges)
    return ArchGraph(
        primitives=np.array(primitives, dtype=np.int8)[order],
        edges=np.array([(source, target) for target, source in moved], dtype=np.int32).reshape(-1, 2),
        level_offsets=np.searchsorted(np.sort(level), np.arange(level.max() + 2)).astype(np.int32),
        shapes=[shapes[node] for node in order],
        weights=[None] * nodes,
        norm_biases=[None] * nodes,
    )


SHAPES = st.none() | st.tuples(
    st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 20, 60, 64, 72, 1000, 4100, 4112, 8192, 9000]),
    st.sampled_from([1, 2, 3, 5, 7, 8, 100, 4095, 5000, 100_000]),
    st.sampled_from([1, 2, 3, 4, 5, 7, 11, 12, 13, 14, 15, 16, 17, 40]),
    st.sampled_from([1, 2, 6, 9, 10, 224]),
)


@st.composite
def random_graphs(draw: st.DrawFn) -> ArchGraph:
    nodes = draw(st.integers(1, 12))
    reach = draw(st.sampled_from([1, 3, 12]))
    edges = {
        (source, target)
        for target in range(1, nodes)
        for source in draw(st.lists(st.integers(max(0, target - reach), target - 1), max_size=3))
    }
    primitives = draw(st.lists(st.integers(0, len(PRIMITIVES) - 1), min_size=nodes, max_size=nodes))
    return graph_of(sorted(edges), primitives, draw(st.lists(SHAPES, min_size=nodes, max_size=nodes)))


@pytest.mark.parametrize("kind", CONFIGS)
@settings(derandomize=True, max_examples=15, deadline=None, database=None)
@given(graph=random_graphs())
def test_sweep_equals_the_formulas_node_by_node(kind: str, graph: ArchGraph) -> None:
    found = ghn_of(kind).embed(graph).detach().numpy()
    np.testing.assert_allclose(found, final_states(ghn_of(kind), graph), rtol=1e-4, atol=1e-5)


def test_virtual_edges_end_after_fifty_hops() -> None:
    chain = graph_of([(i, i + 1) for i in range(54)], [7] * 55, [None] * 55)
    found = ghn_of("ghn2").embed(chain).detach().numpy()
    np.testing.assert_allclose(found, final_states(ghn_of("ghn2"), chain), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_states_of_a_batch_are_those_of_its_graphs(kind: str) -> None:
    graphs = [ghnfast.trace(NETWORKS[name](), input_shape=IMAGE) for name in ("common", "attention", "linear")]
    found, one_by_one = ghn_of(kind).embed(graphs), [ghn_of(kind).embed(graph) for graph in graphs]
    assert [len(states) for states in found] == list(map(len, graphs))
    torch.testing.assert_close(found, one_by_one, rtol=1e-5, atol=1e-6)
