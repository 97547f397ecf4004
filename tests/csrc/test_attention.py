"""csrc/attention on plain arrays, with every instruction set of the machine."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers.arrays import Array, Batch

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}
CODES = 101


class Case:
    """Random inputs for random graphs."""

    def __init__(self, core: ModuleType, sizes: list[int], heads: int, width: int, dtype: Any = np.float64) -> None:
        random = np.random.default_rng(heads * width)
        self.heads, self.sizes, self.offsets = heads, sizes, np.cumsum([0, *sizes])
        self.codes = np.concatenate([np.zeros(0, np.uint8), *(random.integers(0, CODES, s * s) for s in sizes)])
        self.codes = self.codes.astype(np.uint8)
        self.relations = core.Relations(self.offsets, self.codes)
        nodes = int(self.offsets[-1])
        self.qkv = random.standard_normal((nodes, 3 * heads * width)).astype(dtype)
        self.table = (2 * random.standard_normal((CODES, heads))).astype(dtype)
        self.grad = random.standard_normal((nodes, heads * width)).astype(dtype)

    def result(self) -> tuple[Array, Array]:
        """The definition, graph by graph: results and logarithms of sums."""
        queries, keys, values = (
            self.qkv.astype(np.float64).reshape(len(self.qkv), 3, self.heads, -1).transpose(1, 0, 2, 3)
        )
        results, sums, start = [], [], 0
        for first, size in zip(self.offsets, self.sizes, strict=False):
            if size == 0:
                continue
            part = slice(first, first + size)
            bias = self.table[self.codes[start : start + size * size].reshape(size, size)].astype(np.float64)
            start += size * size
            logits = np.einsum("iak,jak->ija", queries[part], keys[part]) / np.sqrt(queries.shape[2]) + bias
            weights = np.exp(logits - logits.max(1, keepdims=True))
            results.append(np.einsum("ija,jak->iak", weights / weights.sum(1, keepdims=True), values[part]))
            sums.append(np.log(weights.sum(1)) + logits.max(1))
        return np.concatenate(results).reshape(len(self.qkv), -1), np.concatenate(sums)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("heads", "width"), [(1, 1), (2, 5), (3, 8), (8, 8), (16, 24), (21, 2)])
def test_results_are_those_of_the_definition(
    core: ModuleType, instruction_set: str, heads: int, width: int, dtype: Any, threads: int
) -> None:
    case = Case(core, [1, 70, 2, 33, 0, 5], heads, width, dtype)
    result, sums = core.attention(case.qkv, case.table, case.relations, True, threads)
    wanted, wanted_sums = case.result()
    assert result.dtype == sums.dtype == dtype
    np.testing.assert_allclose(result, wanted, rtol=0, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(sums, wanted_sums, rtol=0, atol=10 * TOLERANCE[dtype])
    again, nothing = core.attention(case.qkv, case.table, case.relations, False, threads)
    np.testing.assert_array_equal(again, result)
    assert nothing.shape == (0, heads)


@pytest.mark.parametrize("sizes", [[], [0], [1], [1, 1, 1], [0, 3, 0], [257]])
def test_sizes_of_graphs(core: ModuleType, instruction_set: str, sizes: list[int]) -> None:
    case = Case(core, sizes, 4, 3)
    result, sums = core.attention(case.qkv, case.table, case.relations, True, 2)
    assert result.shape == case.grad.shape
    if sum(sizes):
        np.testing.assert_allclose(result, case.result()[0], rtol=0, atol=1e-12)
    grads = core.attention_backward(case.grad, case.qkv, case.table, case.relations, result, sums, 2)
    assert [grad.shape for grad in grads] == [case.qkv.shape, case.table.shape]


@pytest.mark.parametrize(("heads", "width"), [(1, 1), (3, 4), (8, 8), (16, 3), (18, 2)])
def test_gradients_are_those_of_finite_differences(
    core: ModuleType, instruction_set: str, heads: int, width: int
) -> None:
    case = Case(core, [1, 12, 37], heads, width)
    result, sums = core.attention(case.qkv, case.table, case.relations, True, 2)
    grads = core.attention_backward(case.grad, case.qkv, case.table, case.relations, result, sums, 2)

    def value(qkv: Array, table: Array) -> float:
        return float((case.grad * core.attention(qkv, table, case.relations, False, 1)[0]).sum())

    random, step = np.random.default_rng(3), 1e-6
    for index, gradient in enumerate(grads):
        direction = random.standard_normal(gradient.shape)
        ahead, behind = (
            value(*(x + (sign * step * direction if at == index else 0) for at, x in enumerate((case.qkv, case.table))))
            for sign in (1, -1)
        )
        assert (gradient * direction).sum() == pytest.approx((ahead - behind) / (2 * step), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("threads", [2, 3, 8, 1000])
def test_gradients_in_single_precision_and_on_threads(core: ModuleType, instruction_set: str, threads: int) -> None:
    """Shares of threads begin and end within graphs, and in every group of heads."""
    case = Case(core, [25, 12, 7, 100, 1], 17, 4)
    result, sums = core.attention(case.qkv, case.table, case.relations, True, 1)
    exact = core.attention_backward(case.grad, case.qkv, case.table, case.relations, result, sums, 1)
    grad, qkv, table = (x.astype(np.float32) for x in (case.grad, case.qkv, case.table))
    rounded = []
    for _ in range(2):
        result, sums = core.attention(qkv, table, case.relations, True, threads)
        rounded.append(core.attention_backward(grad, qkv, table, case.relations, result, sums, threads))
    for wanted, first, again in zip(exact, *rounded, strict=True):
        np.testing.assert_array_equal(first, again)  # equal threads, equal bits
        np.testing.assert_allclose(first, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


def test_results_do_not_depend_on_threads(core: ModuleType, instruction_set: str) -> None:
    case = Case(core, [25, 100, 1], 5, 4, np.float32)
    results = [core.attention(case.qkv, case.table, case.relations, True, threads) for threads in (1, 2, 5)]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponentials(core: ModuleType, instruction_set: str, dtype: Any) -> None:
    """Over their whole range: two keys, of which one has a logit of 0, and of the other the value 1."""
    logits = np.concatenate([-np.linspace(0, 120, 4001), -np.logspace(-12, 4, 500), [-np.inf, -745.0, -87.4, -103.9]])
    for start in range(0, len(logits), CODES - 1):
        part = logits[start : start + CODES - 1].astype(dtype)
        for code in range(len(part)):
            table = np.zeros((2, 1), dtype)
            table[1] = part[code]
            relations = core.Relations(np.array([0, 2]), np.array([0, 1, 0, 1], np.uint8))
            qkv = np.array([[0, 0, 0], [0, 0, 1]], dtype)
            (found, _), _ = core.attention(qkv, table, relations, False, 1)
            weight = np.exp(np.float64(part[code]))
            least = float(np.finfo(dtype).tiny)
            tolerance = (4 + 2 * abs(max(part[code], -1e3))) * np.finfo(dtype).eps
            np.testing.assert_allclose(found, weight / (1 + weight), rtol=tolerance, atol=2 * least)


def test_nodes_of_pairs_that_are_left_out_count_nothing(core: ModuleType, instruction_set: str) -> None:
    """Minus infinity as the bias of whole stretches of nodes, from the first one on."""
    case = Case(core, [300], 4, 3)
    case.table[0] = -np.inf
    case.codes.reshape(300, 300)[:, :290] = 0
    case.codes.reshape(300, 300)[7] = 0
    case.codes.reshape(300, 300)[:, 290:][np.arange(300) != 7] = 3
    relations = core.Relations(case.offsets, case.codes)
    result, _ = core.attention(case.qkv, case.table, relations, False, 1)
    with np.errstate(invalid="ignore"):
        wanted = case.result()[0]
    np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-12)
    assert np.isnan(result[7]).all()


def test_codes_of_pairs(core: ModuleType) -> None:
    batch = Batch(core, 3, [1, 40, 0, 7], cutoff=5)
    codes = core.pair_codes(batch.topology(core), 50, 2)
    pairs, start = batch.weight_matrix(), 0
    for graph in range(4):
        part = slice(batch.offsets[graph], batch.offsets[graph + 1])
        inverse = pairs[part, part]
        ahead = np.rint(np.where(inverse > 0, 1 / np.where(inverse > 0, inverse, 1), 0)).astype(int)
        wanted = ahead + np.where(ahead.T > 0, 50 + ahead.T, 0)
        found = codes[start : start + wanted.size].reshape(wanted.shape)
        np.testing.assert_array_equal(found, wanted)
        start += wanted.size
    assert start == len(codes)
    # Those of two hops and less.
    near = core.pair_codes(batch.topology(core), 2, 1)
    for code, other in ((1, 1), (2, 2), (51, 3), (52, 4), (0, 0)):
        assert (near[codes == code] == other).all()
    assert set(near.tolist()) <= set(range(5))


@pytest.mark.parametrize("reach", [0, -1, 128, 2**31 - 1])
def test_codes_that_reach_too_far(core: ModuleType, reach: int) -> None:
    with pytest.raises(ValueError, match=f"codes are to reach {reach} hops; 1 to 127 are accepted"):
        core.pair_codes(Batch(core, 0, [3]).topology(core), reach, 1)


def test_codes_need_bands(core: ModuleType) -> None:
    batch, empty = Batch(core, 0, [2]), np.zeros(0, dtype=np.int64)
    topology = core.Topology(batch.offsets, batch.edge_offsets, batch.edges[:, 0], empty, empty, empty, 50)
    with pytest.raises(ValueError, match="need the bands of shortest paths"):
        core.pair_codes(topology, 50, 1)


@pytest.mark.parametrize(
    ("offsets", "codes"),
    [
        ([], []), ([1], []), ([0, 2], [0, 0, 0]), ([0, 2], [0] * 5), ([0, 2, 1], [0] * 5), ([0, 2, 1, 2], [0] * 6),
        ([0, -1], [0]), ([-1, 0], [0]), ([0, 2**62], [0]), ([0, 2**32], []), ([0, 2**32, 2**33], [0]), ([[0, 1]], [0]),
        ([0, 1], [[0]]), ([0, 1], [256]), ([0, 1], [-1]),
    ],
)  # fmt: skip
def test_relations_that_fit_nothing_are_rejected(core: ModuleType, offsets: Any, codes: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (each has its own message)
        core.Relations(np.asarray(offsets, dtype=np.int64), np.asarray(codes, dtype=np.int64))


def test_a_table_without_a_row_for_each_code_is_rejected(core: ModuleType) -> None:
    relations = core.Relations(np.array([0, 2]), np.array([0, 7, 3, 0], np.uint8))
    qkv = np.zeros((2, 12))
    core.attention(qkv, np.zeros((8, 2)), relations, False, 1)
    for table in (np.zeros((7, 2)), np.zeros((257, 2)), np.zeros((8, 0)), np.zeros(8), np.zeros((8, 2, 1))):
        with pytest.raises(ValueError, match=r"table must be \(kinds, heads\)"):
            core.attention(qkv, table, relations, False, 1)


def test_arrays_of_other_sizes_are_rejected(core: ModuleType) -> None:
    case = Case(core, [5, 3], 4, 3)
    result, sums = core.attention(case.qkv, case.table, case.relations, True, 1)
    for qkv in (case.qkv[:7], case.qkv[:, :-1].copy(), case.qkv[:, :0].copy(), case.qkv[0], case.qkv[None]):
        with pytest.raises(ValueError, match=r"qkv must be \(nodes, 3 heads width\)"):
            core.attention(qkv, case.table, case.relations, False, 1)
    arguments = {"grad": case.grad, "result": result, "log_sums": sums}
    for name in arguments:
        given = {**arguments, name: arguments[name][1:]}
        with pytest.raises(ValueError, match=f"{name} has another shape"):
            core.attention_backward(
                given["grad"], case.qkv, case.table, case.relations, given["result"], given["log_sums"], 1
            )
