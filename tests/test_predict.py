"""Prediction against formulas and under attack.

The first half computes every predicted number a second time, slowly, from the formulas of the design: the initial
embedding, the sweep node by node, the decoder element by element. The second half is about writing: which parameters,
into which memory, in which dtype, and that a failure changes none.
"""

from __future__ import annotations

import copy
import itertools
import math
import subprocess
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Net
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import ghnfast
from ghnfast import GHN, ArchGraph, DomainWarning, GhnfastError, PredictError, TraceError
from ghnfast.graph import PRIMITIVES
from ghnfast.ops.decode import store, tile

HID, MAX_SHAPE, CLASSES = 8, (8, 8, 3, 3), 5
IMAGE = (3, 16, 16)
CONFIGS: dict[str, dict[str, Any]] = {
    "ghn2": {},
    "ghn1": {"ve": False, "layernorm": False, "weight_norm": False},
    "mlp": {"hypernet": "mlp"},
}
Array = NDArray[np.float64]

# Helper models ----------------------------------------------------------------------------------------------------


def conv(inputs: int, outputs: int, kernel: int | tuple[int, int] = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the image's size; without a bias unless asked for."""
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(side // 2 for side in size)
    return nn.Conv2d(inputs, outputs, size, **{"padding": padding, "bias": False, **options})


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.full(shape, 0.25))


def classifier_of(stem: nn.Module, head: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(OrderedDict(stem=stem, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=head))


def small_network() -> nn.Module:
    """One of everything that is common."""
    return nn.Sequential(
        OrderedDict(
            a=conv(3, 8, bias=True),
            bn=nn.BatchNorm2d(8),
            act=nn.ReLU(inplace=True),
            b=conv(8, 12, groups=4),
            gn=nn.GroupNorm(2, 12),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            fc=nn.Linear(12, 5),
        )
    )


def tokens_network(tokens: int, *shape: int) -> nn.Module:
    """16 tokens of width 10, with or without tokens in front, and a position encoding of `shape`."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.patch(x).flatten(2).transpose(1, 2)
        if tokens:
            x = torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1)
        return m.fc(m.ln(x + m.pos).mean(1))

    return Net(
        forward,
        patch=nn.Conv2d(3, 10, 4, 4),
        token=parameter(1, tokens, 10) if tokens else None,
        pos=parameter(*shape),
        ln=nn.LayerNorm(10),
        fc=nn.Linear(10, 5),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "common": small_network,
    "larger than the decoder": lambda: nn.Sequential(conv(3, 16), nn.BatchNorm2d(16), conv(16, 24, bias=True)),
    "no multiples of the decoder": lambda: nn.Sequential(conv(3, 11, bias=True), nn.BatchNorm2d(11), conv(11, 21)),
    "smaller than the decoder": lambda: nn.Sequential(conv(3, 2), conv(2, 7, 1, bias=True), conv(7, 5)),
    "depthwise": lambda: nn.Sequential(conv(3, 20, 1), conv(20, 20, groups=20), conv(20, 20, dilation=2, groups=20)),
    "1 x 7 and 7 x 1": lambda: nn.Sequential(
        conv(3, 9, (1, 7)), conv(9, 4, (7, 1)), conv(4, 4, (1, 3)), conv(4, 4, (3, 1))
    ),
    "larger kernels than the decoder's": lambda: nn.Sequential(conv(3, 10, 5), conv(10, 4, 7), conv(4, 4, (2, 5))),
    "even kernels": lambda: nn.Sequential(conv(3, 4, 2), conv(4, 4, 4)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 19), nn.Tanh(), nn.Linear(19, 3), nn.Linear(3, 5)),
    "fewer classes": lambda: classifier_of(conv(3, 10), nn.Linear(10, 3), 10),
    "more classes": lambda: classifier_of(conv(3, 10), nn.Linear(10, 13), 10),
    "classes without bias": lambda: classifier_of(conv(3, 6), nn.Linear(6, 7, bias=False), 6),
    "1x1 convolution as classifier": lambda: nn.Sequential(
        conv(3, 10), conv(10, 7, 1, bias=True), nn.AdaptiveAvgPool2d(1)
    ),
    "norms": lambda: nn.Sequential(
        conv(3, 20),
        nn.BatchNorm2d(20),
        nn.GroupNorm(4, 20),
        nn.InstanceNorm2d(20, affine=True),
        nn.LayerNorm(16),
        nn.LayerNorm(16, bias=False),
        nn.RMSNorm(16),
        conv(20, 4),
    ),
    "bias in another shape": lambda: Net(
        lambda m, x: m.b(F.relu(m.a(x) + m.c)), a=conv(3, 9), b=conv(9, 4), c=parameter(9, 1, 1)
    ),
    "position encoding (1, n, d)": lambda: tokens_network(0, 1, 16, 10),
    "position encoding (n, d)": lambda: tokens_network(0, 16, 10),
    "position encoding with class token": lambda: tokens_network(1, 1, 17, 10),
    "position encoding (n, d) with class token": lambda: tokens_network(1, 17, 10),
    "position encoding of an image": lambda: Net(
        lambda m, x: m.b(m.a(x) + m.pos), a=conv(3, 10), b=conv(10, 4), pos=parameter(1, 10, 16, 16)
    ),
    "position encoding of a small image": lambda: Net(
        lambda m, x: m.b(m.a(x) + m.pos), a=nn.Conv2d(3, 10, 8, 8), b=conv(10, 4), pos=parameter(1, 10, 2, 2)
    ),
    "attention": lambda: Net(
        lambda m, x: m.fc(m.block(m.patch(x).flatten(2).transpose(1, 2))[:, 0]),
        patch=nn.Conv2d(3, 8, 4, 4),
        block=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        fc=nn.Linear(8, 5),
    ),
    "used twice": lambda: Net(lambda m, x: m.b(m.b(m.a(x))), a=conv(3, 10), b=conv(10, 10, bias=True)),
    "spectral norm": lambda: nn.Sequential(conv(3, 10), parametrizations.spectral_norm(conv(10, 4))),
}


# The formulas, slowly ---------------------------------------------------------------------------------------------


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
                message = np.zeros(HID)
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


# Helpers ----------------------------------------------------------------------------------------------------------


def values(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a model's tensors."""
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return {name: (tensor.to_dense() if tensor.is_sparse else tensor).clone() for name, tensor in tensors.items()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor], batched: bool = False) -> None:
    """Bit for bit; up to rounding where one of the two was predicted in a batch of another size."""
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        if batched and tensor.is_floating_point():
            torch.testing.assert_close(tensor, right[name], rtol=1e-5, atol=1e-6, msg=name)
        else:
            assert torch.equal(tensor, right[name]), name


def changed(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    return {name for name, tensor in values(model).items() if not torch.equal(tensor, before[name])}


def predict(model: Any, kind: str = "ghn2", **options: Any) -> Any:
    if not options.keys() & {"input_shape", "example_inputs", "graph"}:
        options["input_shape"] = IMAGE
    return ghn_of(kind).predict(model, **options)


def check_report(model: nn.Module, report: ghnfast.Report, skipped: set[str]) -> None:
    """Every parameter is in exactly one of the two, in the model's order, and every reason is something to read."""
    names = [name for name, _ in model.named_parameters()]
    assert set(report.skipped) == skipped
    assert report.predicted == [name for name in names if name not in skipped]
    assert list(report.skipped) == [name for name in names if name in skipped]
    assert all(isinstance(reason, str) and reason for reason in report.skipped.values())
    assert report.elements == sum(tensor.numel() for tensor in model.parameters())
    assert 0 <= report.coverage <= 1


# Formulas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_predicted_parameter_is_what_the_formulas_say(name: str, kind: str) -> None:
    ghn, model = ghn_of(kind), NETWORKS[name]()
    graph = ghnfast.trace(model, input_shape=IMAGE)
    expected = expected_parameters(ghn, model, graph)
    _, report = predict(model, kind, graph=graph, report=True)
    assert set(report.predicted) == set(expected)
    parameters = dict(model.named_parameters())
    for parameter_name, values_expected in expected.items():
        np.testing.assert_allclose(
            parameters[parameter_name].detach().numpy(), values_expected, rtol=2e-4, atol=2e-5, err_msg=parameter_name
        )


@pytest.mark.parametrize("kind", CONFIGS)
def test_node_states_of_a_real_network(kind: str) -> None:
    graph = ghnfast.trace(NETWORKS["attention"](), input_shape=IMAGE)
    found = ghn_of(kind).embed(graph).detach().numpy()
    np.testing.assert_allclose(found, final_states(ghn_of(kind), graph), rtol=1e-4, atol=1e-5)


def graph_of(edges: Sequence[tuple[int, int]], primitives: Sequence[int], shapes: Sequence[Any]) -> ArchGraph:
    """A graph without parameters; its edges go to higher numbers, and nodes are renumbered in the order of levels."""
    nodes = len(primitives)
    level = np.zeros(nodes, dtype=np.int64)
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        level[target] = max(level[target], level[source] + 1)
    order = np.argsort(level, kind="stable")
    place = np.argsort(order)
    moved = sorted((int(place[target]), int(place[source])) for source, target in edges)
    return ArchGraph(
        primitives=np.array(primitives, dtype=np.int8)[order],
        edges=np.array([(source, target) for target, source in moved], dtype=np.int32).reshape(-1, 2),
        level_offsets=np.searchsorted(np.sort(level), np.arange(level.max() + 2)).astype(np.int32),
        shapes=[shapes[node] for node in order],
        weights=[None] * nodes,
        norm_biases=[None] * nodes,
    )


SHAPES = st.none() | st.tuples(
    st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 20, 60, 64, 72, 1000, 4100, 4112, 8192, 9000]),
    st.sampled_from([1, 2, 3, 5, 7, 8, 100, 4095, 5000, 100_000]),
    st.sampled_from([1, 2, 3, 4, 5, 7, 11, 12, 13, 14, 15, 16, 17, 40]),
    st.sampled_from([1, 2, 6, 9, 10, 224]),
)


