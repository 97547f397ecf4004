"""Random graphs and weights as the C++ core takes them, and what it should compute, in plain numpy."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def random_edges(random: np.random.Generator, nodes: int, per_node: float) -> Array:
    """(edges, 2), from earlier to later nodes, sorted by target."""
    found = [(s, t) for t in range(nodes) for s in range(t) if random.random() < per_node / max(t, 1)]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


class Batch:
    """Random graphs side by side."""

    def __init__(self, core: ModuleType, seed: int, sizes: list[int], cutoff: int = 50, per_node: float = 1.5) -> None:
        random = np.random.default_rng(seed)
        self.cutoff = cutoff
        self.offsets = np.cumsum([0, *sizes])
        self.nodes = int(self.offsets[-1])
        parts = [random_edges(random, size, per_node) + self.offsets[g] for g, size in enumerate(sizes)]
        self.edges = np.concatenate(parts)
        self.edge_offsets = np.searchsorted(self.edges[:, 1], np.arange(self.nodes + 1))
        self.bands = core.hop_bands(self.offsets, self.edge_offsets, self.edges[:, 0], cutoff, 2)

    def topology(self, core: ModuleType) -> Any:
        return core.Topology(self.offsets, self.edge_offsets, self.edges[:, 0], *self.bands, self.cutoff)

    def weight_matrix(self) -> Array:
        """(nodes, nodes): 1 / distance from one node to another, 0 where there is no path."""
        starts, offsets, closeness = self.bands
        matrix = np.zeros((self.nodes, self.nodes))
        for node in range(self.nodes):
            band = closeness[offsets[node] : offsets[node + 1]].astype(float)
            matrix[starts[node] : node, node] = np.where(band > 0, 1 / np.maximum(self.cutoff + 1 - band, 1), 0)
        return matrix


def sweep_weights(seed: int, hid: int, hidden: int, virtual: bool, dtype: Any) -> list[Array]:
    """Those of the direct MLP, the GRU and the MLP of virtual edges."""
    random = np.random.default_rng(seed)
    mlp: list[tuple[int, ...]] = [(hidden, hid), (hidden,), (hid, hidden), (hid,)]
    shapes = [*mlp, (3 * hid, hid), (3 * hid, hid), (3 * hid,), (3 * hid,), *(mlp if virtual else [])]
    return [(random.standard_normal(shape) / np.sqrt(shape[-1])).astype(dtype) for shape in shapes]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def mlp(x: Array, weights: list[Array]) -> Array:
    hidden = np.maximum(weights[0] @ x + weights[1], 0)
    return np.maximum(weights[2] @ hidden + weights[3], 0)


def gru(received: Array, state: Array, weights: list[Array]) -> Array:
    of_input = np.split(weights[0] @ received + weights[2], 3)
    of_state = np.split(weights[1] @ state + weights[3], 3)
    reset, update = (sigmoid(a + b) for a, b in zip(of_input[:2], of_state[:2], strict=True))
    new = np.tanh(of_input[2] + reset * of_state[2])
    return (1 - update) * new + update * state


def sweep(states: Array, weights: list[Array], batch: Batch) -> Array:
    """The definition, node by node."""
    pairs = batch.weight_matrix()
    states = states.astype(np.float64)
    weights = [weight.astype(np.float64) for weight in weights]
    for matrix, order in ((pairs, range(batch.nodes)), (pairs.T, reversed(range(batch.nodes)))):
        messages = np.zeros((2, *states.shape))
        states = states.copy()
        for node in order:
            received = (matrix[:, node] == 1) @ messages[0]
            if len(weights) == 12:
                received = received + matrix[:, node] @ messages[1]
            states[node] = gru(received, states[node], weights[4:8])
            messages[0, node] = mlp(states[node], weights[:4])
            if len(weights) == 12:
                messages[1, node] = mlp(states[node], weights[8:])
    return states


def halved(arrays: list[Array], kind: str) -> list[Array]:
    """Arrays of half precision as C++ takes them: bfloat16 as the bits of it."""
    if kind == "float16":
        return [array.astype(np.float16) for array in arrays]
    return [(array.view(np.uint32) >> 16).astype(np.uint16).view(np.int16) for array in arrays]


def widened(array: Array) -> Array:
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
