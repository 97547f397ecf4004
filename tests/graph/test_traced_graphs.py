"""Graphs of real models, large ones, and their distances."""

from __future__ import annotations

import copy
import pickle

import networkx
import numpy as np
import pytest
import torch
from helpers.traced import Build, labels, linear, plain_network, residual_network, same, trace
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ghnfast import ArchGraph
from ghnfast.graph import PRIMITIVES

# Size -----------------------------------------------------------------------------------------------------------------


def test_chain_of_ten_thousand_layers() -> None:
    with torch.device("meta"):
        model = nn.Sequential(*(linear(4, 4) for _ in range(10_000)))
    graph = trace(model, input_shape=(4,))
    assert len(graph) == 10_001
    assert graph.depth == 10_001
    assert graph.edges.tolist() == [[i, i + 1] for i in range(10_000)]


def test_distances_in_a_graph_of_ten_thousand_nodes() -> None:
    graph = chain(10_000)
    distances = graph.distances()
    assert int(np.count_nonzero(distances)) == sum(10_000 - d for d in range(1, 51))
    assert distances[9_000, 9_000:9_060].tolist() == [*range(51), *(0,) * 9]


def chain(nodes: int) -> ArchGraph:
    return graph_of(nodes, [(i, i + 1) for i in range(nodes - 1)])


def graph_of(nodes: int, edges: list[tuple[int, int]]) -> ArchGraph:
    """A graph without parameters; its nodes must be numbered in the order of their levels."""
    level = np.zeros(nodes, dtype=np.int64)
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        level[target] = max(level[target], level[source] + 1)
    order = np.argsort(level, kind="stable")
    place = np.argsort(order)
    moved = np.array(sorted((int(place[b]), int(place[a])) for a, b in edges), dtype=np.int32).reshape(-1, 2)[:, ::-1]
    return ArchGraph(
        primitives=np.full(nodes, PRIMITIVES.index("sum"), dtype=np.int8),
        edges=np.ascontiguousarray(moved),
        level_offsets=np.searchsorted(np.sort(level), np.arange(level.max() + 2)).astype(np.int32),
        shapes=[None] * nodes,
        weights=[None] * nodes,
        norm_biases=[None] * nodes,
    )


# ArchGraph ------------------------------------------------------------------------------------------------------------


def test_graph_pickles() -> None:
    graph = trace(residual_network())
    for made in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
        assert same(made, graph)
        assert np.array_equal(made.distances(), graph.distances())


def test_networkx_graph_has_the_same_nodes_and_edges() -> None:
    graph = trace(residual_network())
    converted = graph.to_networkx()
    assert networkx.is_directed_acyclic_graph(converted)
    assert sorted(converted.edges) == sorted(map(tuple, graph.edges.tolist()))
    assert [(data["op"], data["param"]) for _, data in sorted(converted.nodes(data=True))] == labels(graph)
    assert [converted.nodes[node]["level"] for node in range(len(graph))] == graph.levels.tolist()


@pytest.mark.parametrize("build", [plain_network, residual_network])
def test_nodes_are_sorted_by_level_and_edges_go_up(build: Build) -> None:
    graph = trace(build())
    levels = graph.levels
    assert len(levels) == len(graph)
    assert bool((np.diff(levels) >= 0).all())
    assert levels.max() + 1 == graph.depth
    assert bool((levels[graph.edges[:, 0]] < levels[graph.edges[:, 1]]).all())
    assert bool((np.diff(graph.edges[:, 1]) >= 0).all())
    assert len(set(map(tuple, graph.edges.tolist()))) == len(graph.edges)


def test_every_parameter_is_in_the_graph_or_reported() -> None:
    model = residual_network()
    graph = trace(model)
    placed = {name for name in (*graph.weights, *graph.norm_biases) if name}
    names = [name for name, _ in model.named_parameters()]
    assert placed | set(graph.skipped) == set(names)
    assert not placed & set(graph.skipped)


@st.composite
def random_graphs(draw: st.DrawFn) -> ArchGraph:
    nodes = draw(st.integers(1, 70))
    # Long chains matter as much as dense graphs: a cutoff of 50 hops has to cut something off.
    reach = draw(st.sampled_from([1, 2, 5, 70]))
    edges = {
        (source, target)
        for target in range(1, nodes)
        for source in draw(st.lists(st.integers(max(0, target - reach), target - 1), max_size=3))
    }
    return graph_of(nodes, sorted(edges))


@settings(derandomize=True, max_examples=40, deadline=None, database=None)
@given(graph=random_graphs(), cutoff=st.sampled_from([1, 2, 50, 255]))
def test_distances_are_those_of_networkx(graph: ArchGraph, cutoff: int) -> None:
    expected = np.zeros((len(graph), len(graph)), dtype=np.uint8)
    for source, found in networkx.all_pairs_shortest_path_length(graph.to_networkx(), cutoff=cutoff):
        for target, hops in found.items():
            expected[source, target] = hops
    distances = graph.distances(cutoff)
    assert distances.dtype == np.uint8
    assert np.array_equal(distances, expected)


def test_cutoff_counts_hops_and_defaults_to_fifty() -> None:
    graph = chain(60)
    assert graph.distances().max() == 50
    assert graph.distances(2).max() == 2
    assert np.array_equal(np.argwhere(graph.distances(1)), graph.edges)


@pytest.mark.parametrize("cutoff", [0, -1, 256, 1000])
def test_cutoff_outside_its_range_is_an_error(cutoff: int) -> None:
    with pytest.raises(ValueError, match=f"{cutoff}.*1 to 255"):
        chain(3).distances(cutoff)
