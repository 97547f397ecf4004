"""From node states to one vector a network."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..graph import PRIMITIVES, ArchGraph
from .paths import PATHS

POOLS = ("mean", "stats")
# Of a graph itself, in the order of `counts_of`.
COUNTS = (*(f"log nodes of {name}" for name in PRIMITIVES), "log parameters", "levels", "log nodes", "log edges")


def check_pool(pool: object) -> str:
    if not isinstance(pool, str) or pool not in POOLS:
        raise ConfigError(f"pool is {pool!r:.80}; {', '.join(map(repr, POOLS))} are accepted")
    return pool


class Sizes(NamedTuple):
    """What "stats" reads of a batch of graphs beside node states.

    offsets: (graphs + 1,), the first node of each graph, and their number. primitives: (nodes,).
    parameters, levels, edges: (graphs,), how many each graph has; parameters are numbers.
    """

    offsets: NDArray[np.int64]
    primitives: NDArray[np.int8]
    parameters: NDArray[np.int64]
    levels: NDArray[np.int64]
    edges: NDArray[np.int64]


def sizes_of(graphs: Sequence[ArchGraph]) -> Sizes:
    offsets = np.cumsum([0, *map(len, graphs)])
    counts = np.array([(parameters_of(graph), graph.depth, len(graph.edges)) for graph in graphs]).T
    return Sizes(offsets, np.concatenate([graph.primitives for graph in graphs]), *counts)


def parameters_of(graph: ArchGraph) -> int:
    """How many numbers the parameters with a node have."""
    return sum(map(prod, graph.parameter_shapes.values()))


def pooled(states: NDArray[np.floating], sizes: Sizes, pool: str) -> NDArray[np.float64]:
    """The vectors of a batch of graphs.

    Args:
        states: (nodes, hid), those of all graphs one after the other.
        pool: "mean": the mean of the states of each graph (Knyazev et al., NeurIPS 2021, Section 5.2). "stats": also
            their standard deviation, largest and least values, the last node's state, and `COUNTS`.

    Returns:
        (graphs, hid), or (graphs, 5 * hid + 19).
    """
    starts, counts = sizes.offsets[:-1], np.diff(sizes.offsets)[:, None]
    # In double precision: sums in another order, of another batch, are the same to the last digits of float32.
    values = states.astype(np.float64)
    mean = np.add.reduceat(values, starts) / counts
    if pool == "mean":
        return mean
    extremes = np.maximum.reduceat(states, starts), np.minimum.reduceat(states, starts)
    last = states[sizes.offsets[1:] - 1]
    np.square(values, out=values)
    deviation = np.sqrt(np.maximum(np.add.reduceat(values, starts) / counts - np.square(mean), 0))
    return np.concatenate([mean, deviation, *extremes, last, counts_of(sizes)], axis=1)


def counts_of(sizes: Sizes) -> NDArray[np.float64]:
    """(graphs, 19): `COUNTS`. Counts are logarithms of one more, so that none is far out."""
    nodes = np.diff(sizes.offsets)
    kinds = len(PRIMITIVES)
    cells = np.repeat(np.arange(len(nodes)) * kinds, nodes) + sizes.primitives
    primitives = np.bincount(cells, minlength=kinds * len(nodes)).reshape(-1, kinds)
    parameters, edges = np.log1p(sizes.parameters), np.log1p(sizes.edges)
    return np.concatenate(
        [np.log1p(primitives), np.stack([parameters, sizes.levels, np.log1p(nodes), edges], axis=1)], axis=1
    )


def names_of(pool: str, hid: int) -> list[str]:
    """What each number of a vector is."""
    parts = ("mean",) if pool == "mean" else ("mean", "deviation", "largest", "least", "last")
    names = [f"{part} {at}" for part in parts for at in range(hid)]
    return names if pool == "mean" else [*names, *COUNTS, *(f"paths {at}" for at in range(PATHS))]
