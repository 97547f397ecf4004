"""From node states to one vector a network."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..graph import PRIMITIVES, ArchGraph

POOLS = ("mean", "stats")
# Of a graph itself, in the order of `counts_of`.
COUNTS = (*(f"log nodes of {name}" for name in PRIMITIVES), "log parameters", "levels", "log nodes", "log edges")


def check_pool(pool: object) -> str:
    if not isinstance(pool, str) or pool not in POOLS:
        raise ConfigError(f"pool is {pool!r:.80}; {', '.join(map(repr, POOLS))} are accepted")
    return pool


def pooled(states: NDArray[np.floating], graphs: Sequence[ArchGraph], pool: str) -> NDArray[np.float64]:
    """The vectors of a batch of graphs.

    Args:
        states: (nodes, hid), those of all graphs one after the other.
        pool: "mean": the mean of the states of each graph (Knyazev et al., NeurIPS 2021, Section 5.2). "stats": also
            their standard deviation, largest and least values, the last node's state, and `COUNTS`.

    Returns:
        (graphs, hid), or (graphs, 5 * hid + 19).
    """
    sizes = np.array([len(graph) for graph in graphs])
    starts = np.cumsum(sizes) - sizes
    # In double precision: sums in another order, of another batch, are the same to the last digits of float32.
    values = states.astype(np.float64)
    mean = np.add.reduceat(values, starts) / sizes[:, None]
    if pool == "mean":
        return mean
    squares = np.add.reduceat(np.square(values - np.repeat(mean, sizes, axis=0)), starts) / sizes[:, None]
    extremes = np.maximum.reduceat(values, starts), np.minimum.reduceat(values, starts)
    return np.concatenate([mean, np.sqrt(squares), *extremes, values[starts + sizes - 1], counts_of(graphs)], axis=1)


def counts_of(graphs: Sequence[ArchGraph]) -> NDArray[np.float64]:
    """(graphs, 19): `COUNTS`. Counts are logarithms of one more, so that none is far out."""
    nodes = np.array([np.bincount(graph.primitives, minlength=len(PRIMITIVES)) for graph in graphs])
    sizes = np.array(
        [(parameters_of(graph), graph.depth, len(graph), len(graph.edges)) for graph in graphs], dtype=np.float64
    )
    sizes[:, [0, 2, 3]] = np.log1p(sizes[:, [0, 2, 3]])
    return np.concatenate([np.log1p(nodes), sizes], axis=1)


def parameters_of(graph: ArchGraph) -> int:
    """How many numbers the parameters with a node have."""
    return sum(map(prod, graph.parameter_shapes.values()))


def names_of(pool: str, hid: int) -> list[str]:
    """What each number of a vector is."""
    parts = ("mean",) if pool == "mean" else ("mean", "deviation", "largest", "least", "last")
    names = [f"{part} {at}" for part in parts for at in range(hid)]
    return names if pool == "mean" else [*names, *COUNTS]
