"""csrc/forward/graphormer.cpp, and weights of half precision, on plain arrays, with every instruction set."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers.arrays import Array, Batch, halved, widened
from helpers.ghn_weights import CHANNEL_ROWS, HID, KERNEL_ROWS, Weights

REACH, NO_PATH = 50, 2
TABLES, PER_LAYER = 8, 11  # arrays
ERF = np.vectorize(math.erf)


def graphormer_weights(heads: int, layers: int, dtype: Any) -> list[Array]:
    random = np.random.default_rng(4)
    shapes: list[tuple[int, ...]] = [(101, HID), (101, HID), (1001, HID), (257, HID)]
    shapes += [(HID, 2 * HID), (HID,), (heads, HID), (heads,)]
    layer: list[tuple[int, ...]] = [(HID,), (HID,), (3 * HID, HID), (HID, HID), (HID,), (HID,), (HID,)]
    layer += [(4 * HID, HID), (4 * HID,), (HID, 4 * HID), (HID,)]
    return [random.standard_normal(shape).astype(dtype) for shape in shapes + layers * layer]


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * weight + bias


def attended(x: Array, qkv: Array, bias: Array) -> Array:
    """Of one graph; bias (n, n, heads)."""
    heads = bias.shape[2]
    query, key, value = (x @ qkv.T).reshape(len(x), 3, heads, -1).transpose(1, 2, 0, 3)
    logits = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[2]) + bias.transpose(2, 0, 1)
    shares = np.exp(logits - logits.max(axis=2, keepdims=True))
    return (shares / shares.sum(axis=2, keepdims=True) @ value).transpose(1, 0, 2).reshape(len(x), -1)


def expected_states(states: Array, weights: list[Array], batch: Batch, codes: Array) -> Array:
    """What the layers make of initial states, in double precision."""
    tables, layers = weights[:TABLES], weights[TABLES:]
    start, done = 0, []
    for first, last in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
        count = last - first
        own = codes[start : start + count**2].reshape(count, count).astype(int)
        start += count**2
        there, back = np.where(own <= REACH, own, 0), np.where(own > REACH, own - REACH, 0)
        pairs = np.concatenate([tables[3][there + NO_PATH], tables[3][back + NO_PATH]], axis=2)
        bias = np.maximum(pairs @ tables[4].T + tables[5], 0) @ tables[6].T + tables[7]
        x = states[first:last] + tables[0][(there == 1).sum(axis=0)] + tables[1][(there == 1).sum(axis=1)]
        x = x + tables[2][there[0]]
        for at in range(0, len(layers), PER_LAYER):
            layer = layers[at : at + PER_LAYER]
            x = x + attended(layer_norm(x, *layer[:2]), layer[2], bias) @ layer[3].T + layer[4]
            units = layer_norm(x, *layer[5:7]) @ layer[7].T + layer[8]
            x = x + (units * (1 + ERF(units / math.sqrt(2))) / 2) @ layer[9].T + layer[10]
        done.append(x)
    return np.concatenate(done)


class Nodes:
    """Graphs of several sizes, and what their nodes are."""

    def __init__(self, core: ModuleType) -> None:
        random = np.random.default_rng(1)
        self.batch = Batch(core, 4, [13, 1, 70])
        self.topology = self.batch.topology(core)
        self.codes = core.pair_codes(self.topology, REACH, 1)
        self.relations = core.Relations(self.batch.offsets, self.codes)
        shapes = random.integers(-1, 9, (self.batch.nodes, 4))
        self.described = random.integers(0, 15, self.batch.nodes).astype(np.int8), shapes


def embedded(weights: Weights, nodes: Nodes) -> Array:
    primitives, shapes = nodes.described
    tables = [table.astype(np.float64) for table in weights.tables]
    channels = CHANNEL_ROWS[np.where(shapes[:, :2] < 0, 5, np.minimum(shapes[:, :2], 4))]
    kernels = KERNEL_ROWS[np.where(shapes[:, 2:] < 0, 3, np.minimum(shapes[:, 2:], 2))]
    sizes = [tables[1][channels].reshape(-1, HID // 2), tables[2][kernels].reshape(-1, HID // 2)]
    return tables[0][primitives] + np.concatenate(sizes, axis=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("heads", "layers"), [(1, 1), (2, 3), (4, 2), (8, 1)])
def test_node_states(core: ModuleType, instruction_set: str, dtype: Any, heads: int, layers: int) -> None:
    weights, nodes = Weights(dtype, norm=False), Nodes(core)
    weights.sweep = graphormer_weights(heads, layers, dtype)
    found = weights.native(core).node_states(nodes.topology, *nodes.described, 2, nodes.relations)
    exact = [array.astype(np.float64) for array in weights.sweep]
    wanted = expected_states(embedded(weights, nodes), exact, nodes.batch, nodes.codes)
    tolerance = 2e-4 if dtype == np.float32 else 1e-10
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("hypernet", ["graphormer", "virtual", "mlp"])
def test_half_precision_weights_are_read_as_they_are(
    core: ModuleType, instruction_set: str, kind: str, hypernet: str
) -> None:
    """The same bits as from their float32 values: only where they lie is different."""
    weights, nodes = Weights(np.float32, "virtual" if hypernet == "graphormer" else hypernet), Nodes(core)
    if hypernet == "graphormer":
        weights.sweep = graphormer_weights(2, 2, np.float32)
    halves = Weights(np.float32)
    halves.tables, halves.norm, halves.sweep = (halved(a, kind) for a in (weights.tables, weights.norm, weights.sweep))
    halves.layers = [tuple(halved(list(layer), kind)) for layer in weights.layers]  # type: ignore[misc]
    for own in ("tables", "norm", "sweep"):
        setattr(weights, own, [widened(array) for array in getattr(halves, own)])
    weights.layers = [tuple(map(widened, layer)) for layer in halves.layers]  # type: ignore[misc]
    arguments = (halves.tables, CHANNEL_ROWS, KERNEL_ROWS, halves.sweep, halves.norm, 1e-5)
    made = core.GhnFloat(*arguments, [array for layer in halves.layers for array in layer], 6, 5, False)
    states = [
        each.node_states(nodes.topology, *nodes.described, 2, nodes.relations) for each in (made, weights.native(core))
    ]
    assert np.isfinite(states[0]).all()
    np.testing.assert_array_equal(*states)
    assert core.largest(halves.sweep, 2) == core.largest(weights.sweep, 2)


def test_what_does_not_fit_is_refused(core: ModuleType) -> None:
    nodes = Nodes(core)
    weights = Weights(np.float32)
    weights.sweep = graphormer_weights(2, 1, np.float32)
    native = weights.native(core)
    other = core.Relations(np.array([0, 84]), np.zeros(84**2, np.uint8))
    far = core.Relations(nodes.batch.offsets, np.full(len(nodes.codes), 101, np.uint8))
    for relations in (None, other, far):
        with pytest.raises(ValueError, match="attention needs the codes of the pairs of the same graphs"):
            native.node_states(nodes.topology, *nodes.described, 2, relations)
    own = weights.sweep
    for at, array in enumerate(own):
        weights.sweep = [*own[:at], array[:-1].copy(), *own[at + 1 :]]
        with pytest.raises(ValueError, match=r"another shape|heads"):
            weights.native(core)
    weights.sweep = own[:-1]
    with pytest.raises(ValueError, match="18 weights of a Graphormer were given"):
        weights.native(core)
