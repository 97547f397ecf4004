"""Sums over paths: as when every path is walked, and what they tell apart."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers.graphs import graph_of, random_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ghnfast
from ghnfast import _C, ArchGraph
from ghnfast.deepnets import DeepNets1M
from ghnfast.graph import PRIMITIVES, GraphBatch
from ghnfast.properties.paths import KERNEL, PATHS, POINTWISE, SPATIAL, directions, path_sums
from ghnfast.spaces import network_of

DEPTHWISE, POOL, NORM, ATTENTION = range(2, KERNEL)


def paths(graph: ArchGraph) -> Iterator[list[int]]:
    """Every path from a node without predecessors to one without successors."""
    after: dict[int, list[int]] = {node: [] for node in range(len(graph))}
    for source, target in graph.edges.tolist():
        after[source].append(target)
    waiting = [[node] for node in sorted(set(after) - set(graph.edges[:, 1].tolist()))]
    while waiting:
        path = waiting.pop()
        if not after[path[-1]]:
            yield path
        waiting.extend([*path, node] for node in after[path[-1]])


def counts_of(graph: ArchGraph, path: list[int]) -> list[float]:
    counts = [0.0] * (KERNEL + 1)
    for node in path:
        op, shape = graph.ops[node], graph.shapes[node] or (1, 1, 1, 1)
        if op == "conv":
            counts[SPATIAL if shape[2] * shape[3] > 1 else POINTWISE] += 1
        counts[DEPTHWISE] += op in ("sep_conv", "dil_conv")
        counts[POOL] += op in ("max_pool", "avg_pool")
        counts[NORM] += op in ("bn", "ln")
        counts[ATTENTION] += op in ("msa", "cse")
        counts[KERNEL] += math.log(shape[2] * shape[3], 9)
    return counts


def walked(graph: ArchGraph) -> np.ndarray:
    exponents = np.array([counts_of(graph, path) for path in paths(graph)]) @ directions().T
    return np.log(np.exp(exponents - exponents.max(axis=0)).sum(axis=0)) + exponents.max(axis=0)


@st.composite
def graphs(draw: st.DrawFn) -> ArchGraph:
    """Small graphs of any primitives and kernels."""
    plain = random_graph(draw(st.integers(0, 10**6)), draw(st.integers(2, 6)), draw(st.integers(1, 3)), 1)
    nodes = len(plain)
    primitives = draw(st.lists(st.integers(0, len(PRIMITIVES) - 1), min_size=nodes, max_size=nodes))
    kernels = st.tuples(st.sampled_from([1, 3, 7, 300]), st.sampled_from([1, 3, 8]))
    sizes = draw(st.lists(st.none() | kernels, min_size=nodes, max_size=nodes))
    shapes: list[tuple[int, ...] | None] = [None if size is None else (4, 4, *size) for size in sizes]
    none: list[str | None] = [None] * nodes
    return ArchGraph(np.array(primitives, np.int8), plain.edges, plain.level_offsets, shapes, none, list(none))


@settings(max_examples=60, deadline=None)
@given(st.lists(graphs(), min_size=1, max_size=4))
def test_every_path_is_walked(given_graphs: list[ArchGraph]) -> None:
    found = path_sums(GraphBatch(given_graphs))
    assert found.shape == (len(given_graphs), PATHS)
    for graph, row in zip(given_graphs, found, strict=True):
        np.testing.assert_allclose(row, walked(graph), rtol=1e-9, atol=1e-9)


def test_networks_that_people_use() -> None:
    cell = "|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|+|none~0|nor_conv_1x1~1|nor_conv_3x3~2|"
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    plain(torch.zeros(2, 3, 8, 8))
    graph = ghnfast.trace(plain, input_shape=(3, 8, 8))
    np.testing.assert_allclose(path_sums(GraphBatch([graph]))[0], walked(graph), atol=1e-9)
    long = ghnfast.trace(network_of(cell), input_shape=(3, 32, 32))
    assert np.isfinite(path_sums(GraphBatch([long]))).all()


def test_as_many_paths_as_there_are() -> None:
    """2 to the 300th: a chain of diamonds."""
    diamonds = [
        edge for at in range(0, 900, 3) for edge in ((at, at + 1), (at, at + 2), (at + 1, at + 3), (at + 2, at + 3))
    ]
    graph = graph_of(901, diamonds)
    np.testing.assert_allclose(path_sums(GraphBatch([graph]))[0], 300 * math.log(2))  # sums weigh nothing


def test_blocks_in_a_row_add_up() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.first(x) + self.second(x)
            return out

    sums = [
        path_sums(GraphBatch([ghnfast.trace(nn.Sequential(*(Block() for _ in range(n))), input_shape=(4, 8, 8))]))[0]
        for n in (1, 2, 5)
    ]
    np.testing.assert_allclose(sums[2] - sums[1], 3 * (sums[1] - sums[0]), atol=1e-9)


def test_the_same_alone_and_beside_others_and_with_any_cutoff() -> None:
    each = [item.graph for item in DeepNets1M("train", size=6)]
    batch = GraphBatch(each)
    together = path_sums(batch)
    np.testing.assert_array_equal(together, np.concatenate([path_sums(GraphBatch([graph])) for graph in each]))
    known = GraphBatch(each)
    known.topology(7)
    np.testing.assert_array_equal(together, path_sums(known))
    assert list(known.topologies) == [7]


@pytest.mark.parametrize(
    ("kinds", "weights", "words"),
    [
        ([0, 0], np.ones((1, 2)), "2 kinds of 3 nodes"),
        ([0, 1, 2], np.ones((2, 2)), "no row of weights"),
        ([0, -1, 0], np.ones((2, 2)), "no row of weights"),
        ([0, 0, 0], np.full((1, 2), np.inf), "not finite"),
        ([0, 0, 0], np.ones(3), "must be"),
    ],
)
def test_what_does_not_fit_is_refused(kinds: list[int], weights: np.ndarray, words: str) -> None:
    topology = GraphBatch([graph_of(3, [(0, 1), (1, 2)])]).topology().native
    with pytest.raises(ValueError, match=words):
        _C.path_sums(topology, np.array(kinds, np.int32), weights, 1)
