"""Who sends messages to whom, over edges and along shortest paths."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import _C
from ..errors import GraphError
from .checks import is_size

MAX_DISTANCE = 50


@dataclass(frozen=True, eq=False)
class Topology:
    """Who sends messages to whom in a batch of graphs, as arrays that the sweep works on.

    The nodes of all graphs are numbered through; those of one graph are in topological order.

    Attributes:
        graph_offsets: (graphs + 1,) int64; graph g has the nodes graph_offsets[g] up to graph_offsets[g + 1].
        levels: (nodes,) int64, the level of each node in its graph.
        edge_offsets: (nodes + 1,) int64; node v has the edges edge_offsets[v] up to edge_offsets[v + 1].
        edge_sources: (edges,) int32, the node that an edge comes from.
        band_starts: (nodes,) int32, the first node that has a path to v of at most `cutoff` hops.
        band_offsets: (nodes + 1,) int64.
        closeness: uint8, at band_offsets[v] and on for the nodes band_starts[v], band_starts[v] + 1, ... up to v:
            cutoff + 1 - distance, or 0 where there is no such path.
        cutoff: the largest distance in hops.
        known: what operations have made of it, by their names.
    """

    graph_offsets: NDArray[np.int64]
    levels: NDArray[np.int64]
    edge_offsets: NDArray[np.int64]
    edge_sources: NDArray[np.int32]
    band_starts: NDArray[np.int32]
    band_offsets: NDArray[np.int64]
    closeness: NDArray[np.uint8]
    cutoff: int
    known: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """What C++ takes, in its order: everything but the levels and the cutoff."""
        offsets = self.graph_offsets, self.edge_offsets, self.edge_sources
        return *offsets, self.band_starts, self.band_offsets, self.closeness

    @cached_property
    def largest(self) -> int:
        """Nodes of the largest graph."""
        return int(np.diff(self.graph_offsets).max(initial=0))

    @cached_property
    def native(self) -> _C.Topology:
        """The same for C++, checked once."""
        graph_offsets, edge_offsets, edge_sources, *bands = self.arrays
        return _C.Topology(graph_offsets, edge_offsets, edge_sources, bands[0], bands[1], bands[2], self.cutoff)

    @property
    def degrees(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(nodes,) each: the edges to a node and those from it."""
        return np.diff(self.edge_offsets), np.bincount(self.edge_sources, minlength=len(self.levels))

    @property
    def distances_from_first(self) -> NDArray[np.int64]:
        """(nodes,): hops from the first node of the node's graph, the input; 0 for itself, and without such a path."""
        first = np.repeat(self.graph_offsets[:-1], np.diff(self.graph_offsets))
        reached = np.flatnonzero((self.band_starts == first) & (np.diff(self.band_offsets) > 0))
        closeness = self.closeness[self.band_offsets[:-1][reached]].astype(np.int64)
        distances = np.zeros(len(first), dtype=np.int64)
        distances[reached] = np.where(closeness > 0, self.cutoff + 1 - closeness, 0)
        return distances

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
        """The ordered pairs of nodes with a path within the cutoff: (sources, targets, distances)."""
        sizes = np.diff(self.band_offsets)
        targets = np.repeat(np.arange(len(sizes)), sizes)
        sources = np.arange(len(self.closeness)) + np.repeat(self.band_starts - self.band_offsets[:-1], sizes)
        found = np.flatnonzero(self.closeness)
        return sources[found], targets[found], (self.cutoff - (self.closeness[found] - 1)).astype(np.uint8)


def topology_of(
    offsets: NDArray[np.int64], edges: NDArray[np.signedinteger], levels: NDArray[np.signedinteger], cutoff: int
) -> Topology:
    """The topology of graphs side by side, whose nodes are numbered through.

    Args:
        offsets: (graphs + 1,), the first node of each graph, and their number.
        edges: (edges, 2), from and to, sorted by target.
        levels: (nodes,), the level of each node in its graph.

    Raises:
        GraphError: `cutoff` is not within 1 to 255.
    """
    if not is_size(cutoff) or not 1 <= cutoff <= 255:
        raise GraphError(f"cutoff is {cutoff!r}; 1 to 255 hops are accepted")
    edge_offsets = np.zeros(len(levels) + 1, dtype=np.int64)
    np.cumsum(np.bincount(edges[:, 1], minlength=len(levels)), out=edge_offsets[1:])
    edge_sources = edges[:, 0].astype(np.int32)
    bands = _C.hop_bands(offsets, edge_offsets, edge_sources, cutoff, torch.get_num_threads())
    return Topology(offsets, levels.astype(np.int64), edge_offsets, edge_sources, *bands, cutoff)
