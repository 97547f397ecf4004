"""What is read off the bands of shortest paths, against all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from ghnfast.deepnets import DeepNets1M
from ghnfast.graph import GraphBatch


@pytest.mark.parametrize("cutoff", [1, 3, 50])
@pytest.mark.parametrize("split", ["train", "deep", "bnfree"])
def test_degrees_and_distances_from_the_input(split: str, cutoff: int) -> None:
    batch = GraphBatch([DeepNets1M(split)[index].graph for index in range(6)])
    topology = batch.topology(cutoff)
    sources, targets, distances = topology.pairs()
    edges = distances == 1
    degree_in, degree_out = topology.degrees
    np.testing.assert_array_equal(degree_in, np.bincount(targets[edges], minlength=len(batch)))
    np.testing.assert_array_equal(degree_out, np.bincount(sources[edges], minlength=len(batch)))
    wanted = np.zeros(len(batch), dtype=np.int64)
    from_first = np.isin(sources, batch.offsets[:-1])
    wanted[targets[from_first]] = distances[from_first]
    np.testing.assert_array_equal(topology.distances_from_first, wanted)
    assert wanted.any()
