"""Linear layers of many sizes, and the embedding of nodes, against their definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.kernel_device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ghnfast.nn.config import GHNConfig
from ghnfast.nn.graphormer import GraphormerLayer
from ghnfast.ops.decode import FINE
from ghnfast.ops.layers import (
    Activation,
    Layer,
    Stages,
    StageTables,
    Weights,
    addresses_of,
    arrays_of,
    begin_attention,
    embed,
    naive_embedding,
    naive_layers,
    parts_of,
    rest_of_attention,
    run_layers,
)
from ghnfast.ops.layers.layer import FETCHED_BYTES, PART
from ghnfast.ops.uploads import uploaded

NODES, HID = 9, 12


def on_device(tensors: list[Tensor]) -> Weights:
    tensors = [tensor.to(DEVICE) for tensor in tensors]
    return Weights(tensors, *uploaded([addresses_of(tensors), parts_of(tensors)], torch.device(DEVICE)))


def both(stages: Stages, weights: list[Tensor], states: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """What the kernels make of scratch, and the definition."""
    wanted = scratch.clone()
    naive_layers(wanted, states, weights, stages)
    arrays, ends = arrays_of(stages)
    found = scratch.to(DEVICE)
    tables = StageTables(uploaded(arrays, torch.device(DEVICE)), ends)
    run_layers(found, states.to(DEVICE), on_device(weights), tables, 0, len(stages.stages))
    return found.cpu(), wanted


@st.composite
def layers(draw: Any) -> tuple[Layer, list[int]]:
    """A layer that writes behind 3,000 elements that it may read, with weights 0 to 3 (see `weights_of`), and rows."""
    rows, outputs, inputs = draw(st.integers(1, 40)), draw(st.integers(1, 90)), draw(st.integers(1, 40))
    from_states = draw(st.booleans())
    inputs = min(inputs, HID) if from_states else inputs
    gather = draw(st.booleans()) or from_states
    source = draw(st.lists(st.integers(0, NODES - 1), min_size=rows, max_size=rows))
    inner = draw(st.integers(1, outputs))
    transposed, x_columns = draw(st.booleans()), draw(st.booleans())
    options: dict[str, Any] = {
        "activation": draw(st.sampled_from(Activation)),
        "from_states": from_states,
        "x_row": HID if from_states else 1 if x_columns else inputs,
        "x_in": rows if x_columns and not from_states else 1,
        "gather": 2 if gather else -1,
        "weight_first": draw(st.integers(0, 5)),
        "weight_outer": draw(st.integers(0, 50)),
        "weight_in": draw(st.sampled_from([1, 2])),
        "bias_outer": draw(st.integers(0, 3)),
        "inner": inner,
        "y_row": 1 if transposed else outputs + 3,
        "y_out": rows + 2 if transposed else 1,
        "residual": draw(st.sampled_from([-1, 0])) if max(rows + 2, outputs + 3) * max(rows, outputs) < 3000 else -1,
        "norm": draw(st.sampled_from([-1, 2])),
        "epsilon": 1e-5,
    }
    return Layer(
        x=7 if not from_states else 0, weight=draw(st.sampled_from([0, -1])), bias=draw(st.sampled_from([1, -1])),
        rows=rows, outputs=outputs, inputs=inputs, y=3000, **options,
    ), [0, 0, *source]  # fmt: skip


def weights_of(inputs: int = 60) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=generator) for size in (20_000, 1_000, inputs, inputs)]


@given(layers())
@settings(max_examples=40, deadline=None)
def test_one_layer(drawn: tuple[Layer, list[int]]) -> None:
    layer, rows = drawn
    generator = torch.Generator().manual_seed(0)
    scratch = torch.randn(3000 + 100 * 100, generator=generator)
    states = torch.randn(NODES, HID, generator=generator)
    constants = torch.randn(20_000, generator=generator).numpy()
    stages = Stages([[layer]], np.array(rows, dtype=np.int32), constants, len(scratch))
    found, wanted = both(stages, weights_of(layer.inputs), states, scratch)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_stages_read_what_those_before_them_wrote() -> None:
    sizes = [(5, 12, 30), (5, 30, 70), (5, 70, 3)]
    starts = [0, 60, 60 + 150, 60 + 150 + 350]
    stages = [
        [Layer(x=x, weight=0, bias=1, rows=rows, outputs=outputs, inputs=inputs, y=y, activation=Activation.RELU)]
        for (rows, inputs, outputs), x, y in zip(sizes, starts, starts[1:], strict=False)
    ]
    stages[1].append(stages[1][0]._replace(y=900, weight=2, weight_out=0, activation=Activation.NONE, bias=-1))
    scratch = torch.randn(1300)
    every = Stages(stages, np.zeros(0, np.int32), np.zeros(0, np.float32), 1300)
    found, wanted = both(every, weights_of(), torch.zeros(1, 1), scratch)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, which interprets the kernels
def test_what_is_not_finite_stays(value: float) -> None:
    layer = Layer(x=0, weight=0, bias=-1, rows=2, outputs=3, inputs=4, y=8, activation=Activation.RELU)
    scratch = torch.ones(14)
    scratch[1] = value
    found, wanted = both(
        Stages([[layer]], np.zeros(0, np.int32), np.zeros(0, np.float32), 14), weights_of(), torch.zeros(1, 1), scratch
    )
    torch.testing.assert_close(found, wanted, equal_nan=True)


@pytest.mark.parametrize("hid", [4, 8, 36])
@pytest.mark.parametrize("columns", [5, 8])
def test_embedding(hid: int, columns: int) -> None:
    generator = np.random.default_rng(hid)
    sizes = [15, 30, 9, 4, 5, 6][: 3 if columns == 5 else 6]
    widths = [hid, hid // 4, hid // 4, hid, hid, hid]
    tables = [torch.randn(size, width) for size, width in zip(sizes, widths, strict=False)]
    which = [0, 1, 1, 2, 2, 3, 4, 5][:columns]
    indices = np.stack([generator.integers(0, sizes[table], 21) for table in which], axis=1).astype(np.int32)
    states, status = torch.empty(21, hid, device=DEVICE), torch.zeros((), dtype=torch.int32, device=DEVICE)
    embed(states, status, uploaded([indices], torch.device(DEVICE))[0], on_device(tables))
    torch.testing.assert_close(states.cpu(), naive_embedding(indices, tables))
    assert int(status) == FINE


def attention_weights(layers: list[GraphormerLayer]) -> list[Tensor]:
    """In the order of their numbers."""
    parts = [
        part
        for each in layers
        for part in (each.ln1, each.attn.to_qkv, each.attn.to_out[0], each.ln2, each.ff.net[0], each.ff.net[3])
    ]
    return [weight.detach() for part in parts for weight in part._parameters.values() if weight is not None]


@given(st.integers(1, 40), st.sampled_from([4, 12, 16, 64]), st.booleans())
@settings(max_examples=12, deadline=None)
@torch.no_grad()
def test_a_layer_around_its_attention(nodes: int, hid: int, is_last: bool) -> None:
    torch.manual_seed(nodes + hid)
    layers = [GraphormerLayer(GHNConfig(hid=hid, heads=1), False) for _ in range(1 if is_last else 2)]
    for weight in attention_weights(layers):
        weight.add_(torch.randn_like(weight), alpha=0.2)
    x, attended = torch.randn(nodes, hid), torch.randn(nodes, hid)
    states, qkv = (torch.full((nodes, hid * width), torch.nan, device=DEVICE) for width in (1, 3))
    states.copy_(x)
    # Some other weight comes before the layers'.
    weights, following = (
        on_device([torch.zeros(1), *attention_weights(layers)]),
        None if is_last else layers[-1].ln1.eps,
    )
    rest_of_attention(states, attended.to(DEVICE), qkv, weights, 1, 0, layers[0].ln2.eps, following)
    # The definition in double precision: in single its sums over wide states are off by 1e-5, too.
    exact, x = [layer.double() for layer in layers], x.double()
    x += exact[0].attn.to_out(attended.double())
    x += exact[0].ff(exact[0].ln2(x))
    torch.testing.assert_close(states.cpu().double(), x, rtol=1e-5, atol=3e-5)
    if is_last:
        assert qkv.isnan().all()
    else:
        wanted = exact[1].attn.to_qkv(exact[1].ln1(x))
        torch.testing.assert_close(qkv.cpu().double(), wanted, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize(("nodes", "hid"), [(1, 4), (37, 12), (16, 64)])
@torch.no_grad()
def test_what_comes_before_attention(nodes: int, hid: int) -> None:
    torch.manual_seed(0)
    layer = GraphormerLayer(GHNConfig(hid=hid, heads=1), False)
    widths = [hid, hid // 4, hid // 4, hid, hid, hid]
    tables = [torch.randn(9, width) for width in widths]
    indices = torch.randint(9, (nodes, 8), dtype=torch.int32).numpy()
    states, qkv = (torch.empty(nodes, hid * width, device=DEVICE) for width in (1, 3))
    status, weights = torch.zeros((), dtype=torch.int32, device=DEVICE), [*tables, *attention_weights([layer])]
    (on_gpu,) = uploaded([indices], torch.device(DEVICE))
    begin_attention(states, status, qkv, on_gpu, on_device(weights), len(tables), layer.ln1.eps)
    wanted = naive_embedding(indices, tables)
    torch.testing.assert_close(states.cpu(), wanted)
    torch.testing.assert_close(qkv.cpu(), layer.attn.to_qkv(layer.ln1(wanted)), rtol=1e-5, atol=1e-5)
    assert int(status) == FINE


@given(sizes=st.lists(st.one_of(st.integers(1, 99), st.integers(PART - 1, 3 * PART + 1)), min_size=1, max_size=5))
def test_parts_that_are_fetched_are_all_of_the_weights(sizes: list[int]) -> None:
    tensors = [torch.empty(size) for size in sizes]
    parts = parts_of(tensors)
    assert (parts[:, 1] <= PART).all()
    found = {int(address) + 4 * index for address, elements in parts for index in (0, elements - 1)}
    assert len(parts) == sum(-(-size // PART) for size in sizes)
    assert parts[:, 1].sum() == sum(sizes)
    for tensor in tensors:
        assert {tensor.data_ptr(), tensor[-1:].data_ptr()} <= found


def test_weights_that_would_fill_the_cache_are_not_fetched() -> None:
    assert parts_of([torch.empty(8), torch.empty(FETCHED_BYTES // 4)]).shape == (0, 2)
