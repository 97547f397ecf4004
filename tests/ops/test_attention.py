"""ghnfast/ops/attention: what runs against what defines it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.attention import assert_same_attention, attention_inputs
from helpers.graphs import graph_of, random_graph, topology_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ghnfast import ArchGraph
from ghnfast.errors import BackendError, ConfigError
from ghnfast.graph import MAX_DISTANCE, Topology
from ghnfast.ops.attention import CODES, Relations, attention, naive_attention, relations_of
from ghnfast.ops.attention.operators import attention_op


def graph_of_size(nodes: int, seed: int) -> ArchGraph:
    """A chain with edges that skip up to eight nodes."""
    random = np.random.default_rng(seed)
    skips = {(max(0, node - int(random.integers(1, 9))), node) for node in range(1, nodes)}
    return graph_of(nodes, sorted({(node - 1, node) for node in range(1, nodes)} | skips))


def batch_of_sizes(sizes: list[int], cutoff: int = MAX_DISTANCE) -> Relations:
    return relations_of(topology_of(*(graph_of_size(size, at) for at, size in enumerate(sizes)), cutoff=cutoff))


# Relations ------------------------------------------------------------------------------------------------------------


def codes_of_pairs(topology: Topology) -> list[np.ndarray]:
    """The definition, pair by pair."""
    sizes = np.diff(topology.graph_offsets)
    matrices = [np.zeros((size, size), dtype=np.uint8) for size in sizes]
    for source, target, distance in zip(*topology.pairs(), strict=True):
        graph = int(np.searchsorted(topology.graph_offsets, target, side="right")) - 1
        row, column = source - topology.graph_offsets[graph], target - topology.graph_offsets[graph]
        if distance <= MAX_DISTANCE:
            matrices[graph][row, column] = distance
            matrices[graph][column, row] = MAX_DISTANCE + distance
    return matrices


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=4),
    cutoff=st.sampled_from([1, 2, 7, 50, 51, 200, 255]),
)
@example(shapes=[(90, 2, 0), (1, 1, 0)], cutoff=50)  # ends that are farther apart than any code says
@example(shapes=[(90, 2, 0), (1, 1, 0)], cutoff=60)
@example(shapes=[(20, 12, 1)], cutoff=50)  # more nodes than are transposed at once
def test_codes(shapes: list[tuple[int, int, int]], cutoff: int) -> None:
    topology = topology_of(*(random_graph(seed, *shape) for seed, shape in enumerate(shapes)), cutoff=cutoff)
    found = relations_of(topology).matrices()
    for matrix, wanted in zip(found, codes_of_pairs(topology), strict=True):
        np.testing.assert_array_equal(matrix, wanted)


def test_relations_are_made_once() -> None:
    topology = topology_of(random_graph(0, 5, 3, 1))
    assert relations_of(topology) is relations_of(topology)
    assert relations_of(topology).native is relations_of(topology).native
    assert relations_of(topology_of(random_graph(0, 5, 3, 1))) is not relations_of(topology)


# Values and gradients -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    heads=st.integers(1, 16),
    width=st.integers(1, 24),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    cutoff=st.sampled_from([1, 50]),
    seed=st.integers(0, 1000),
)
def test_random_batches(sizes: list[int], heads: int, width: int, dtype: torch.dtype, cutoff: int, seed: int) -> None:
    relations = batch_of_sizes(sizes, cutoff)
    assert_same_attention(relations, *attention_inputs(relations, heads, width, dtype, seed))


@pytest.mark.parametrize(("heads", "width"), [(8, 8), (16, 8), (16, 16), (16, 24), (1, 1), (17, 3), (40, 2), (5, 100)])
def test_widths_and_heads(heads: int, width: int) -> None:
    """Those that are published; one lane of a vector, more than one vector, and widths beyond all."""
    relations = batch_of_sizes([70, 3, 1])
    assert_same_attention(relations, *attention_inputs(relations, heads, width))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_graph(dtype: torch.dtype) -> None:
    relations = batch_of_sizes([1000])
    assert_same_attention(relations, *attention_inputs(relations, 8, 8, dtype))


def test_thousands_of_nodes() -> None:
    """Forward alone, for the definition needs a matrix of all pairs for each head."""
    relations = batch_of_sizes([3000, 40])
    qkv, table, _ = attention_inputs(relations, 2, 8)
    with torch.no_grad():
        found, wanted = attention(qkv, table, relations), naive_attention(qkv, table, relations)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factor", [0.0, 1e-30, 30.0, 1e4])
def test_logits_of_any_size(factor: float) -> None:
    """Shares that are all the same, and those that are 0 but for one: no exponential is infinite.

    What logits are rounded to makes large ones differ: by no more than the definition's do.
    """
    relations = batch_of_sizes([60, 5])
    errors = np.zeros(2)
    for seed in range(5):
        single = [x.detach() for x in attention_inputs(relations, 4, 8, seed=seed)[:2]]
        single[0] *= factor
        exact = naive_attention(single[0].double(), single[1].double(), relations)
        found = [function(single[0], single[1], relations) for function in (attention, naive_attention)]
        assert found[0].isfinite().all()
        errors += [float((each - exact).abs().max()) for each in found]
    assert errors[0] <= 3 * errors[1] + 1e-5 * factor


def test_each_graph_of_a_batch_gives_what_it_gives_alone() -> None:
    sizes = [60, 1, 33, 7]
    together = batch_of_sizes(sizes)
    qkv, table, grad = attention_inputs(together, 8, 8)
    result = attention(qkv, table, together)
    (grad_qkv,) = torch.autograd.grad(result, [qkv], grad)
    for at, part in enumerate(zip(*(x.split(sizes) for x in (qkv.detach(), result, grad, grad_qkv)), strict=True)):
        own, wanted, own_grad, wanted_grad = part
        relations = relations_of(topology_of(graph_of_size(sizes[at], at)))
        own = own.clone().requires_grad_()
        found = attention(own, table, relations)
        assert torch.equal(found, wanted)
        assert torch.equal(torch.autograd.grad(found, [own], own_grad)[0], wanted_grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads(dtype: torch.dtype) -> None:
    """The same bits in every run; those of the result, and of the queries' gradient, for all numbers of threads."""
    relations = batch_of_sizes([100, 5, 37, 1, 20])
    qkv, table, grad = attention_inputs(relations, 12, 8, dtype)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 1, 2, 2, 3, 3, 7, 7):
            torch.set_num_threads(threads)
            result = attention(qkv, table, relations)
            found.append([result.detach(), *torch.autograd.grad(result, [qkv, table], grad)])
    finally:
        torch.set_num_threads(before)
    for first, again in zip(found[::2], found[1::2], strict=True):
        assert all(map(torch.equal, first, again))
        assert torch.equal(first[0], found[0][0])
        assert torch.equal(first[1][:, : 12 * 8], found[0][1][:, : 12 * 8])
        for some, others in zip(first, found[0], strict=True):
            torch.testing.assert_close(some, others, rtol=1e-5, atol=1e-5 * float(others.abs().max()))


