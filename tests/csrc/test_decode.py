"""csrc/decode on plain arrays, with every instruction set of the machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers.arrays import Array, halved, widened
from helpers.table_rows import MEMORY, table, targets_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PRODUCT, SCALED, NORM_WEIGHT, BIAS = range(4)
ELEMENTS: dict[Any, int] = {np.float32: 0, np.float64: 1, np.float16: 2}
BFLOAT16 = 3
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}


class Case(NamedTuple):
    hidden: Array
    weight: Array
    bias: Array
    blocks: Array
    table: Array  # (targets,) of `TARGET`

    def scaled(self, scales: Any) -> Case:
        """The same with these scales."""
        table = self.table.copy()
        table["scale"] = scales
        return self._replace(table=table)


def make_case(targets: Sequence[tuple[int, ...]], dtype: Any, sizes: tuple[int, int, int] = (7, 6, 8)) -> Case:
    """A case with targets (rows, columns, cells, out, in, kind), their blocks one behind the other."""
    random = np.random.default_rng(len(targets))
    first = {True: 0, False: 0}
    found = []
    for rows, columns, cells, out, in_, kind in targets:
        product = kind == PRODUCT
        found.append((first[product], rows, columns, cells, out, in_, kind))
        first[product] += cells if product else rows * columns * cells
    shapes = (first[True], sizes[2]), sizes, sizes[:2], (first[False],)
    hidden, weight, bias, blocks = (random.standard_normal(shape).astype(dtype) for shape in shapes)
    scales = np.where(np.array([target[-1] for target in targets]) <= SCALED, random.random(len(targets)) + 0.5, 1.0)
    return Case(hidden, weight, bias, blocks, targets_of(found, scales))


def expected_values(case: Case, index: int) -> Array:
    """The definition: (out, in, cells)."""
    first, rows, columns, cells, out, in_, kind, scale = case.table[index].tolist()
    if kind == PRODUCT:
        products = np.einsum("rck,nk->rcn", case.weight[:rows, :columns], case.hidden[first : first + cells])
        block = products + case.bias[:rows, :columns, None]
    else:
        block = case.blocks[first : first + rows * columns * cells].reshape(rows, columns, cells)
    if kind == NORM_WEIGHT:
        block = 2 / (1 + np.exp(-block / 2))
    elif kind == BIAS:
        block = np.tanh(block / 5)
    else:
        block = block * scale
    return block[np.arange(out) % rows][:, np.arange(in_) % columns]


def shape_of(target: Any) -> tuple[int, int, int]:
    """(out, in, cells) of a row."""
    return int(target["out"]), int(target["in"]), int(target["cells"])


def memory_of(outputs: Sequence[Array], element: int | None = None) -> Array:
    """Addresses, types and strides of outputs (out, in, cells)."""
    rows = []
    for output in outputs:
        strides = [stride // output.itemsize for stride in output.strides]
        kind = ELEMENTS[output.dtype.type] if element is None else element
        rows.append((output.ctypes.data, kind, strides))
    return table(MEMORY, rows)


def decode(core: ModuleType, case: Case, outputs: Sequence[Array], threads: int = 2, check: bool = True) -> int:
    return core.decode(*case, memory_of(outputs), check, threads)


# Blocks as large as their target and smaller, targets that are no multiples of them, one column, one row, many cells.
TARGETS = [
    (7, 6, 9, 7, 6, PRODUCT),
    (7, 6, 1, 23, 20, PRODUCT),
    (3, 6, 4, 3, 13, PRODUCT),
    (7, 1, 25, 30, 1, PRODUCT),
    (5, 1, 9, 5, 1, PRODUCT),
    (1, 6, 140, 1, 40, PRODUCT),
    (7, 2, 49, 64, 2, PRODUCT),
    (1, 5, 1, 1, 12, NORM_WEIGHT),
    (1, 5, 1, 1, 5, BIAS),
    (4, 3, 2, 9, 7, SCALED),
    (9, 3, 1, 1000, 300, SCALED),
]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_are_those_of_the_definition(core: ModuleType, instruction_set: str, dtype: Any, threads: int) -> None:
    case = make_case(TARGETS, dtype)
    outputs = [np.full(shape_of(row), np.nan, dtype=dtype) for row in case.table]
    assert decode(core, case, outputs, threads) == -1
    for index, output in enumerate(outputs):
        np.testing.assert_allclose(output, expected_values(case, index), rtol=0, atol=TOLERANCE[dtype])


def test_what_is_called_before_writing_can_prevent_it(core: ModuleType) -> None:
    case = make_case(TARGETS, np.float32)
    outputs = [np.full(shape_of(row), 7, dtype=np.float32) for row in case.table]
    called: list[bool] = []

    def untouched() -> None:
        called.append(all((output == 7).all() for output in outputs))

    def refuse() -> None:
        raise KeyError("not now")

    with pytest.raises(KeyError, match="not now"):
        core.decode(*case, memory_of(outputs), True, 2, refuse)
    assert all((output == 7).all() for output in outputs)
    assert core.decode(*case, memory_of(outputs), True, 2, untouched) == -1
    assert called == [True]
    assert not any((output == 7).all() for output in outputs)
    case.table["scale"][0] = np.inf
    assert core.decode(*case, memory_of(outputs), True, 2, untouched) == 0
    assert called == [True]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_targets(core: ModuleType, data: st.DataObject) -> None:
    sizes = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([4, 8, 20])))
    targets = []
    for _ in range(data.draw(st.integers(1, 6))):
        out, in_, cells = (data.draw(st.integers(1, limit)) for limit in (50, 50, 40))
        kind = data.draw(st.sampled_from([PRODUCT, SCALED]))
        targets.append((min(out, sizes[0]), min(in_, sizes[1]), cells, out, in_, kind))
    case = make_case(targets, np.float64, sizes)
    outputs = [np.full((target[3], target[4], target[2]), np.nan) for target in targets]
    assert decode(core, case, outputs) == -1
    for index, output in enumerate(outputs):
        np.testing.assert_allclose(output, expected_values(case, index), rtol=0, atol=1e-12)


@pytest.mark.parametrize("offset", [0, 1, 5, 15])
def test_large_targets_are_streamed_to_any_address(core: ModuleType, instruction_set: str, offset: int) -> None:
    case = make_case([(7, 6, 9, 300, 500, PRODUCT), (7, 5, 1, 999, 5, PRODUCT), (7, 6, 1, 50, 77, PRODUCT)], np.float32)
    outputs = []
    for out, in_, cells in map(shape_of, case.table):
        memory = np.full(out * in_ * cells + 2 * 16, 7, dtype=np.float32)
        outputs.append(memory[offset : offset + out * in_ * cells].reshape(out, in_, cells))
    assert sum(output.nbytes for output in outputs) > 4 << 20
    assert decode(core, case, outputs) == -1
    for index, output in enumerate(outputs):
        np.testing.assert_allclose(output, expected_values(case, index), rtol=0, atol=2e-5)
        base = output.base
        assert base is not None
        whole: Array = base.base if base.base is not None else base
        assert (whole[:offset] == 7).all()
        assert (whole[offset + output.size :] == 7).all()


def test_strided_targets(core: ModuleType, instruction_set: str) -> None:
    """Channels last, transposed, and every second element."""
    case = make_case([(7, 6, 9, 16, 10, PRODUCT), (4, 3, 2, 9, 7, SCALED), (7, 6, 1, 20, 9, PRODUCT)], np.float32)
    outputs = [
        np.zeros((16, 9, 10), dtype=np.float32).transpose(0, 2, 1),
        np.zeros((2, 7, 9), dtype=np.float32).transpose(2, 1, 0),
        np.zeros((40, 18, 1), dtype=np.float32)[::2, ::2],
    ]
    assert decode(core, case, outputs) == -1
    for index, output in enumerate(outputs):
        np.testing.assert_allclose(output, expected_values(case, index), rtol=0, atol=2e-5)


def test_half_precision(core: ModuleType, instruction_set: str) -> None:
    """Rounded to nearest even, as numpy does, down to the smallest numbers."""
    values = np.concatenate([np.float32(2.0) ** np.arange(-26, 16), np.linspace(-3, 3, 1001), [0.0, 65503.0, 6e-8]])
    values = np.concatenate([values, -values]).astype(np.float32)
    case = make_case([(1, len(values), 1, 1, len(values), SCALED)], np.float32).scaled(1)._replace(blocks=values)
    half = np.zeros((1, len(values), 1), dtype=np.float16)
    assert decode(core, case, [half]) == -1
    np.testing.assert_array_equal(half.ravel(), values.astype(np.float16))
    brain = np.zeros((1, len(values), 1), dtype=np.uint16)
    assert core.decode(*case, memory_of([brain], BFLOAT16), True, 1) == -1
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    np.testing.assert_array_equal(brain.ravel(), rounded.astype(np.uint16))


def as_bfloat16(values: Array) -> Array:
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_products_of_rounded_operands(core: ModuleType, instruction_set: str, data: st.DataObject) -> None:
    """What is computed where operands may be rounded, and the machine can: else the same bits as without."""
    sizes = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([4, 32, 36, 100])))
    targets = []
    for _ in range(data.draw(st.integers(1, 8))):
        rows, columns = (data.draw(st.integers(1, size)) for size in sizes[:2])
        cells = data.draw(st.integers(1, 40))
        targets.append((rows, columns, cells, rows + data.draw(st.integers(0, 9)), columns + 3, PRODUCT))
    case = make_case(targets, np.float32, sizes)
    stored = data.draw(st.sampled_from([None, "float16", "bfloat16"]))
    given_weight = case.weight
    if stored is not None:
        (given_weight,) = halved([case.weight], stored)
        case = case._replace(weight=widened(given_weight))
    expected = case
    if core.rounds_products():
        expected = case._replace(weight=as_bfloat16(case.weight), hidden=as_bfloat16(case.hidden))
    threads = data.draw(st.integers(1, 3))
    found = [np.zeros(shape_of(row), dtype=np.float32) for row in case.table]
    given = case._replace(weight=given_weight)
    assert core.decode(*given, memory_of(found), True, threads, rounds=True) == -1
    exact = [np.zeros(shape_of(row), dtype=np.float32) for row in case.table]
    assert decode(core, given, exact, threads) == -1
    for index, (output, other) in enumerate(zip(found, exact, strict=True)):
        np.testing.assert_allclose(output, expected_values(expected, index), rtol=0, atol=5e-5)
        assert core.rounds_products() or np.array_equal(output, other)


def test_nothing_rounds_in_double_precision(core: ModuleType, instruction_set: str) -> None:
    case = make_case([(7, 6, 9, 7, 6, PRODUCT)], np.float64)
    outputs = [np.zeros((7, 6, 9)) for _ in range(2)]
    for output, rounds in zip(outputs, (False, True), strict=True):
        assert core.decode(*case, memory_of([output]), True, 1, rounds=rounds) == -1
    np.testing.assert_array_equal(outputs[0], outputs[1])


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("where", ["hidden", "weight", "bias", "blocks"])
def test_nothing_is_written_where_a_value_is_not_finite(
    core: ModuleType, instruction_set: str, where: str, value: float, rounds: bool
) -> None:
    targets = [(7, 6, 9, 16, 10, PRODUCT), (4, 3, 2, 9, 7, SCALED), (7, 6, 1, 16, 10, PRODUCT)]
    case = make_case(targets, np.float32)
    case = case.scaled(2.0)
    array = getattr(case, where).copy()
    array.flat[1] = value
    outputs = [np.full((target[3], target[4], target[2]), 5, dtype=np.float32) for target in targets]
    case = case._replace(**{where: array})
    broken = core.decode(*case, memory_of(outputs), True, 2, rounds=rounds)
    assert broken == (1 if where == "blocks" else 0)
    assert all((output == 5).all() for output in outputs)
    assert core.decode(*case, memory_of(outputs), False, 2, rounds=rounds) == -1
    assert not all((output == 5).all() for output in outputs)


def test_values_beyond_half_precision_are_found(core: ModuleType, instruction_set: str) -> None:
    case = make_case([(7, 6, 9, 16, 10, PRODUCT)] * 2, np.float32)
    case = case.scaled([1.0, 1e5])
    outputs = [np.zeros((16, 10, 9), dtype=dtype) for dtype in (np.float16, np.float16)]
    assert decode(core, case, outputs) == 1
    wide: list[Array] = [outputs[0], np.zeros((16, 10, 9), dtype=np.float32)]
    assert decode(core, case, wide) == -1


# The first values that round to infinity, in each type of targets; what is nearest to them on either side is tried.
LEAST_INFINITE = [(np.float16, 0, 65520.0), (np.float32, 0, 2.0**128 - 2.0**103), (None, BFLOAT16, 2.0**128 - 2.0**119)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("type_", "number", "least"), LEAST_INFINITE)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", [PRODUCT, SCALED])
def test_what_rounds_to_a_finite_number_is_finite(
    core: ModuleType, instruction_set: str, dtype: Any, type_: Any, number: int, least: float, sign: int, kind: int
) -> None:
    """As for torch, which rounds to half precision through float32: 65519.99 is 65504 in float16."""
    with np.errstate(over="ignore"):
        first = dtype(least)
        values = [dtype(least * (1 - 2.0**-9)), np.nextafter(first, dtype(0)), dtype(least * (1 - 2.0**-26)), first]
        values += [np.nextafter(first, dtype(np.inf)), dtype(np.inf)]
    for value in values:
        case = make_case([(1, 1, 1, 3, 2, kind)], dtype).scaled(1)
        case.weight[:], case.bias[:], case.blocks[:] = 0, sign * value, sign * value
        output = np.zeros((3, 2, 1), dtype=np.uint16 if type_ is None else type_)
        broken = decode_as(core, case, output, number if type_ is None else ELEMENTS[type_])
        with np.errstate(over="ignore"):
            rounded = np.float32(value)
            held = np.isfinite(rounded) if type_ is not np.float16 else np.isfinite(np.float16(rounded))
            held &= type_ is not None or rounded < np.float32(least)
        assert (broken == -1) == held, value
        if held and type_ is not None:
            assert (output == type_(sign * rounded)).all()
        if held and type_ is None:
            assert (output & 0x7FFF).max() <= 0x7F7F
        assert held or not output.any()


def decode_as(core: ModuleType, case: Case, output: Array, element: int) -> int:
    return core.decode(*case, memory_of([output], element), True, 1)


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000])
def test_what_is_not_a_number_stays_so_in_half_precision(core: ModuleType, instruction_set: str, bits: int) -> None:
    """Rounded as a number is, some of them would be zero, or infinite."""
    case = make_case([(1, 9, 1, 1, 9, SCALED)], np.float32).scaled(1)
    case.blocks.view(np.uint32)[:] = bits
    half, brain = np.zeros((1, 9, 1), np.float16), np.zeros((1, 9, 1), np.uint16)
    for output, element in ((half, 2), (brain, BFLOAT16)):
        assert decode_as(core, case, output, element) == 0
        assert core.decode(*case, memory_of([output], element), False, 1) == -1
    assert np.isnan(half).all()
    assert ((brain & 0x7FFF) > 0x7F80).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_sums_over_repeats(core: ModuleType, dtype: Any) -> None:
    case = make_case(TARGETS, dtype)
    random = np.random.default_rng(0)
    grads = [random.standard_normal(shape_of(row)).astype(dtype) for row in case.table]
    flat = np.concatenate([grad.ravel() for grad in grads])
    products, blocks = core.decode_backward(flat, *case, 2)
    at = 0
    for index, grad in enumerate(grads):
        first, rows, columns, cells, out, in_, kind, scale = case.table[index].tolist()
        folded: Array = np.zeros((rows, columns, cells))
        np.add.at(folded, (np.arange(out)[:, None] % rows, np.arange(in_) % columns), grad)
        size = rows * columns * cells
        x = case.blocks[first : first + size].reshape(folded.shape).astype(np.float64) if kind != PRODUCT else None
        if kind == NORM_WEIGHT:
            folded *= 1 / (2 + np.exp(x / 2) + np.exp(-x / 2))
        elif kind == BIAS:
            folded = folded * ((1 - np.tanh(x / 5) ** 2) / 5)
        else:
            folded *= scale
        if kind == PRODUCT:
            found = products[at : at + size].reshape(cells, rows, columns).transpose(1, 2, 0)
            at += size
        else:
            found = blocks[first : first + size].reshape(folded.shape)
        np.testing.assert_allclose(found, folded, rtol=0, atol=TOLERANCE[dtype] * math.sqrt(grad.size))
    assert at == len(products)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("first", -1), ("first", 99), ("rows", 0), ("rows", 8), ("columns", 7), ("cells", 0), ("out", 3), ("in", 2),
        ("kind", 4), ("kind", -1), ("kind", 3),
    ],
)  # fmt: skip
def test_tables_that_fit_nothing_are_rejected(core: ModuleType, column: str, value: int) -> None:
    case = make_case([(7, 6, 9, 16, 10, PRODUCT)], np.float32)
    case.table[column][0] = value
    output = np.zeros((16, 10, 9), dtype=np.float32)
    with pytest.raises(ValueError):  # noqa: PT011 (each has its own message)
        decode(core, case, [output])
    assert not output.any()


def test_infinite_and_undefined_numbers_are_found(core: ModuleType, instruction_set: str) -> None:
    for dtype in (np.float32, np.float64):
        for size in (1, 7, 64, 1000):
            fine = np.ones(size, dtype=dtype)
            assert core.largest([fine, 2 * fine], 2) == [1, 2]
            for value in (np.nan, np.inf, -np.inf):
                for at in (0, size // 2, size - 1):
                    broken = fine.copy()
                    broken[at] = value
                    assert core.largest([fine, broken], 2) == [1, np.inf]


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_a_weight_of_half_precision_is_read_as_it_is(core: ModuleType, instruction_set: str, kind: str) -> None:
    """The same bits as from its float32 values; blocks with one column are multiplied in a way of their own."""
    case = make_case([(7, 6, 9, 16, 10, PRODUCT), (5, 1, 1, 5, 3, PRODUCT), (3, 4, 1, 9, 4, PRODUCT)], np.float32)
    weight, bias = halved([case.weight, case.bias], kind)
    results = []
    for each in (case._replace(weight=weight, bias=bias), case._replace(weight=widened(weight), bias=widened(bias))):
        results.append([np.zeros(shape, dtype=np.float32) for shape in ((16, 10, 9), (5, 3, 1), (9, 4, 1))])
        assert decode(core, each, results[-1]) == -1
    assert all(map(np.array_equal, *results))
    assert all(output.all() for output in results[0])


def test_unknown_instruction_sets_are_rejected(core: ModuleType) -> None:
    with pytest.raises(ValueError, match="this machine has no instruction set mmx"):
        core.use_instruction_set("mmx")


def test_memory_that_fits_nothing_is_rejected(core: ModuleType) -> None:
    case = make_case([(7, 6, 9, 16, 10, PRODUCT)] * 2, np.float32)
    outputs = [np.zeros((16, 10, 9), dtype=np.float32) for _ in range(2)]
    memory = memory_of(outputs)
    for wrong in (memory[:1], np.concatenate([memory, memory])):
        with pytest.raises(ValueError, match=f"there are 2 targets and memory for {len(wrong)}"):
            core.decode(*case, wrong, True, 1)
    for field, value, message in (
        ("address", 0, "target 1 has no memory"),
        ("element", 4, "an element type is 4; 0 to 3 are accepted"),
        ("element", -1, "an element type is -1; 0 to 3 are accepted"),
    ):
        broken = memory.copy()
        broken[field][1] = value
        with pytest.raises(ValueError, match=message):
            core.decode(*case, broken, True, 1)
    assert not any(output.any() for output in outputs)
