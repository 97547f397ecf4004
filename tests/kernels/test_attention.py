"""kernels/attention.py against the definition."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.attention import assert_same_attention, attention_inputs
from helpers.graphs import graph_of, random_graph, topology_of
from helpers.kernel_device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ghnfast.errors import BackendError
from ghnfast.kernels.attention import BLOCK, tiles_of
from ghnfast.ops.attention import CODES, Relations, attention, naive_attention, relations_of
from ghnfast.ops.attention.operators import attention_op, triton_tables


def batch_of(*shapes: tuple[int, int, int], cutoff: int = 50) -> Relations:
    graphs = (random_graph(seed, *shape) for seed, shape in enumerate(shapes))
    return relations_of(topology_of(*graphs, cutoff=cutoff))


def leaves(relations: Relations, heads: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    qkv, table, grad = attention_inputs(relations, heads, width, seed=seed, device=DEVICE)
    return qkv.detach().requires_grad_(), table.detach().requires_grad_(), grad


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    shapes=st.lists(st.tuples(st.integers(1, 8), st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=3),
    heads=st.integers(1, 3),
    width=st.integers(1, 24),
    cutoff=st.sampled_from([1, 50]),
)
def test_random_batches(seed: int, shapes: list[tuple[int, int, int]], heads: int, width: int, cutoff: int) -> None:
    relations = batch_of(*shapes, cutoff=cutoff)
    assert_same_attention(relations, *leaves(relations, heads, width, seed))


@pytest.mark.parametrize(("heads", "width"), [(8, 8), (2, 16), (2, 24), (1, 1), (1, 100)])
def test_widths(heads: int, width: int) -> None:
    """Those that are published, padded ones, and those that take more warps."""
    relations = batch_of((4, 2, 1), (1, 1, 0))
    assert_same_attention(relations, *leaves(relations, heads, width))


@pytest.mark.parametrize("nodes", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_blocks(nodes: int) -> None:
    """Ends of blocks at ends of graphs, and beyond; the last: ends that are more than 50 hops apart."""
    graph = graph_of(nodes, [(i, i + 1) for i in range(nodes - 1)])
    relations = relations_of(topology_of(graph, graph_of(1, []), graph))
    assert_same_attention(relations, *leaves(relations, 2, 8))


def test_every_node_is_in_one_tile() -> None:
    relations = batch_of((20, 4, 1), (1, 1, 0), (9, 3, 1))
    sizes = (relations.graph_offsets[1:] - relations.graph_offsets[:-1]).tolist()
    found = [
        (graph, node)
        for graph, first in tiles_of(relations.graph_offsets).tolist()
        for node in range(first, min(first + BLOCK, sizes[graph]))
    ]
    assert found == [(graph, node) for graph, size in enumerate(sizes) for node in range(size)]


def test_results_are_the_same_in_every_run_and_in_every_batch() -> None:
    shapes = [(4, 3, 1), (8, 4, 1), (1, 1, 0)]
    graphs = [random_graph(seed, *shape) for seed, shape in enumerate(shapes)]
    relations = relations_of(topology_of(*graphs))
    qkv, table, grad = leaves(relations, 2, 8)

    def run(relations: Relations, qkv: Tensor, grad: Tensor) -> list[Tensor]:
        qkv = qkv.detach().requires_grad_()
        result = attention(qkv, table, relations)
        return [result.detach(), *torch.autograd.grad(result, [qkv, table], grad)]

    first, again = (run(relations, qkv, grad) for _ in range(2))
    assert all(map(torch.equal, first, again))
    sizes = [len(graph) for graph in graphs]
    parts = zip(graphs, qkv.split(sizes), grad.split(sizes), strict=True)
    alone = [run(relations_of(topology_of(graph)), own, own_grad) for graph, own, own_grad in parts]
    for at in (0, 1):
        assert torch.equal(torch.cat([each[at] for each in alone]), first[at])


def test_without_gradients_nothing_is_kept() -> None:
    relations = batch_of((3, 2, 1))
    qkv, table, _ = leaves(relations, 2, 8)
    tables = triton_tables(relations, qkv.device)
    with torch.no_grad():
        result, nothing = attention_op(qkv, table, tables, False)
        assert torch.equal(attention(qkv, table, relations), result)
        kept = attention_op(qkv, table, tables, True)
    assert nothing.shape == (0, 2)
    assert torch.equal(kept[0], result)
    assert kept[1].shape == (len(qkv), 2)


def test_operator() -> None:
    """Schema, fake implementation, autograd registration and torch.compile's view of the operator."""
    relations = batch_of((3, 2, 1), (2, 2, 1))
    qkv, table, _ = leaves(relations, 2, 8)
    torch.library.opcheck(attention_op, (qkv, table, triton_tables(relations, qkv.device), True))