@st.composite
def random_graphs(draw: st.DrawFn) -> ArchGraph:
    nodes = draw(st.integers(1, 12))
    reach = draw(st.sampled_from([1, 3, 12]))
    edges = {
        (source, target)
        for target in range(1, nodes)
        for source in draw(st.lists(st.integers(max(0, target - reach), target - 1), max_size=3))
    }
    primitives = draw(st.lists(st.integers(0, len(PRIMITIVES) - 1), min_size=nodes, max_size=nodes))
    return graph_of(sorted(edges), primitives, draw(st.lists(SHAPES, min_size=nodes, max_size=nodes)))


@pytest.mark.parametrize("kind", CONFIGS)
@settings(derandomize=True, max_examples=15, deadline=None, database=None)
@given(graph=random_graphs())
def test_sweep_equals_the_formulas_node_by_node(kind: str, graph: ArchGraph) -> None:
    found = ghn_of(kind).embed(graph).detach().numpy()
    np.testing.assert_allclose(found, final_states(ghn_of(kind), graph), rtol=1e-4, atol=1e-5)


def test_virtual_edges_end_after_fifty_hops() -> None:
    chain = graph_of([(i, i + 1) for i in range(54)], [7] * 55, [None] * 55)
    found = ghn_of("ghn2").embed(chain).detach().numpy()
    np.testing.assert_allclose(found, final_states(ghn_of("ghn2"), chain), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_states_of_a_batch_are_those_of_its_graphs(kind: str) -> None:
    graphs = [ghnfast.trace(NETWORKS[name](), input_shape=IMAGE) for name in ("common", "attention", "linear")]
    found, one_by_one = ghn_of(kind).embed(graphs), [ghn_of(kind).embed(graph) for graph in graphs]
    assert [len(states) for states in found] == list(map(len, graphs))
    torch.testing.assert_close(found, one_by_one, rtol=1e-5, atol=1e-6)


# Tiling -----------------------------------------------------------------------------------------------------------


@st.composite
def blocks_and_shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    return tuple(draw(st.integers(1, size)) for size in shape), shape


def tiled(block: Tensor, shape: Sequence[int]) -> Tensor:
    index = np.ix_(*(np.arange(size) % length for size, length in zip(shape, block.shape, strict=True)))
    return torch.from_numpy(block.numpy()[index])


def numbered(shape: Sequence[int]) -> Tensor:
    return torch.arange(1.0, math.prod(shape) + 1).view(*shape)


@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(case=blocks_and_shapes())
def test_tile_repeats_as_numpy_indexing_does(case: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    block, shape = case
    assert torch.equal(tile(numbered(block), shape), tiled(numbered(block), shape))


@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(case=blocks_and_shapes(), order=st.permutations(range(4)), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_store_writes_into_memory_of_any_order(
    case: tuple[tuple[int, ...], tuple[int, ...]], order: list[int], dtype: torch.dtype
) -> None:
    block, shape = case
    order = [dim for dim in order if dim < len(shape)]
    memory = torch.full([shape[dim] for dim in order], -1.0, dtype=dtype)
    target = memory.permute([order.index(dim) for dim in range(len(shape))])
    assert target.shape == shape
    store(numbered(block).to(dtype), target)
    assert torch.equal(target, tiled(numbered(block).to(dtype), shape))


def test_store_into_channels_last_and_into_a_part_of_memory() -> None:
    block = numbered((3, 2, 2, 2))
    target = torch.zeros(7, 5, 2, 2).contiguous(memory_format=torch.channels_last)
    store(block, target)
    assert torch.equal(target, tiled(block, (7, 5, 2, 2)))
    memory = torch.zeros(9, 8, 2, 2)
    store(block, memory[1:8, 2:7])
    assert torch.equal(memory[1:8, 2:7], target)
    assert memory.count_nonzero() == target.numel()


# Writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_get_the_rounded_values(dtype: torch.dtype) -> None:
    reference, model = predict(small_network()), predict(small_network().to(dtype))
    for (name, tensor), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert tensor.dtype == dtype, name
        assert torch.equal(tensor, expected.to(dtype)), name


def test_mixed_dtypes_keep_theirs() -> None:
    model = small_network()
    model.b.double()
    model.fc.half()
    graph = ghnfast.trace(small_network(), input_shape=IMAGE)
    predict(model, graph=graph)
    reference = predict(small_network())
    for (name, tensor), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(tensor, expected.to(tensor.dtype)), name
    assert model.b.weight.dtype == torch.float64


def test_ghn_in_double_precision_predicts_the_same() -> None:
    ghn = GHN(max_shape=MAX_SHAPE, num_classes=CLASSES, hid=HID)
    ghn.load_state_dict(ghn_of("ghn2").state_dict())
    model = ghn.double().predict(small_network(), input_shape=IMAGE)
    for tensor, expected in zip(model.parameters(), predict(small_network()).parameters(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5)


def test_frozen_parameters_are_predicted_and_stay_frozen() -> None:
    model = small_network()
    model.a.requires_grad_(False)
    before = values(model)
    predict(model)
    assert {"a.weight", "a.bias", "b.weight"} <= changed(before, model)
    assert not model.a.weight.requires_grad
    assert not model.a.bias.requires_grad
    assert model.b.weight.requires_grad


def test_gradients_are_left_alone() -> None:
    model = small_network()
    model.a.weight.grad = torch.ones_like(model.a.weight)  # type: ignore[arg-type]
    predict(model)
    assert torch.equal(model.a.weight.grad, torch.ones_like(model.a.weight))  # type: ignore[arg-type]
    assert all(tensor.grad is None for name, tensor in model.named_parameters() if name != "a.weight")


def test_parameters_stay_the_same_objects_in_the_same_memory() -> None:
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = [(tensor, tensor.data_ptr(), tensor.stride()) for tensor in model.parameters()]
    assert predict(model) is model
    after = list(model.parameters())
    assert all(tensor is now for (tensor, _, _), now in zip(before, after, strict=True))
    assert [(pointer, stride) for _, pointer, stride in before] == [(now.data_ptr(), now.stride()) for now in after]
    assert optimizer.param_groups[0]["params"][0] is model.a.weight
    assert all(type(tensor) is nn.Parameter and tensor.is_leaf for tensor in after)


def test_channels_last_stays_channels_last() -> None:
    model = small_network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert model.b.weight.is_contiguous(memory_format=torch.channels_last)
    predict(model)
    assert model.a.weight.is_contiguous(memory_format=torch.channels_last)
    assert not model.a.weight.is_contiguous()
    for tensor, expected in zip(model.parameters(), predict(small_network()).parameters(), strict=True):
        assert torch.equal(tensor, expected)


def test_parameters_that_are_views_of_one_buffer() -> None:
    """As flattened for fused optimizers: each gets its own part, and nothing beside it is written."""
    model, reference = small_network(), predict(small_network())
    flat = torch.zeros(sum(tensor.numel() for tensor in model.parameters()) + 2)
    offset = 1
    for tensor in model.parameters():
        tensor.data = flat[offset : offset + tensor.numel()].view_as(tensor)
        offset += tensor.numel()
    predict(model)
    assert flat[0] == flat[-1] == 0
    assert torch.equal(flat[1:-1], torch.cat([tensor.detach().flatten() for tensor in reference.parameters()]))


def test_transposed_parameter_memory() -> None:
    model = small_network()
    model.fc.weight = nn.Parameter(torch.zeros(12, 5).t())
    predict(model)
    assert model.fc.weight.stride() == (1, 5)
    assert torch.equal(model.fc.weight, predict(small_network()).fc.weight)


def test_two_parameters_that_share_memory() -> None:
    """Tied by data rather than by identity: both are reported as predicted, and they still share."""
    model = nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 8))
    model[2].weight = nn.Parameter(model[1].weight.data)  # type: ignore[arg-type]
    _, report = predict(model, report=True)
    check_report(model, report, set())
    assert model[1].weight.data_ptr() == model[2].weight.data_ptr()


def test_expanded_parameter_is_an_error_or_skipped_and_never_half_a_prediction() -> None:
    """Torch refuses to write memory of which several elements share a place."""
    model = nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 8))
    model[1].weight = nn.Parameter(torch.zeros(1, 1, 3, 3).expand(8, 8, 3, 3))
    before = values(model)
    try:
        _, report = predict(model, report=True)
    except PredictError as error:
        message = str(error)
    else:
        check_report(model, report, {"1.weight"})
        return
    assert "1.weight" in message
    assert not changed(before, model)


