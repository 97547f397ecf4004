"""Architecture graphs: `ArchGraph`, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import _C

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

    def __len__(self) -> int:
        return len(self.primitives)

    def __repr__(self) -> str:
        return f"ArchGraph({len(self)} nodes, {len(self.edges)} edges, {self.depth} levels)"

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
        return _C.shortest_paths(len(self), self.edges, cutoff)

    def to_networkx(self) -> networkx.DiGraph:
        """A networkx graph with the attributes `op`, `param` and `level` on its nodes.

        Raises:
            ImportError: networkx is not installed.
        """
        try:
            import networkx
        except ImportError as error:
            raise ImportError("ArchGraph.to_networkx needs networkx: pip install 'ghnfast[networkx]'") from error
        graph = networkx.DiGraph()
        labels = zip(self.ops, self.params, self.levels.tolist(), strict=True)
        graph.add_nodes_from(
            (node, {"op": op, "param": p, "level": level}) for node, (op, p, level) in enumerate(labels)
        )
        graph.add_edges_from(self.edges.tolist())
        return graph


@dataclass(frozen=True, eq=False)
class Step:
    """One level of a batch in a sweep: what its nodes receive.

    nodes: (k,) int64, the nodes that are updated.
    sources, targets: (p,) int64; message p goes from node sources[p] to nodes[targets[p]].
    distances: (p,) float32, the distance in hops between the two.
    """

    nodes: NDArray[np.int64]
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    distances: NDArray[np.float32]


class GraphBatch:
    """Several graphs side by side: node i of graph g is node `offsets[g] + i` of the batch."""

    def __init__(self, graphs: Sequence[ArchGraph]) -> None:
        if not graphs:
            raise ValueError("a batch of no graphs was given; one graph or more is accepted")
        self.graphs = list(graphs)
        self.offsets = np.cumsum([0, *(len(graph) for graph in graphs)])

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def primitives(self) -> NDArray[np.int8]:
        return np.concatenate([graph.primitives for graph in self.graphs])

    @property
    def shapes(self) -> list[tuple[int, ...] | None]:
        return [shape for graph in self.graphs for shape in graph.shapes]

    def pairs(self, cutoff: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """The ordered pairs within `cutoff` hops: sources, targets and distances."""
        found: list[tuple[Any, Any, Any]] = []
        for graph, offset in zip(self.graphs, self.offsets, strict=False):
            if cutoff == 1:
                sources, targets = graph.edges.astype(np.int64).T
                hops = np.ones(len(sources), dtype=np.float32)
            else:
                matrix = graph.distances(cutoff)
                sources, targets = np.nonzero(matrix)
                hops = matrix[sources, targets].astype(np.float32)
            found.append((sources + offset, targets + offset, hops))
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]

    def steps(self, cutoff: int = MAX_DISTANCE) -> tuple[list[Step], list[Step]]:
        """The steps of the forward sweep, in order, and those of the backward sweep."""
        level = np.concatenate([graph.levels for graph in self.graphs])
        sources, targets, hops = self.pairs(cutoff)
        forward = split_by_level(level, sources, targets, hops)
        backward = split_by_level(level, targets, sources, hops)
        return forward, backward[::-1]


def split_by_level(
    level: NDArray[np.signedinteger], sources: NDArray[np.int64], targets: NDArray[np.int64], hops: NDArray[np.float32]
) -> list[Step]:
    """One step per level, in rising order: the messages to the nodes of that level."""
    depth = int(level.max()) + 1
    nodes = np.argsort(level, kind="stable")
    node_bounds = np.searchsorted(level[nodes], np.arange(depth + 1))
    position = np.empty(len(level), dtype=np.int64)
    position[nodes] = np.arange(len(level)) - node_bounds[level[nodes]]
    order = np.argsort(level[targets], kind="stable")
    bounds = np.searchsorted(level[targets][order], np.arange(depth + 1))
    steps = []
    for index in range(depth):
        chosen = order[bounds[index] : bounds[index + 1]]
        steps.append(
            Step(
                nodes=nodes[node_bounds[index] : node_bounds[index + 1]],
                sources=sources[chosen],
                targets=position[targets[chosen]],
                distances=hops[chosen],
            )
        )
    return steps
