"""Batches that are sampled in C++ hold the graphs that the data set has one at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghnfast import ConfigError
from ghnfast.deepnets import DeepNets1M
from ghnfast.deepnets.batches import SampledBatch
from ghnfast.deepnets.dataset import SIZES
from ghnfast.graph import GraphBatch


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([*SIZES]),
    st.integers(0, 90),
    st.integers(1, 5),
    st.integers(0, 2**64 - 1),
    st.booleans(),
    st.integers(1, 200),
)
def test_the_same_graphs(split: str, begin: int, count: int, seed: int, large: bool, classes: int) -> None:
    dataset = DeepNets1M(split, seed=seed, large_images=large, num_classes=classes, size=100)
    graphs = [dataset[index].graph for index in range(begin, begin + count)]
    batch, wanted = SampledBatch(dataset, begin, begin + count), GraphBatch(graphs)
    assert len(batch) == len(wanted)
    np.testing.assert_array_equal(batch.offsets, wanted.offsets)
    np.testing.assert_array_equal(batch.primitives, wanted.primitives)
    np.testing.assert_array_equal(batch.shape_table, wanted.shape_table)
    for ours, theirs in zip(batch.topology(7).arrays, wanted.topology(7).arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert batch.depths.tolist() == [graph.depth for graph in graphs]
    assert batch.edge_counts.tolist() == [len(graph.edges) for graph in graphs]
    assert batch.elements.tolist() == [
        sum(int(np.prod(shape)) for shape in graph.parameter_shapes.values()) for graph in graphs
    ]


@pytest.mark.parametrize(("begin", "end"), [(0, 0), (3, 2), (-1, 2), (9, 11)])
def test_networks_that_are_not_there(begin: int, end: int) -> None:
    with pytest.raises(ConfigError, match="the split has 10"):
        SampledBatch(DeepNets1M("val", size=10), begin, end)


def test_networks_that_are_not_sampled() -> None:
    with pytest.raises(ConfigError, match="sampled"):
        SampledBatch(DeepNets1M("predefined"), 0, 1)