def test_overlapping_parameter_is_an_error_or_skipped_and_never_half_a_prediction() -> None:
    """Strides that overlap without being zero, as of a Toeplitz matrix."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.Linear(8, 8), nn.Linear(8, 5))
    model[2].weight = nn.Parameter(torch.zeros(15).as_strided((8, 8), (1, 1)))
    before = values(model)
    try:
        _, report = predict(model, report=True)
    except PredictError as error:
        message = str(error)
    else:
        assert "2.weight" in {*report.predicted, *report.skipped}
        return
    assert "2.weight" in message
    assert not changed(before, model)


def test_parameters_made_in_inference_mode() -> None:
    """Torch forbids changing them outside of it, which must not show halfway through."""
    model = nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 8))
    with torch.inference_mode():
        model[1] = conv(8, 8)
    before = values(model)
    try:
        _, report = predict(model, report=True)
    except PredictError:
        assert not changed(before, model)
    else:
        check_report(model, report, set())
        assert "1.weight" in changed(before, model)


def test_batch_statistics_and_modes_are_left_alone() -> None:
    model = small_network().train()
    model.gn.eval()
    before = values(model)
    predict(model)
    assert not changed(before, model) & {name for name, _ in model.named_buffers()}
    assert model.training
    assert not model.gn.training


def test_predicted_model_trains() -> None:
    model = predict(small_network())
    model(torch.zeros(2, *IMAGE)).sum().backward()
    assert all(tensor.grad is not None for tensor in model.parameters())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_modes_do_not_matter(context: Callable[[], Any]) -> None:
    model = small_network()
    with context():
        predict(model)
    assert_same(values(model), values(predict(small_network())))
    assert all(tensor.requires_grad and not tensor.is_inference() for tensor in model.parameters())
    model(torch.zeros(2, *IMAGE)).sum().backward()


@pytest.mark.parametrize(
    "context", [lambda: torch.autocast("cpu", dtype=torch.bfloat16), lambda: torch.device("meta"), torch.no_grad]
)
def test_surroundings_do_not_matter(context: Callable[[], Any]) -> None:
    """A prediction inside somebody's training loop is the same as outside of it."""
    model = small_network()
    with context():
        predict(model)
    assert_same(values(model), values(predict(small_network())))