def test_tensors_that_are_not_contiguous() -> None:
    relations = batch_of_sizes([20, 30])
    qkv, table, grad = attention_inputs(relations, 4, 8, torch.float64)
    wanted = attention(qkv, table, relations)
    gradients = torch.autograd.grad(wanted, [qkv, table], grad)
    wide = torch.cat([qkv.detach(), qkv.detach()], 1)[:, : qkv.shape[1]].requires_grad_()
    turned = table.detach().t().contiguous().t().requires_grad_()
    for each in (attention(wide, turned, relations), attention(wide.detach(), turned.detach(), relations)):
        assert torch.equal(each, wanted)
    found = torch.autograd.grad(attention(wide, turned, relations), [wide, turned], grad.t().contiguous().t())
    assert all(map(torch.equal, found, gradients))
    spread = torch.autograd.grad(attention(qkv, table, relations).sum(), [qkv, table])  # a gradient without strides
    full = torch.autograd.grad(attention(qkv, table, relations), [qkv, table], torch.ones_like(grad))
    assert all(map(torch.equal, spread, full))


@pytest.mark.parametrize("asked", [(True, False), (False, True)])
def test_a_gradient_of_one_of_them(asked: tuple[bool, bool]) -> None:
    relations = batch_of_sizes([12])
    qkv, table, grad = attention_inputs(relations, 2, 4, torch.float64)
    qkv, table = (tensor.detach().requires_grad_(wanted) for tensor, wanted in zip((qkv, table), asked, strict=True))
    chosen = (qkv, table)[asked.index(True)]
    found = torch.autograd.grad(attention(qkv, table, relations), [chosen], grad)[0]
    wanted = torch.autograd.grad(naive_attention(qkv, table, relations), [chosen], grad)[0]
    torch.testing.assert_close(found, wanted)


