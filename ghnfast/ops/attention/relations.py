"""Who is how far from whom in a batch of graphs: what attention adds to its logits, as one byte a pair.

A graph is acyclic, so of the two distances of a pair at most one is positive: there are `CODES` different pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import _C
from ...graph import MAX_DISTANCE, Topology

# A pair's code: 0 where there is no path (or a longer one); d where the first node has a path of d hops to the second;
# MAX_DISTANCE + d where the second has one to the first.
CODES = 2 * MAX_DISTANCE + 1


@dataclass(frozen=True, eq=False)
class Relations:
    """The pairs of nodes of each graph of a batch.

    Attributes:
        graph_offsets: (graphs + 1,) int64; graph g has the nodes graph_offsets[g] up to graph_offsets[g + 1].
        codes: (pairs,) uint8, of each graph an (n, n) matrix: what the second node of a pair is to the first.
        uploaded: what kernels take of it, by device.
    """

    graph_offsets: NDArray[np.int64]
    codes: NDArray[np.uint8]
    uploaded: dict[torch.device, list[Tensor]] = field(default_factory=dict, repr=False)

    @cached_property
    def native(self) -> _C.Relations:
        """The same for C++, checked once."""
        return _C.Relations(self.graph_offsets, self.codes)

    @property
    def pair_offsets(self) -> NDArray[np.int64]:
        """(graphs + 1,) int64; graph g has the pairs pair_offsets[g] up to pair_offsets[g + 1]."""
        return np.concatenate([[0], np.cumsum(np.diff(self.graph_offsets) ** 2)])

    def matrices(self) -> list[NDArray[np.uint8]]:
        """The codes of each graph, (n, n)."""
        counts = np.diff(self.graph_offsets).tolist()
        parts = np.split(self.codes, self.pair_offsets[1:-1])
        return [part.reshape(count, count) for part, count in zip(parts, counts, strict=True)]


def relations_of(topology: Topology) -> Relations:
    """The pairs of all graphs of a topology, up to its cutoff apart, and `MAX_DISTANCE`; computed once."""
    known = topology.known.get("relations")
    if known is None:
        codes = _C.pair_codes(topology.native, MAX_DISTANCE, torch.get_num_threads())
        known = topology.known["relations"] = Relations(topology.graph_offsets, codes)
    return known