def test_ghn_gets_no_gradients_and_keeps_its_mode() -> None:
    ghn = GHN(max_shape=MAX_SHAPE, num_classes=CLASSES, hid=HID).train()
    before = values(ghn)
    ghn.predict(small_network(), input_shape=IMAGE)
    assert ghn.training
    assert all(tensor.grad is None and tensor.requires_grad for tensor in ghn.parameters())
    assert_same(before, values(ghn))


def test_embedding_is_differentiable_in_training() -> None:
    ghn, model = copy.deepcopy(ghn_of("ghn2")), small_network()
    plain = ghn.embed(model, input_shape=IMAGE)
    assert not plain.requires_grad
    states, again = ghn.train().embed([model, model], input_shape=IMAGE)
    np.testing.assert_allclose(states.detach().numpy(), plain.numpy(), rtol=1e-5, atol=1e-6)
    (states + again).sum().backward()
    assert ghn.primitive_embedding.weight.grad is not None
    with torch.no_grad():
        assert not ghn.embed(model, input_shape=IMAGE).requires_grad


def test_embeddings_of_a_loaded_ghn_are_numbers() -> None:
    ghn = ghnfast.load("ghn2-mnist5k")
    assert ghn.embed(small_network(), input_shape=IMAGE).numpy().shape[1] == ghn.config["hid"]
    assert all(len(states.numpy()) for states in ghn.embed([small_network(), small_network()], input_shape=IMAGE))
    assert all(weight.requires_grad for weight in ghn.parameters())


def test_prediction_is_the_same_twice() -> None:
    model = predict(small_network())
    once = values(model)
    predict(model)
    assert_same(once, values(model))


def test_prediction_does_not_depend_on_the_old_values_or_the_random_state() -> None:
    torch.manual_seed(1)
    first = predict(small_network())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = small_network()
    torch.set_rng_state(state)
    predict(second)
    assert torch.equal(torch.get_rng_state(), state)
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)


# Lists, graphs, classifier ----------------------------------------------------------------------------------------


def test_list_of_models_is_predicted_as_one_by_one() -> None:
    names = ("common", "attention", "position encoding with class token", "more classes")
    together = [NETWORKS[name]() for name in names]
    found, reports = predict(together, report=True)
    assert found is together
    for name, model, report in zip(names, together, reports, strict=True):
        alone, alone_report = predict(NETWORKS[name](), report=True)
        assert (report.predicted, report.skipped) == (alone_report.predicted, alone_report.skipped)
        for (key, tensor), expected in zip(model.named_parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6, msg=f"{name}: {key}")


def test_tuple_of_models() -> None:
    models = (small_network(), small_network())
    assert predict(models) is models
    assert_same(values(models[0]), values(models[1]), batched=True)


