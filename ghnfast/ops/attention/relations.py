"""Who is how far from whom in a batch of graphs: what attention adds to its logits, as one byte a pair.

A graph is acyclic, so of the two distances of a pair at most one is positive: there are `CODES` different pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...graph import MAX_DISTANCE, Topology

# A pair's code: 0 where there is no path (or a longer one); d where the first node has a path of d hops to the second;
# MAX_DISTANCE + d where the second has one to the first.
CODES = 2 * MAX_DISTANCE + 1


@dataclass(frozen=True, eq=False)
class Relations:
    """The pairs of nodes of each graph of a batch.

    Attributes:
        graph_offsets: (graphs + 1,) int64; graph g has the nodes graph_offsets[g] up to graph_offsets[g + 1].
        pair_offsets: (graphs + 1,) int64; graph g has the pairs pair_offsets[g] up to pair_offsets[g + 1].
        codes: (pairs,) uint8, of each graph an (n, n) matrix: what the second node of a pair is to the first.
        uploaded: the three as tensors, by device.
    """

    graph_offsets: NDArray[np.int64]
    pair_offsets: NDArray[np.int64]
    codes: NDArray[np.uint8]
    uploaded: dict[torch.device, list[Tensor]] = field(default_factory=dict, repr=False)

    def matrices(self) -> list[NDArray[np.uint8]]:
        """The codes of each graph, (n, n)."""
        counts = np.diff(self.graph_offsets).tolist()
        parts = np.split(self.codes, self.pair_offsets[1:-1])
        return [part.reshape(count, count) for part, count in zip(parts, counts, strict=True)]


def relations_of(topology: Topology) -> Relations:
    """The pairs of all graphs of a topology, up to its cutoff apart."""
    counts = np.diff(topology.graph_offsets)
    offsets = np.concatenate([[0], np.cumsum(counts**2)])
    codes = np.zeros(offsets[-1], dtype=np.uint8)
    sources, targets, distances = topology.pairs()
    graphs = np.searchsorted(topology.graph_offsets, targets, side="right") - 1
    first, size = topology.graph_offsets[graphs], counts[graphs]
    row, column = sources - first, targets - first
    codes[offsets[graphs] + row * size + column] = distances
    codes[offsets[graphs] + column * size + row] = distances + MAX_DISTANCE
    return Relations(topology.graph_offsets, offsets, codes)