# What is not a number -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("part", ["query", "key", "value"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("heads", [1, 4, 8, 16])
def test_what_is_not_finite_goes_where_it_should(heads: int, value: float, part: str, dtype: torch.dtype) -> None:
    relations = batch_of_sizes([40, 9, 70])
    qkv, table, _ = (tensor.detach() for tensor in attention_inputs(relations, heads, 4, dtype))
    at = ["query", "key", "value"].index(part)
    qkv.view(-1, 3, heads, 4)[5, at, heads // 2, 2] = value
    qkv.view(-1, 3, heads, 4)[118, at, heads - 1, 0] = value  # the last node
    found, wanted = attention(qkv, table, relations), naive_attention(qkv, table, relations)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert not wanted.isfinite().all()
    assert wanted[40:49].isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("codes", [[0], [1, 51], [7], list(range(CODES))])
def test_a_bias_that_is_not_finite(codes: list[int], value: float) -> None:
    """Minus infinity leaves pairs out; all of a node's, and its result is not a number."""
    relations = batch_of_sizes([70, 1, 5])
    qkv, table, grad = attention_inputs(relations, 4, 4, torch.float64)
    table = table.detach()
    table[codes, 1] = value
    table.requires_grad_()
    found, wanted = attention(qkv, table, relations), naive_attention(qkv, table, relations)
    torch.testing.assert_close(found, wanted, equal_nan=True)
    found_grad, wanted_grad = (torch.autograd.grad(each, [qkv], grad)[0] for each in (found, wanted))
    torch.testing.assert_close(found_grad, wanted_grad, equal_nan=True)


def test_a_nan_with_a_payload_stays_one() -> None:
    """Whatever its lowest bits are, which exponents are made from."""
    relations = batch_of_sizes([20])
    qkv, table, _ = (tensor.detach() for tensor in attention_inputs(relations, 8, 8))
    for bits in (0x7FC00001, 0x7FC000FF, -0x3FFE02):
        qkv.view(torch.int32)[3, 70] = bits
        assert qkv[3, 70].isnan()
        assert attention(qkv, table, relations)[:, :8].isnan().all()


# The operator ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [True, False])
def test_operator(keep: bool) -> None:
    """Schema, fake implementation, autograd registration and torch.compile's view of the operator."""
    relations = batch_of_sizes([9, 4])
    qkv, table, _ = attention_inputs(relations, 4, 3)
    arrays = [torch.from_numpy(relations.graph_offsets), torch.from_numpy(relations.codes)]
    if not keep:
        qkv, table = qkv.detach(), table.detach()
    torch.library.opcheck(attention_op, (qkv, table, arrays, keep))


@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize(("heads", "width"), [(1, 3), (2, 2), (3, 1)])
def test_gradcheck(monkeypatch: pytest.MonkeyPatch, backend: str, heads: int, width: int) -> None:
    monkeypatch.setenv("GHNFAST_BACKEND", backend)
    relations = batch_of_sizes([5, 1, 3])
    qkv, table, _ = attention_inputs(relations, heads, width, torch.float64)
    assert torch.autograd.gradcheck(lambda qkv, table: attention(qkv, table, relations), (qkv, table))


def test_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    relations = batch_of_sizes([9, 4])
    qkv, table, _ = attention_inputs(relations, 4, 3)
    naive = naive_attention(qkv, table, relations)
    monkeypatch.setenv("GHNFAST_BACKEND", "torch")
    assert torch.equal(attention(qkv, table, relations), naive)
    monkeypatch.setenv("GHNFAST_BACKEND", "cpp")
    assert "naive" not in str(attention(qkv, table, relations).grad_fn)
    torch.testing.assert_close(attention(qkv, table, relations), naive)
    with pytest.raises(BackendError, match=r"the GHN is torch\.bfloat16 on cpu; float32 and float64 on the CPU are"):
        attention(qkv.bfloat16(), table.bfloat16(), relations)


def test_half_precision_on_the_cpu_is_plain_pytorch() -> None:
    relations = batch_of_sizes([9])
    qkv, table, _ = (tensor.bfloat16() for tensor in attention_inputs(relations, 4, 3))
    assert torch.equal(attention(qkv, table, relations), naive_attention(qkv, table, relations))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_round(dtype: torch.dtype) -> None:
    """qkv and the table may come rounded, from linear layers; everything in attention is float32."""
    relations = batch_of_sizes([20, 4])
    rounded = [tensor.detach().to(dtype).requires_grad_() for tensor in attention_inputs(relations, 4, 8)[:2]]
    with torch.autocast("cpu", dtype=dtype):
        found = attention(rounded[0], rounded[1], relations)
        grads = torch.autograd.grad(found.square().sum(), rounded)
    assert found.dtype == torch.float32
    assert [grad.dtype for grad in grads] == [dtype, dtype]
    wanted = naive_attention(rounded[0].float(), rounded[1].float(), relations)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    doubles = [tensor.detach().double() for tensor in rounded]
    with torch.autocast("cpu", dtype=dtype):
        assert attention(doubles[0], doubles[1], relations).dtype == torch.float64


def test_what_is_computed_in_inference_serves_training() -> None:
    relations = batch_of_sizes([9])
    qkv, table, grad = attention_inputs(relations, 4, 3)
    with torch.inference_mode():
        first = attention(qkv, table, relations)
    result = attention(qkv, table, relations)
    assert torch.equal(first, result)
    result.backward(grad)
    assert qkv.grad is not None


# What does not fit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize(
    ("qkv", "table", "message"),
    [
        ((9, 25), (CODES, 4), r"qkv has shape \(9, 25\) and the table \(101, 4\); \(nodes, 3 heads width\) and"),
        ((9, 0), (CODES, 4), r"qkv has shape \(9, 0\)"),
        ((9, 4), (CODES, 4), r"qkv has shape \(9, 4\)"),
        ((9, 24, 1), (CODES, 4), r"qkv has shape \(9, 24, 1\)"),
        ((24,), (CODES, 4), r"qkv has shape \(24,\)"),
        ((9, 24), (CODES - 1, 4), r"the table \(100, 4\)"),
        ((9, 24), (CODES,), r"the table \(101,\)"),
        ((9, 24), (CODES, 0), r"the table \(101, 0\)"),
        ((8, 24), (CODES, 4), "qkv has 8 nodes and the graphs 9; equals are accepted"),
    ],
)
def test_sizes_that_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, backend: str, qkv: tuple[int, ...], table: tuple[int, ...], message: str
) -> None:
    monkeypatch.setenv("GHNFAST_BACKEND", backend)
    with pytest.raises(ConfigError, match=message):
        attention(torch.zeros(qkv), torch.zeros(table), batch_of_sizes([9]))


def test_dtypes_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"qkv is torch\.float32 on cpu and the table torch\.float64 on cpu; equals"):
        attention(torch.zeros(9, 24), torch.zeros(CODES, 4, dtype=torch.float64), batch_of_sizes([9]))
