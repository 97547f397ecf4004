"""Architecture graphs: `ArchGraph`, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import _C
from .optional import import_optional

if TYPE_CHECKING:
    import networkx

PRIMITIVES = ("max_pool", "avg_pool", "sep_conv", "dil_conv", "conv", "msa", "cse", "sum", "concat", "input", "bias",
              "bn", "ln", "pos_enc", "glob_avg")  # fmt: skip
MAX_DISTANCE = 50
# Parameters of other types are kept as they are.
PREDICTED_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def embedding_shape(shape: Sequence[int], position: bool = False) -> tuple[int, ...]:
    """A parameter's shape as the shape embedding sees it: always 4-D.

    A vector (n) is (n, 1, 1, 1), a matrix (o, i) is (o, i, 1, 1); a position encoding (1, n, d) or (n, d) is
    (1, d, s, s) with s = floor(sqrt(n)).
    """
    if position and len(shape) in (2, 3):
        count, width = shape[-2:]
        side = int(count**0.5)
        return (1, width, side, side)
    return (*shape, 1, 1, 1)[:4]


@dataclass(frozen=True, eq=False)
class ArchGraph:
    """The architecture graph of a network: a directed acyclic graph of primitives.

    Nodes are in topological order and sorted by level, so that a level is a run of nodes; the classification layer's
    weight and bias come last. It holds plain numpy arrays and names, no tensors and no modules: it pickles, and can be
    used again for every model with the same parameter names and shapes.

    Attributes:
        primitives: (nodes,) int8, index into `PRIMITIVES`.
        edges: (edges, 2) int32, one-hop edges (from, to), sorted by target.
        level_offsets: (levels + 1,) int32; level l holds the nodes level_offsets[l] up to level_offsets[l + 1].
        shapes: per node the 4-D shape that its embedding gets, or None.
        weights: per node the name of the parameter that is predicted from it, or None. A name on several nodes is a
            parameter that is used several times; it is predicted from the first.
        norm_biases: per node the name of a normalization layer's bias, predicted from the same node, or None.
        classifier_weight, classifier_bias: the nodes of the classification layer, or None.
        parameter_shapes: {name: shape} of the parameters that have a node.
        skipped: {name: reason} of the parameters that have no node.
        input_shape: the shape (channels, height, width) of one input, or None where it is not known, or not one image.
        ran_on_numbers: why the forward had to be run on random numbers, or None where shapes were enough.
    """

    primitives: NDArray[np.int8]
    edges: NDArray[np.int32]
    level_offsets: NDArray[np.int32]
    shapes: list[tuple[int, ...] | None]
    weights: list[str | None]
    norm_biases: list[str | None]
    classifier_weight: int | None = None
    classifier_bias: int | None = None
    parameter_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None
    ran_on_numbers: str | None = None

    def __len__(self) -> int:
        return len(self.primitives)

    def __repr__(self) -> str:
        return f"ArchGraph({len(self)} nodes, {len(self.edges)} edges, {self.depth} levels)"

    @property
    def num_classes(self) -> int | None:
        """How many outputs the classification layer has, or None where there is none."""
        name = None if self.classifier_weight is None else self.weights[self.classifier_weight]
        return None if name is None else self.parameter_shapes[name][0]

    @property
    def ops(self) -> list[str]:
        """The primitive of each node, by name."""
        return [PRIMITIVES[index] for index in self.primitives.tolist()]

    @property
    def params(self) -> list[str | None]:
        """The parameter of each node, by name; a normalization layer's bias only where it has no weight."""
        return [weight or bias for weight, bias in zip(self.weights, self.norm_biases, strict=True)]

    @property
    def depth(self) -> int:
        """The number of levels: of nodes on the longest path."""
        return len(self.level_offsets) - 1

    @property
    def levels(self) -> NDArray[np.signedinteger]:
        """(nodes,) int32: the level of each node, never decreasing. No edge stays within a level."""
        return np.repeat(np.arange(self.depth, dtype=np.int32), np.diff(self.level_offsets))

    def distances(self, cutoff: int = MAX_DISTANCE) -> NDArray[np.uint8]:
        """Shortest-path distances in hops: (nodes, nodes) uint8, [from, to], 0 where there is no path within `cutoff`.

        These pairs are the virtual edges, weighted by one over the distance (Parameter Prediction for Unseen Deep
        Architectures, equation 4); those at distance 1 are edges as well.

        Raises:
            ValueError: `cutoff` is not within 1 to 255.
        """
        sources, targets, hops = GraphBatch([self]).topology(cutoff).pairs()
        matrix = np.zeros((len(self), len(self)), dtype=np.uint8)
        matrix[sources, targets] = hops
        return matrix

    @cached_property
    def shape_table(self) -> NDArray[np.int64]:
        """(nodes, 4): `shapes`, and -1 where there is none."""
        rows = [(-1, -1, -1, -1) if shape is None else shape for shape in self.shapes]
        return np.array(rows, dtype=np.int64).reshape(len(self), 4)

    def to_networkx(self) -> networkx.DiGraph:
        """A networkx graph with the attributes `op`, `param` and `level` on its nodes.

        Raises:
            MissingPackageError: networkx is not installed.
        """
        graph: networkx.DiGraph = import_optional("networkx", "ArchGraph.to_networkx needs").DiGraph()
        labels = zip(self.ops, self.params, self.levels.tolist(), strict=True)
        graph.add_nodes_from(
            (node, {"op": op, "param": p, "level": level}) for node, (op, p, level) in enumerate(labels)
        )
        graph.add_edges_from(self.edges.tolist())
        return graph


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
    """

    graph_offsets: NDArray[np.int64]
    levels: NDArray[np.int64]
    edge_offsets: NDArray[np.int64]
    edge_sources: NDArray[np.int32]
    band_starts: NDArray[np.int32]
    band_offsets: NDArray[np.int64]
    closeness: NDArray[np.uint8]
    cutoff: int

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """What C++ takes, in its order: everything but the levels and the cutoff."""
        offsets = self.graph_offsets, self.edge_offsets, self.edge_sources
        return *offsets, self.band_starts, self.band_offsets, self.closeness

    @cached_property
    def native(self) -> _C.Topology:
        """The same for C++, checked once."""
        graph_offsets, edge_offsets, edge_sources, *bands = self.arrays
        return _C.Topology(graph_offsets, edge_offsets, edge_sources, bands[0], bands[1], bands[2], self.cutoff)

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
        """The ordered pairs of nodes with a path within the cutoff: (sources, targets, distances)."""
        sizes = np.diff(self.band_offsets)
        targets = np.repeat(np.arange(len(sizes)), sizes)
        sources = np.arange(len(self.closeness)) + np.repeat(self.band_starts - self.band_offsets[:-1], sizes)
        found = np.flatnonzero(self.closeness)
        return sources[found], targets[found], (self.cutoff - (self.closeness[found] - 1)).astype(np.uint8)


class GraphBatch:
    """Several graphs side by side: node i of graph g is node `offsets[g] + i` of the batch."""

    def __init__(self, graphs: Sequence[ArchGraph]) -> None:
        if not graphs:
            raise ValueError("a batch of no graphs was given; one graph or more is accepted")
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
            ValueError: `cutoff` is not within 1 to 255, or the nodes of a graph are not in topological order.
        """
        if cutoff not in self.topologies:
            self.topologies[cutoff] = self.make_topology(cutoff)
        return self.topologies[cutoff]

    def make_topology(self, cutoff: int) -> Topology:
        edges = np.concatenate([graph.edges + offset for graph, offset in zip(self.graphs, self.offsets, strict=False)])
        edge_offsets = np.zeros(len(self) + 1, dtype=np.int64)
        np.cumsum(np.bincount(edges[:, 1], minlength=len(self)), out=edge_offsets[1:])
        edge_sources = edges[:, 0].astype(np.int32)
        bands = _C.hop_bands(self.offsets, edge_offsets, edge_sources, cutoff, torch.get_num_threads())
        levels = np.concatenate([graph.levels for graph in self.graphs]).astype(np.int64)
        return Topology(self.offsets, levels, edge_offsets, edge_sources, *bands, cutoff)