def test_same_model_twice_in_a_list() -> None:
    model = small_network()
    _, reports = predict([model, model], report=True)
    assert_same(values(model), values(predict(small_network())), batched=True)
    assert reports[0] == reports[1]


@pytest.mark.parametrize("name", ["common", "classes without bias", "1x1 convolution as classifier", "attention"])
def test_without_classifier_exactly_the_classification_layer_is_left(name: str) -> None:
    model, whole = NETWORKS[name](), predict(NETWORKS[name]())
    before = values(model)
    graph = ghnfast.trace(model, input_shape=IMAGE)
    kept = {graph.params[node] for node in (graph.classifier_weight, graph.classifier_bias) if node is not None}
    _, report = predict(model, classifier=False, report=True)
    names = [name for name, _ in model.named_parameters()]
    assert kept == set(names[-len(kept) :])
    check_report(model, report, kept)  # type: ignore[arg-type]
    for key, tensor in model.named_parameters():
        assert torch.equal(tensor, before[key] if key in kept else dict(whole.named_parameters())[key]), key


def test_without_classifier_a_weight_that_is_tied_to_it_is_left_too() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[4].weight = model[2].weight
    before = values(model)
    _, report = predict(model, classifier=False, report=True)
    check_report(model, report, {"2.weight", "4.bias"})
    assert not changed(before, model) & {"2.weight", "4.weight", "4.bias"}


def test_without_classifier_a_network_that_has_none_is_predicted_whole() -> None:
    model = nn.Sequential(conv(3, 8), conv(8, 8))
    _, report = predict(model, classifier=False, report=True)
    check_report(model, report, set())


def test_without_classifier_nothing_is_left_of_a_single_layer() -> None:
    model = nn.Linear(7, 5)
    before = values(model)
    with pytest.raises(PredictError, match="classifier=False"):
        predict(model, input_shape=(7,), classifier=False)
    assert not changed(before, model)


def test_graph_is_used_again_for_another_instance() -> None:
    graph = ghnfast.trace(small_network(), input_shape=IMAGE)
    first, second = predict(small_network(), graph=graph), predict(small_network(), graph=graph)
    assert_same(values(first), values(second))
    assert ghnfast.trace(small_network(), input_shape=IMAGE).params == graph.params
    assert_same(values(first), values(predict(small_network())))


def test_graphs_for_a_list() -> None:
    graph = ghnfast.trace(small_network(), input_shape=IMAGE)
    models = [small_network(), small_network()]
    predict(models, graph=[graph, graph])
    assert_same(values(models[0]), values(predict(small_network())), batched=True)


def test_graph_of_a_model_with_other_names_is_an_error() -> None:
    model = small_network()
    before = values(model)
    with pytest.raises(PredictError, match="the graph has a parameter"):
        predict(model, graph=ghnfast.trace(NETWORKS["attention"](), input_shape=IMAGE))
    assert not changed(before, model)


@pytest.mark.parametrize(
    "other",
    [
        lambda: nn.Sequential(conv(3, 8), conv(8, 24)),
        lambda: nn.Sequential(conv(3, 8, 5), conv(8, 8)),
        lambda: nn.Sequential(nn.Flatten(), conv(3, 8))[1:],
        lambda: nn.Sequential(conv(3, 8, 1), nn.BatchNorm2d(8)),
    ],
)
def test_graph_of_a_model_with_the_same_names_and_other_shapes_is_an_error(other: Callable[[], nn.Module]) -> None:
    """A graph holds the shapes that its node states come from: for another model they would be wrong."""
    model = nn.Sequential(conv(3, 8), conv(8, 8))
    before = values(model)
    with pytest.raises(PredictError, match="graph"):
        predict(model, graph=ghnfast.trace(other(), input_shape=IMAGE))
    assert not changed(before, model)


def test_graph_that_lacks_some_parameters_reports_them() -> None:
    graph = ghnfast.trace(nn.Sequential(conv(3, 8), conv(8, 8)), input_shape=IMAGE)
    model = nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 8))
    before = values(model)
    _, report = predict(model, graph=graph, report=True)
    check_report(model, report, {"2.weight"})
    assert changed(before, model) == {"0.weight", "1.weight"}


def test_wrong_number_of_graphs() -> None:
    graph = ghnfast.trace(small_network(), input_shape=IMAGE)
    with pytest.raises(PredictError, match="1 graphs were given for 2 models"):
        predict([small_network(), small_network()], graph=graph)


@pytest.mark.parametrize("graph", ["graph", 3, [None], [{}]])
def test_something_that_is_no_graph(graph: Any) -> None:
    with pytest.raises(GhnfastError):
        predict(small_network(), graph=graph)


def test_empty_list() -> None:
    with pytest.raises(PredictError, match="empty list"):
        predict([])


@pytest.mark.parametrize("model", [nn.Linear, None, "resnet50", 3, [nn.Linear], [small_network, None]])
def test_something_that_is_no_model(model: Any) -> None:
    with pytest.raises(GhnfastError, match=r"[Mm]odule"):
        predict(model)


# Reports ----------------------------------------------------------------------------------------------------------


