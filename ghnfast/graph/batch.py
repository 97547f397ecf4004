"""Batches of architecture graphs: `GraphBatch`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import GraphError
from .arch_graph import ArchGraph
from .topology import MAX_DISTANCE, Topology, topology_of


class GraphBatch:
    """Several graphs side by side: node i of graph g is node `offsets[g] + i` of the batch."""

    def __init__(self, graphs: Sequence[ArchGraph]) -> None:
        if not graphs:
            raise GraphError("a batch of no graphs was given; one graph or more is accepted")
        self.graphs = list(graphs)
        self.offsets = np.cumsum([0, *(len(graph) for graph in graphs)], dtype=np.int64)
        self.topologies: dict[int, Topology] = {}  # by cutoff

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def primitives(self) -> NDArray[np.int8]:
        return np.concatenate([graph.primitives for graph in self.graphs])

    @property
    def shape_table(self) -> NDArray[np.int64]:
        """(nodes, 4): the shapes that embeddings get, and -1 where there is none."""
        return np.concatenate([graph.shape_table for graph in self.graphs])

    def topology(self, cutoff: int = MAX_DISTANCE) -> Topology:
        """Edges, levels and all shortest paths of at most `cutoff` hops, computed once.

        Raises:
            GraphError: `cutoff` is not within 1 to 255.
        """
        if cutoff not in self.topologies:
            edges = [graph.edges + offset for graph, offset in zip(self.graphs, self.offsets, strict=False)]
            levels = [graph.levels for graph in self.graphs]
            self.topologies[cutoff] = topology_of(self.offsets, np.concatenate(edges), np.concatenate(levels), cutoff)
        return self.topologies[cutoff]


def batch_of(graphs: Sequence[ArchGraph]) -> GraphBatch:
    """These graphs as a batch. Of one graph alone it is the same batch each time, which the graph keeps: its shortest
    paths, and the tables of them on a device, are made once.
    """
    if len(graphs) != 1:
        return GraphBatch(graphs)
    (graph,) = graphs
    batch: GraphBatch | None = graph.__dict__.get(KEPT)
    if batch is None:
        batch = graph.__dict__[KEPT] = GraphBatch(graphs)
    return batch


KEPT = "own_batch"  # no field of a graph: it is neither pickled nor compared