def test_tensors_that_are_not_contiguous() -> None:
    relations = batch_of((5, 2, 1))
    qkv, table, grad = leaves(relations, 2, 8)
    wanted = attention(qkv, table, relations)
    gradients = torch.autograd.grad(wanted, [qkv, table], grad)
    wide = torch.cat([qkv.detach(), qkv.detach()], 1)[:, : qkv.shape[1]].requires_grad_()
    turned = table.detach().t().contiguous().t().requires_grad_()
    result = attention(wide, turned, relations)
    assert torch.equal(result, wanted)
    found = torch.autograd.grad(result, [wide, turned], grad.t().contiguous().t())
    assert all(map(torch.equal, found, gradients))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_round(dtype: torch.dtype) -> None:
    """qkv and the table may come rounded, from linear layers; everything in attention is float32."""
    relations = batch_of((4, 2, 1))
    rounded = [tensor.detach().to(dtype).requires_grad_() for tensor in leaves(relations, 2, 8)[:2]]
    with torch.autocast(DEVICE, dtype=dtype):
        found = attention(rounded[0], rounded[1], relations)
        grads = torch.autograd.grad(found.square().sum(), rounded)
    assert found.dtype == torch.float32
    assert [grad.dtype for grad in grads] == [dtype, dtype]
    wanted = naive_attention(rounded[0].float(), rounded[1].float(), relations)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_what_triton_does_not_take() -> None:
    relations = batch_of((4, 2, 1))
    qkv, table, _ = attention_inputs(relations, 2, 8, torch.float64, device=DEVICE)
    with pytest.raises(BackendError, match=r"'triton', and the GHN is torch\.float64; float32 is accepted"):
        attention(qkv, table, relations)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, which interprets the kernels
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_what_is_not_finite_goes_where_it_should(part: str, value: float) -> None:
    relations = batch_of((10, 3, 1), (4, 2, 1), (9, 3, 1))
    qkv, table, _ = (tensor.detach() for tensor in leaves(relations, 2, 4))
    at = ["query", "key", "value"].index(part)
    qkv.view(-1, 3, 2, 4)[1, at, 1, 2] = value
    qkv.view(-1, 3, 2, 4)[-1, at, 0, 0] = value
    found, wanted = attention(qkv, table, relations), naive_attention(qkv, table, relations)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert not wanted.isfinite().all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("codes", [[0], [1, 51], list(range(CODES))])
def test_a_bias_that_is_not_finite(codes: list[int], value: float) -> None:
    """Minus infinity leaves pairs out; all of a node's, and its result is not a number."""
    relations = batch_of((10, 3, 1), (1, 1, 0))
    qkv, table, _ = (tensor.detach() for tensor in leaves(relations, 2, 4))
    table[codes, 1] = value
    found, wanted = attention(qkv, table, relations), naive_attention(qkv, table, relations)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_tables_that_inference_made_serve_training() -> None:
    relations = batch_of((3, 2, 1))
    qkv, table, grad = leaves(relations, 2, 8)
    with torch.inference_mode():
        attention(qkv, table, relations)
    attention(qkv, table, relations).backward(grad)