class Strange(nn.Module):
    """A custom module whose parameter is of a shape that nothing predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.cube = parameter(2, 3, 4)
        self.register_parameter("nothing", None)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.cube.sum().exp()


def recurrent(layer: type[nn.Module]) -> nn.Module:
    return Net(
        lambda m, x: m.fc(m.rnn(m.patch(x).flatten(2).transpose(1, 2))[0][:, -1]),
        patch=nn.Conv2d(3, 8, 4, 4),
        rnn=layer(8, 6, batch_first=True),
        fc=nn.Linear(6, 5),
    )


RECURRENT = {f"rnn.{kind}_{place}_l0" for kind in ("weight", "bias") for place in ("ih", "hh")}

UNKNOWN: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "Conv1d": (
        lambda: Net(
            lambda m, x: m.fc(m.mix(m.a(x).flatten(2)).mean(2)),
            a=conv(3, 8),
            mix=nn.Conv1d(8, 8, 3),
            fc=nn.Linear(8, 5),
        ),
        {"mix.weight", "mix.bias"},
    ),
    "Conv3d": (
        lambda: Net(
            lambda m, x: m.fc(m.mix(m.a(x)[:, None]).mean((2, 3, 4))),
            a=conv(3, 8),
            mix=nn.Conv3d(1, 4, 3),
            fc=nn.Linear(4, 5),
        ),
        {"mix.weight", "mix.bias"},
    ),
    "ConvTranspose2d": (
        lambda: nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 8, 2, 2), conv(8, 5)),
        {"1.weight", "1.bias"},
    ),
    "GRU": (lambda: recurrent(nn.GRU), RECURRENT),
    "LSTM": (lambda: recurrent(nn.LSTM), RECURRENT),
    "PReLU": (lambda: nn.Sequential(conv(3, 8), nn.PReLU(8), conv(8, 5)), {"1.weight"}),
    "Embedding": (
        lambda: Net(
            lambda m, x: m.b(m.a(x) * m.table(torch.zeros(8, dtype=torch.long, device=x.device)).mean()),
            a=conv(3, 8),
            b=conv(8, 5),
            table=nn.Embedding(4, 6),
        ),
        {"table.weight"},
    ),
    "Bilinear": (
        lambda: Net(lambda m, x: m.mix(x.mean((2, 3)), m.a(x).mean((2, 3))), a=conv(3, 8), mix=nn.Bilinear(3, 8, 5)),
        {"mix.weight", "mix.bias"},
    ),
    "custom": (lambda: nn.Sequential(conv(3, 8), Strange(), conv(8, 5)), {"1.cube"}),
    "layer scale": (
        lambda: Net(lambda m, x: m.b(m.a(x) * m.gamma), a=conv(3, 8), b=conv(8, 5), gamma=parameter(8, 1, 1)),
        {"gamma"},
    ),
    "class token": (lambda: tokens_network(1, 1, 17, 10), {"token"}),
    "unused": (lambda: Net(lambda m, x: m.a(x), a=conv(3, 8), b=conv(3, 8)), {"b.weight"}),
    "empty": (lambda: Net(lambda m, x: m.a(x) + m.b.sum(), a=conv(3, 8), b=parameter(0)), {"b"}),
    "scalar": (lambda: Net(lambda m, x: m.a(x) * m.b, a=conv(3, 8), b=parameter()), {"b"}),
    "complex": (
        lambda: Net(
            lambda m, x: m.b(m.a(x) * m.c.real),
            a=conv(3, 8),
            b=conv(8, 5),
            c=nn.Parameter(torch.ones(1, dtype=torch.complex64)),
        ),
        {"c"},
    ),
    "complex layer": (
        lambda: Net(
            lambda m, x: m.c(m.a(x).mean((2, 3)).to(torch.complex64)).abs(),
            a=conv(3, 8),
            c=nn.Linear(8, 5, dtype=torch.complex64),
        ),
        {"c.weight", "c.bias"},
    ),
    "integer": (
        lambda: Net(
            lambda m, x: m.b(m.a(x)[:, m.order]),
            a=conv(3, 8),
            b=conv(8, 5),
            order=nn.Parameter(torch.arange(8), requires_grad=False),
        ),
        {"order"},
    ),
    "unused sparse": (
        lambda: Net(lambda m, x: m.a(x), a=conv(3, 8), s=nn.Parameter(torch.eye(3).to_sparse())),
        {"s"},
    ),
    "integer layer": (
        lambda: Net(
            lambda m, x: m.b(F.linear(m.a(x).mean((2, 3)), m.q.float())),
            a=conv(3, 8),
            b=nn.Linear(6, 5),
            q=nn.Parameter(torch.ones(6, 8, dtype=torch.int8), requires_grad=False),
        ),
        {"q"},
    ),
    "float8 layer": (
        lambda: Net(
            lambda m, x: m.b(F.linear(m.a(x).mean((2, 3)), m.q.to(x.dtype))),
            a=conv(3, 8),
            b=nn.Linear(6, 5),
            q=nn.Parameter(torch.ones(6, 8).to(torch.float8_e4m3fn), requires_grad=False),
        ),
        {"q"},
    ),
}


@pytest.mark.filterwarnings("ignore:ComplexHalf", "ignore:Casting complex")
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_predicted_is_kept_and_reported_and_the_rest_predicted(name: str) -> None:
    build, skipped = UNKNOWN[name]
    model = build()
    before = values(model)
    _, report = predict(model, report=True)
    check_report(model, report, skipped)
    assert changed(before, model) == set(report.predicted)


@pytest.mark.parametrize("name", [name for name in UNKNOWN if name not in ("integer", "integer layer")])
def test_reasons_are_sentences_rather_than_names_of_functions(name: str) -> None:
    """`gru` or `mul` alone tells a user nothing."""
    _, report = predict(UNKNOWN[name][0](), report=True)
    for parameter_name, reason in report.skipped.items():
        assert len(reason.split()) >= 3, f"{parameter_name}: {reason}"


def test_report_of_a_common_network_is_empty_handed() -> None:
    model, report = predict(small_network(), report=True)
    check_report(model, report, set())
    assert report.predicted_elements == report.elements
    assert report.coverage == 1


def test_token_that_keeps_its_values_is_not_counted() -> None:
    model = tokens_network(1, 1, 17, 10)
    before = model.pos.detach().clone()
    _, report = predict(model, report=True)
    assert torch.equal(model.pos[:, 0], before[:, 0])
    assert not bool((model.pos[:, 1:] == before[:, 1:]).any())
    assert report.elements - report.predicted_elements == 10 + 10


def test_tied_parameter_is_reported_once() -> None:
    model = nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 8))
    model[2].weight = model[1].weight
    _, report = predict(model, report=True)
    check_report(model, report, set())


def test_without_report_the_model_alone_is_returned() -> None:
    model = small_network()
    assert predict(model) is model
    assert ghnfast.predict(model, ghn_of("ghn2"), input_shape=IMAGE) is model


# Failures ---------------------------------------------------------------------------------------------------------


def broken_forward() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        raise ValueError("broken on purpose")

    return Net(forward, a=conv(3, 8))


def partly_on_meta() -> nn.Module:
    model = small_network()
    model.b.to("meta")
    return model


def all_complex() -> nn.Module:
    return nn.Linear(7, 5, dtype=torch.complex64)


def expanded() -> nn.Module:
    model = small_network()
    model.b.weight = nn.Parameter(torch.zeros(1, 2, 3, 3).expand(12, 2, 3, 3))
    return model


FAILING: dict[str, tuple[Callable[[], nn.Module], type[GhnfastError], str]] = {
    "forward": (broken_forward, TraceError, "broken on purpose"),
    "meta": (lambda: small_network().to("meta"), PredictError, "meta device"),
    "partly meta": (partly_on_meta, PredictError, r"b\.weight is on the meta device"),
    "no parameters": (nn.ReLU, TraceError, "no parameters"),
    "constant output": (lambda: Net(lambda m, x: torch.ones(3), a=conv(3, 8)), TraceError, "depends on its input"),
}


@pytest.mark.parametrize("name", FAILING)
def test_failing_model_is_an_error(name: str) -> None:
    build, error, message = FAILING[name]
    model = build()
    before = {key: tensor for key, tensor in values(model).items() if not tensor.is_meta}
    with pytest.raises(error, match=message):
        predict(model)
    for key, tensor in before.items():
        assert torch.equal(model.state_dict()[key], tensor)


@pytest.mark.parametrize("name", FAILING)
def test_failing_second_model_leaves_the_first_unchanged(name: str) -> None:
    build, error, message = FAILING[name]
    first = small_network()
    before = values(first)
    with pytest.raises(error, match=message):
        predict([first, build()])
    assert not changed(before, first)


def test_nothing_to_predict_is_an_error_that_says_why() -> None:
    with pytest.raises(PredictError, match="complex64"):
        predict(all_complex(), input_shape=(7,))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "weight",
    [
        "primitive_embedding.weight",
        "gnn.gru.bias_hh",
        "decoder.conv.2.bias",
        "decoder_1d.fc.2.weight",
        "bias_class.1.bias",
    ],
)
def test_broken_ghn_weights_change_nothing(weight: str, value: float) -> None:
    ghn = GHN(max_shape=MAX_SHAPE, num_classes=CLASSES, hid=HID)
    ghn.state_dict()[weight].fill_(value)
    model = small_network()
    before = values(model)
    with pytest.raises(PredictError, match=r"not finite") as caught:
        ghn.predict(model, input_shape=IMAGE)
    assert weight in str(caught.value)
    assert not changed(before, model)


def test_overflow_of_half_precision_changes_nothing() -> None:
    """Finite as the GHN computes it, infinite as the model would store it."""
    ghn = GHN(max_shape=MAX_SHAPE, num_classes=CLASSES, hid=HID, ve=False, layernorm=False, weight_norm=False)
    with torch.no_grad():
        ghn.decoder.conv[2].bias.fill_(1e6)
    model = small_network().half()
    before = values(model)
    with pytest.raises(PredictError, match="float16"):
        ghn.predict(model, input_shape=IMAGE)
    assert not changed(before, model)
    ghn.predict(small_network(), input_shape=IMAGE)


def test_wrong_input_shape_changes_nothing() -> None:
    model = small_network()
    before = values(model)
    with pytest.raises(TraceError, match="forward of Sequential failed"):
        predict(model, input_shape=(4, 16, 16))
    assert not changed(before, model)


@pytest.mark.parametrize("ghn", [3, nn.Linear(2, 2), {}, GHN])
def test_something_that_is_no_ghn(ghn: Any) -> None:
    model = small_network()
    before = values(model)
    with pytest.raises(GhnfastError, match="GHN"):
        ghnfast.predict(model, ghn, input_shape=IMAGE)
    assert not changed(before, model)


def test_unknown_ghn_name() -> None:
    with pytest.raises(GhnfastError, match="ghn9-cifar10"):
        ghnfast.predict(small_network(), "ghn9-cifar10", input_shape=IMAGE)


# The default -------------------------------------------------------------------------------------------------------


def checksum(model: nn.Module) -> list[float]:
    return [float(tensor.detach().double().abs().sum()) for tensor in model.parameters()]


DIGITS = (3, 32, 32)


@pytest.mark.parametrize(
    ("classes", "shape", "message"),
    [
        (10, (3, 16, 16), r"ghn2-mnist5k was trained on mnist5k, images of 3x32x32 in 10 classes, .* 3x16x16 in 10: "),
        (5, DIGITS, r"images of 3x32x32 in 10 classes, and the model is for 3x32x32 in 5: "),
        (1000, None, r"the model is for 3x224x224 in 1000: .* know nothing of its images\. Pass input_shape="),
    ],
)
def test_default_warns_of_other_images_and_classes(classes: int, shape: tuple[int, ...] | None, message: str) -> None:
    model = classifying_network(classes)
    with pytest.warns(DomainWarning, match=message) as caught:
        ghnfast.predict(model, input_shape=shape)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(DomainWarning, match=message) as caught:
        ghnfast.load("ghn2-mnist5k").predict([model], graph=[ghnfast.trace(model, input_shape=shape)])
    assert [warning.filename for warning in caught] == [__file__]


def test_default_takes_small_images_of_ten_classes_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, report = ghnfast.predict(classifying_network(10), input_shape=DIGITS, report=True)
        second = ghnfast.predict(classifying_network(10), "ghn2-mnist5k", input_shape=DIGITS)
        ghnfast.predict(nn.Sequential(conv(3, 8)), input_shape=DIGITS)  # no classes
        unknown = (torch.empty(2, 3, 16, 16),)  # it may be anything, and need not be images
        ghnfast.predict(classifying_network(10), example_inputs=unknown)
    assert report.coverage == 1
    assert_same(values(first), values(second))


def classifying_network(classes: int) -> nn.Sequential:
    return nn.Sequential(
        conv(3, 70), nn.BatchNorm2d(70), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(70, classes)
    )


def test_what_a_ghn_was_trained_on_is_saved_with_it(tmp_path: Path) -> None:
    for name in ("ghn.safetensors", "ghn.pt"):
        ghnfast.load("ghn2-mnist5k").save(tmp_path / name)
        with pytest.warns(DomainWarning, match=f"{name} was trained on mnist5k"):
            ghnfast.predict(classifying_network(7), tmp_path / name, input_shape=DIGITS)


def test_given_ghn_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ghnfast.predict(small_network(), ghn_of("ghn2"), input_shape=IMAGE)


def test_default_is_the_same_in_another_process() -> None:
    script = (
        "import torch, ghnfast\n"
        "torch.manual_seed(99); torch.rand(5)\n"
        "model = torch.nn.Sequential(torch.nn.Conv2d(3, 70, 3, padding=1), torch.nn.BatchNorm2d(70), torch.nn.ReLU(),\n"
        "    torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(70, 10))\n"
        "ghnfast.predict(model, input_shape=(3, 32, 32))\n"
        "print([float(t.detach().double().abs().sum()) for t in model.parameters()])\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    model = nn.Sequential(
        nn.Conv2d(3, 70, 3, padding=1), nn.BatchNorm2d(70), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(70, 10),
    )  # fmt: skip
    ghnfast.predict(model, input_shape=DIGITS)
    np.testing.assert_allclose(checksum(model), eval(ran.stdout), rtol=1e-6)


@pytest.fixture
def restored_defaults() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)
    torch.set_default_device(None)


@pytest.mark.usefixtures("restored_defaults")
@pytest.mark.parametrize(
    "change", [lambda: torch.set_default_dtype(torch.float64), lambda: torch.set_default_device("meta")]
)
def test_default_does_not_depend_on_torch_defaults(change: Callable[[], None]) -> None:
    expected = values(ghnfast.load("ghn2-mnist5k"))
    change()
    found = values(ghnfast.load("ghn2-mnist5k"))
    torch.set_default_device(None)
    assert_same(found, expected)


def test_default_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    ghnfast.load("ghn2-mnist5k")
    assert torch.equal(torch.get_rng_state(), state)


def test_default_made_in_inference_mode_can_be_trained() -> None:
    with torch.inference_mode():
        ghn = ghnfast.load("ghn2-mnist5k")
    ghn.train().embed(small_network(), input_shape=IMAGE).sum().backward()


def test_predicted_scales_are_reasonable() -> None:
    """Activations neither vanish nor explode with a random GHN: that is what dividing by fan-in is for."""
    model = nn.Sequential(*(layer for _ in range(4) for layer in (conv(64, 64), nn.BatchNorm2d(64), nn.ReLU())))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ghn = GHN()
    ghn.predict(model, input_shape=(64, 8, 8))
    x = torch.randn(4, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        result = model(x)
    assert bool(torch.isfinite(result).all())
    assert 1e-3 < float(result.std()) < 1e3


# Findings of reviews ----------------------------------------------------------------------------------------------


class TwoHeads(nn.Module):
    """As distilled transformers: the average of two classification layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.head_dist = conv(3, 8), nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).mean((2, 3))
        return (self.head(x) + self.head_dist(x)) / 2


