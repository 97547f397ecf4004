"""Every predicted number a second time, slowly, from the formulas of the papers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import networkx
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ghnfast import GHN, ArchGraph

HID, MAX_SHAPE, CLASSES = 8, (8, 8, 3, 3), 5
IMAGE = (3, 16, 16)
CONFIGS: dict[str, dict[str, Any]] = {
    "ghn2": {},
    "ghn1": {"ve": False, "layernorm": False, "weight_norm": False},
    "mlp": {"hypernet": "mlp"},
}
Array = NDArray[np.float64]


@cache
def ghn_of(kind: str) -> GHN:
    """A small GHN, its weights large enough that an error anywhere is visible."""
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):  # whoever is the first to ask
        torch.manual_seed(7)
        ghn = GHN(max_shape=MAX_SHAPE, num_classes=CLASSES, hid=HID, **CONFIGS[kind])
        with torch.no_grad():
            for tensor in ghn.parameters():
                tensor.add_(0.2 * torch.randn(tensor.shape))
    return ghn.eval()


class Weights:
    """The weights of a GHN as numpy arrays."""

    def __init__(self, ghn: GHN) -> None:
        self.arrays = {name: tensor.detach().double().numpy() for name, tensor in ghn.state_dict().items()}

    def linear(self, name: str, x: Array) -> Array:
        weight = self.arrays[f"{name}.weight"]
        result: Array = weight.reshape(len(weight), -1) @ x + self.arrays[f"{name}.bias"]
        return result

    def mlp(self, name: str, x: Array) -> Array:
        """Two layers with a ReLU after each."""
        return relu(self.linear(f"{name}.2", relu(self.linear(f"{name}.0", x))))

    def gru(self, name: str, message: Array, state: Array) -> Array:
        own = {key: self.arrays[f"{name}.{key}"] for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        input_r, input_z, input_n = np.split(own["weight_ih"] @ message + own["bias_ih"], 3)
        hidden_r, hidden_z, hidden_n = np.split(own["weight_hh"] @ state + own["bias_hh"], 3)
        reset, update = sigmoid(input_r + hidden_r), sigmoid(input_z + hidden_z)
        new = np.tanh(input_n + reset * hidden_n)
        return (1 - update) * new + update * state


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def nearest(vocabulary: Sequence[int], size: int) -> int:
    """The index of the nearest entry, of the lower one on a tie."""
    return min(range(len(vocabulary)), key=lambda index: (abs(vocabulary[index] - size), vocabulary[index]))


CHANNELS = sorted({1, 3, CLASSES, *range(8, 65, 8), *range(64, 4097, 16), *range(4096, 8193, 32)})
SPACES = sorted({*range(1, max(12, MAX_SHAPE[2]), 2), 14, 16})


def initial_state(weights: Weights, primitive: int, shape: tuple[int, ...] | None) -> Array:
    channel, spatial = (weights.arrays[f"shape_enc.embed_{kind}.weight"] for kind in ("channel", "spatial"))
    assert len(channel) == len(CHANNELS) + 1
    assert len(spatial) == len(SPACES) + 1
    if shape is None:
        parts = [channel[-1], channel[-1], spatial[-1], spatial[-1]]
    else:
        # (5, the number of classes, has an entry of its own and counts as 8 all the same, as 4, 6 and 7 do)
        parts = [channel[nearest(CHANNELS, 8 if 4 <= size <= 7 else size)] for size in shape[:2]]
        parts += [spatial[nearest(SPACES, 3 if size == 2 else size)] for size in shape[2:]]
    result: Array = weights.arrays["primitive_embedding.weight"][primitive] + np.concatenate(parts)
    return result


def final_states(ghn: GHN, graph: ArchGraph) -> Array:
    """Node by node: m_v = sum MLP(h_u) at distance 1 + sum MLP_ve(h_u) / d up to 50 hops, h_v = GRU(m_v, h_v)."""
    weights = Weights(ghn)
    states = [initial_state(weights, int(op), shape) for op, shape in zip(graph.primitives, graph.shapes, strict=True)]
    if ghn.config["hypernet"] == "mlp":
        states = [weights.mlp("gnn.fc", state) for state in states]
    else:
        network = networkx.DiGraph()
        network.add_nodes_from(range(len(graph)))
        network.add_edges_from(graph.edges.tolist())
        for direction in (network, network.reverse()):
            for node in list(networkx.topological_sort(direction)):
                message: Array = np.zeros(HID)
                hops = networkx.single_target_shortest_path_length(direction, node, cutoff=50)
                for sender, distance in dict(hops).items():
                    if distance == 1:
                        message = message + weights.mlp("gnn.mlp.fc", states[sender])
                    if distance >= 1 and ghn.config["ve"]:
                        message = message + weights.mlp("gnn.mlp_ve.fc", states[sender]) / distance
                states[node] = weights.gru("gnn.gru", message, states[node])
    if ghn.config["layernorm"]:
        scale, shift = weights.arrays["ln.weight"], weights.arrays["ln.bias"]
        states = [(h - h.mean()) / np.sqrt(h.var() + 1e-5) * scale + shift for h in states]
    return np.array(states)


def kernel_block(weights: Weights, state: Array, height: int, width: int) -> Array:
    """(64 out, 64 in, height, width): the top-left cells, interpolated where the decoder has too few."""
    size = MAX_SHAPE[2]
    cells = relu(weights.linear("decoder.fc.0", state)).reshape(4 * HID, size, size)
    block = np.zeros((*MAX_SHAPE[:2], min(height, size), min(width, size)))
    for i, j in itertools.product(range(block.shape[2]), range(block.shape[3])):
        hidden = relu(weights.linear("decoder.conv.0", cells[:, i, j]))
        block[:, :, i, j] = weights.linear("decoder.conv.2", hidden).reshape(MAX_SHAPE[:2])
    return interpolate(interpolate(block, 2, height), 3, width)


def interpolate(block: Array, axis: int, size: int) -> Array:
    """Linear interpolation along an axis, the centres of first and last cell half a cell from the border."""
    count = block.shape[axis]
    result = []
    for target in range(size):
        at = max((target + 0.5) * count / size - 0.5, 0.0)
        low = int(at)
        high = min(low + 1, count - 1)
        result.append(block.take(low, axis) * (1 - (at - low)) + block.take(high, axis) * (at - low))
    return np.stack(result, axis)


def classifier_block(weights: Weights, state: Array) -> Array:
    """(classes, 64): cell (0, 0) through ReLU and a layer over the out axis."""
    cell = relu(kernel_block(weights, state, 1, 1)[:, :, 0, 0])
    return np.stack([weights.linear("decoder.class_layer_predictor.1", cell[:, i]) for i in range(cell.shape[1])], 1)


def vector_blocks(weights: Weights, state: Array) -> Array:
    """(2, 64): row 0 for normalization weights, row 1 for biases."""
    return weights.linear("decoder_1d.fc.2", relu(weights.linear("decoder_1d.fc.0", state))).reshape(2, -1)


def repeat(block: Array, shape: Sequence[int]) -> Array:
    """Element i, j, ... is block[i mod rows, j mod columns, ...]; also takes the leading part of a larger block."""
    result = np.zeros(shape)
    for index in itertools.product(*(range(size) for size in shape)):
        result[index] = block[tuple(i % size for i, size in zip(index, block.shape, strict=True))]
    return result


def expected_parameter(
    ghn: GHN, weights: Weights, graph: ArchGraph, node: int, state: Array, old: Array, bias: bool
) -> Array:
    """What the parameter of a node becomes; `bias` means the bias of a normalization layer."""
    op, shape = graph.ops[node], old.shape
    if op in ("bn", "ln") and not bias:
        vector = repeat(vector_blocks(weights, state)[0], (old.size,))
        return (2 * sigmoid(vector / 2) if ghn.weight_norm else vector).reshape(shape)
    if op in ("bn", "ln", "bias"):
        vector = vector_blocks(weights, state)[1]
        if node == graph.classifier_bias:
            vector = weights.linear("bias_class.1", relu(vector))
        vector = repeat(vector, (old.size,))
        return (np.tanh(vector / 5) if ghn.weight_norm else vector).reshape(shape)
    if op == "pos_enc" and len(shape) == 4:
        return repeat(kernel_block(weights, state, *shape[2:]), shape)
    if op == "pos_enc":
        count, width = shape[-2:]
        side = math.isqrt(count)
        rows = repeat(kernel_block(weights, state, side, side), (1, width, side, side))[0].reshape(width, -1).T
        new = old.copy()
        new[..., count - side * side :, :] = rows
        return new
    if node == graph.classifier_weight:
        new = repeat(classifier_block(weights, state), shape[:2]).reshape(shape)
    else:
        new = repeat(kernel_block(weights, state, *(*shape, 1, 1)[2:4]), (*shape, 1, 1)[:4]).reshape(shape)
    if not ghn.weight_norm:
        return new
    one = len(shape) == 4 and (shape[1] == 1 or shape[2] < shape[3])
    result: Array = new * math.sqrt((1 if one else 2) / math.prod(shape[1:]))
    return result


def expected_parameters(ghn: GHN, model: nn.Module, graph: ArchGraph) -> dict[str, Array]:
    """All parameters that the graph predicts, from `ghn.embed`'s states."""
    weights, states = Weights(ghn), ghn.embed(graph).detach().double().numpy()
    olds = {name: tensor.detach().double().numpy() for name, tensor in model.named_parameters()}
    expected: dict[str, Array] = {}
    for node, names in enumerate(zip(graph.weights, graph.norm_biases, strict=True)):
        for name, bias in zip(names, (False, True), strict=True):
            if name is not None and name not in expected:
                expected[name] = expected_parameter(ghn, weights, graph, node, states[node], olds[name], bias)
    return expected