def test_without_classifier_both_heads_are_left() -> None:
    model = TwoHeads()
    before = values(model)
    predict(model, classifier=False)
    assert changed(before, model) == {"body.weight"}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
@pytest.mark.parametrize("used", [True, False])
def test_dtype_is_the_reason_whatever_the_use(dtype: torch.dtype, used: bool) -> None:
    model = nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    model.extra = nn.Parameter(torch.ones(5, dtype=dtype), requires_grad=False)
    if used:
        model.register_forward_hook(lambda module, args, output: output * module.extra)
    _, report = predict(model, report=True)
    assert str(dtype) in report.skipped["extra"]


def test_device_that_cannot_be_used() -> None:
    with pytest.raises(PredictError, match="device 'nowhere' cannot be used"):
        ghnfast.load("ghn2-mnist5k", device="nowhere")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("hid", 32.0), ("hid", "32"), ("hid", True), ("num_classes", 2.5), ("max_shape", 5), ("max_shape", (8, 8, 3)),
     ("ve", "no"), ("layernorm", 1), ("weight_norm", None), ("hypernet", "gat"), ("decoder", "mlp")],
)  # fmt: skip
def test_settings_of_a_ghn_are_checked(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{setting} is .*accepted"):
        GHN(**{setting: value})


def test_epoch_survives(tmp_path: Path) -> None:
    ghn = GHN(max_shape=MAX_SHAPE, num_classes=CLASSES, hid=HID)
    ghn.epoch = 299
    ghn.save(tmp_path / "a.pt")
    ghnfast.load(tmp_path / "a.pt").save(tmp_path / "b.safetensors")
    assert ghnfast.load(tmp_path / "b.safetensors").epoch == 299


@pytest.mark.parametrize("setting", [{"hid": 2**20}, {"num_classes": 2**50}, {"max_shape": (2**20, 2**20, 3, 3)}])
def test_configuration_that_asks_for_any_amount_of_memory(tmp_path: Path, setting: dict[str, Any]) -> None:
    """Nothing is allocated for it: the weights are compared first."""
    ghn = GHN(max_shape=MAX_SHAPE, num_classes=CLASSES, hid=HID)
    content = {"state_dict": ghn.state_dict(), "config": {**ghn.config, **setting}, "epoch": 0}
    torch.save(content, tmp_path / "ghn.pt")
    with pytest.raises(ghnfast.CheckpointError):
        ghnfast.load(tmp_path / "ghn.pt")
