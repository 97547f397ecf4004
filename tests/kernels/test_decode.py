"""kernels/decode.py against the definition."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers.decoding import (
    BIAS,
    NORM_WEIGHT,
    PRODUCT,
    SCALED,
    TARGETS,
    assert_rounded_or_refused,
    assert_same_decoding,
    make,
    naive,
)
from helpers.kernel_device import DEVICE
from helpers.table_rows import MEMORY, table, targets_of
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.runtime.interpreter import TensorHandle

from ghnfast.kernels import decode as kernels
from ghnfast.kernels import decode_tables
from ghnfast.ops.decode import (
    ELEMENTS,
    DecodeSource,
    DecodeTargets,
    NotFinite,
    TargetKind,
    decode,
    decode_into,
    decode_into_op,
    decode_op,
    memory_table,
    product_runs,
    triton_tables,
)


def made(
    targets: Sequence[tuple[int, ...]], sizes: tuple[int, int, int] = (6, 5, 16)
) -> tuple[DecodeSource, DecodeTargets]:
    source, table = make(targets, sizes=sizes, device=DEVICE)
    return DecodeSource(*(tensor.detach().requires_grad_() for tensor in source)), table


def test_values_and_gradients() -> None:
    assert_same_decoding(*made(TARGETS))


@pytest.mark.parametrize("width", [32, 64, 72, 256, 1024])
def test_widths(width: int) -> None:
    targets = [(6, 5, 1, 13, 11, PRODUCT), (6, 5, 9, 7, 5, PRODUCT), (1, 4, 1, 1, 9, BIAS)]
    source, table = made(targets, (6, 5, width))
    source = DecodeSource((source.hidden / width**0.5).detach().requires_grad_(), *source[1:])
    assert_same_decoding(source, table)


@settings(max_examples=9, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_targets(data: st.DataObject) -> None:
    sizes = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([32, 40])))
    targets: list[tuple[int, ...]] = []
    for _ in range(data.draw(st.integers(1, 5))):
        out, in_, cells = (data.draw(st.integers(1, limit)) for limit in (40, 40, 30))
        kind = data.draw(st.sampled_from([PRODUCT, PRODUCT, SCALED]))
        targets.append((min(out, sizes[0]), min(in_, sizes[1]), cells, out, in_, kind))
    assert_same_decoding(*made(targets, sizes))


def test_many_targets_of_one_cell() -> None:
    """With different repeats, and others between them."""
    targets = [(6, 5, 1, 6 + index, 5 + 3 * index, PRODUCT) for index in range(7)]
    targets += [(6, 4, 1, 6, 4, PRODUCT), (2, 4, 1, 2, 40, PRODUCT), (2, 4, 1, 2, 4, PRODUCT)]
    assert_same_decoding(*made(targets))


@pytest.mark.parametrize("cells", [1, 4])
def test_repeats_are_shared_between_items(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_tables, "STORED", 64)
    source, table = made([(4, 4, cells, 33, 29, PRODUCT), (1, 5, 1, 1, 700, NORM_WEIGHT)])
    items = decode_tables.item_tables(table.table)[0]
    assert items[:, 3].max() > 5
    assert_same_decoding(source, table)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_writing_gives_the_same_values(dtype: torch.dtype) -> None:
    """In every dtype, and into memory of every layout."""
    source, targets = made(TARGETS)
    wanted = naive(source, targets)
    outputs = [torch.empty(value.shape, dtype=dtype, device=DEVICE) for value in wanted]
    shaped = [
        outputs[0].view(6, 5, 3, 3),
        torch.empty(20, 17, 3, 3, dtype=dtype, device=DEVICE).to(memory_format=torch.channels_last),
        torch.empty(5, 26, dtype=dtype, device=DEVICE)[:, ::2].T,
        torch.empty(13, 1, 5, 5, dtype=dtype, device=DEVICE).transpose(2, 3),  # cells that are not evenly spaced
        outputs[4].view(2, 11, 2, 2),
        torch.empty(60, dtype=dtype, device=DEVICE)[::2],
        outputs[6].view(7),
        outputs[7].view(10, 33),
    ]
    versions = [output._version for output in shaped]
    with torch.no_grad():
        decode_into(source, targets, shaped)
    for value, output, version in zip(wanted, shaped, versions, strict=True):
        tolerance: dict[str, Any] = {} if dtype.itemsize == 2 else {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(output.reshape(value.shape), value.to(dtype), **tolerance)
        assert output._version > version  # autograd sees the write


class Hints:
    """What the compiler is told of the places of vectors is looked at while kernels are interpreted; on a GPU, what is
    not so would be an error of its own. vectors: how many places there were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.vectors = 0
        monkeypatch.setattr(TensorHandle, "set_attr", lambda handle, name, values: self.look(handle, name, values))

    def look(self, handle: Any, name: str, values: list[int]) -> None:
        if name == "tt.divisibility":
            assert values == [1, 16]  # bytes
            handle.attr["are vectors"] = True
            return
        numbers = handle.data.astype(np.int64).reshape(-1, values[1])
        if name == "tt.constancy":
            assert (np.diff(numbers) == 0).all()
        elif "are vectors" in handle.attr:
            assert (numbers[:, 0] % 16 == 0).all()
            assert (np.diff(numbers) == 16 // values[1]).all()
            self.vectors += len(numbers)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_vectors_are_aligned(data: st.DataObject) -> None:
    """Whatever the sizes, dtypes and places: of parameters, of their parts, and of what lies at an odd address."""
    dtype = data.draw(st.sampled_from(list(ELEMENTS)))
    sizes = st.sampled_from([1, 3, 4, 6, 8])
    kind = data.draw(st.sampled_from([PRODUCT, SCALED, NORM_WEIGHT, BIAS]))
    rows, columns = (data.draw(sizes) if kind in (PRODUCT, SCALED) else 1), data.draw(sizes)
    cells = 1 if kind != SCALED else data.draw(st.sampled_from([1, 4, 9]))
    out, in_ = rows * data.draw(st.integers(1, 3)), data.draw(st.sampled_from([columns, 8, 16, 24, 5]))
    source, targets = made([(rows, min(columns, in_), cells, out, in_, kind)], (16, 16, 16))
    (wanted,) = naive(source, targets)
    padding, offset = (data.draw(st.sampled_from([0, 0, 1, 8])) for _ in range(2))
    memory = torch.zeros(offset + out * (in_ * cells + padding), dtype=dtype, device=DEVICE)
    output = memory[offset:].view(out, in_ * cells + padding)[:, : in_ * cells].view(out, in_, cells, 1)
    is_turned = padding == 0 and data.draw(st.booleans())
    if is_turned:
        output = memory[offset:].view(in_, cells, out).permute(2, 0, 1).unsqueeze(3)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        Hints(patch)
        decode_into(source, targets, [output])
    precision = 2**-7 if dtype.itemsize == 2 else 1e-5
    torch.testing.assert_close(output[..., 0].double(), wanted.double(), rtol=precision, atol=1e-5)


@pytest.mark.parametrize("dtype", ELEMENTS)
def test_vectors_are_stored_where_they_can_be(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two repeats of 3 x 16 elements, and of a vector; none where rows are 9 long, nor of float64."""
    hints = Hints(monkeypatch)
    for targets, is_whole in (
        ([(3, 16, 1, 3, 32, PRODUCT)], True),
        ([(1, 16, 1, 1, 16, BIAS)], True),
        ([(3, 9, 1, 3, 9, SCALED)], False),
    ):
        source, table = made(targets, (16, 16, 16))
        output = torch.zeros(table.table["out"][0], table.table["in"][0], dtype=dtype, device=DEVICE)
        hints.vectors = 0
        with torch.no_grad():
            decode_into(source, table, [output])
        assert DEVICE != "cpu" or (hints.vectors > 0) == (is_whole and dtype != torch.float64)


def test_targets_of_several_dtypes_in_one_call() -> None:
    source, targets = made(TARGETS[:4])
    dtypes = [torch.float16, torch.float32, torch.float64, torch.bfloat16]
    wanted = naive(source, targets)
    outputs = [torch.empty_like(v, dtype=d).unsqueeze(-1) for v, d in zip(wanted, dtypes, strict=True)]
    with torch.no_grad():
        decode_into(source, targets, outputs)
    for value, output in zip(wanted, outputs, strict=True):
        tolerance: dict[str, Any] = {} if output.itemsize == 2 else {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(output[..., 0], value.to(output.dtype), **tolerance)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, which interprets the kernels
@pytest.mark.parametrize(
    ("index", "value"),
    [(index, value) for index in (0, 2, 4, 7) for value in (float("inf"), float("nan"), 1e30)]
    + [(5, float("nan")), (6, float("nan"))],
)
def test_nothing_is_written_where_a_value_is_not_finite(index: int, value: float) -> None:
    """1e30 is within float32, and beyond it after the product or the scale of 1e10 that targets get here."""
    source, targets = made(TARGETS)
    first = int(targets.table["first"][index])
    tensor = source.hidden if targets.table["kind"][index] == PRODUCT else source.blocks
    targets.table["scale"] = 1e10
    with torch.no_grad():
        tensor[first] = value
    outputs = [torch.full((t.out, t.in_, t.cells, 1), 5.0, device=DEVICE) for t in targets]
    with torch.no_grad(), pytest.raises(NotFinite) as caught:
        decode_into(source, targets, outputs)
    assert caught.value.index == index
    assert all((output == 5).all() for output in outputs)


def test_values_that_only_a_narrow_dtype_cannot_hold() -> None:
    source, targets = made(TARGETS[:3])
    targets.table["scale"][1] = 1e6
    outputs = [torch.full((t.out, t.in_, t.cells, 1), 5.0, device=DEVICE) for t in targets]
    with torch.no_grad():
        decode_into(source, targets, outputs)
        assert all((output != 5).any() for output in outputs)
        halves = [output.half().fill_(5) for output in outputs]
        with pytest.raises(NotFinite) as caught:
            decode_into(source, targets, halves)
    assert caught.value.index == 1
    assert all((output == 5).all() for output in halves)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, which interprets the kernels
def test_large_hidden_states_with_finite_values() -> None:
    """Where the bound on values is too large, the values themselves are looked at."""
    source, targets = made(TARGETS[:3])
    with torch.no_grad():
        source.hidden.mul_(0)
        source.hidden[:, 0], source.hidden[:, 1] = 3e38, -3e38
        source.weight[..., 0] = source.weight[..., 1] = 0.75
        source.weight[0, 0, 2] = 3e38
        outputs = [torch.full((t.out, t.in_, t.cells, 1), 5.0, device=DEVICE) for t in targets]
        decode_into(source, targets, outputs)
    assert all(torch.isfinite(output).all() and (output != 5).all() for output in outputs)


def test_operators() -> None:
    """Schema, fake implementations, autograd registration and torch.compile's view of the operators."""
    source, targets = made(TARGETS)
    elements, runs = sum(t.out * t.in_ * t.cells for t in targets), product_runs(targets.table)
    tables = triton_tables(targets, None, source.hidden)
    torch.library.opcheck(decode_op, (*source, tables, elements, runs, "float32"))
    outputs = [torch.empty(t.out, t.in_, t.cells, 1, device=DEVICE) for t in targets]
    tables = triton_tables(targets, memory_table(outputs, targets.table), source.hidden)
    source = DecodeSource(*(tensor.detach() for tensor in source))
    torch.library.opcheck(decode_into_op, (*source, tables, outputs, "float32"), test_utils="test_schema")
    torch.library.opcheck(decode_into_op, (*source, tables, outputs, "float32"), test_utils="test_faketensor")


def test_results_are_the_same_in_every_run() -> None:
    source, targets = made(TARGETS)

    def run() -> list[torch.Tensor]:
        values = decode(source, targets)
        return [*values, *torch.autograd.grad([value.square().sum() for value in values], source)]

    assert all(map(torch.equal, run(), run()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_round(dtype: torch.dtype) -> None:
    source, targets = made(TARGETS)
    rounded = source._replace(hidden=source.hidden.detach().to(dtype).requires_grad_())
    with torch.autocast(DEVICE, dtype=dtype):
        values = decode(rounded, targets)
        grads = torch.autograd.grad([value.sum() for value in values], rounded)
    wanted = naive(rounded._replace(hidden=rounded.hidden.float()), targets)
    torch.testing.assert_close(values, wanted, rtol=1e-5, atol=1e-5)
    assert [grad.dtype for grad in grads] == [dtype] + [torch.float32] * 3


@pytest.mark.parametrize(("precision", "bits"), [("float32", 24), ("tf32", 11), ("bfloat16", 8)])
@pytest.mark.parametrize(("cells", "width"), [(9, 256), (9, 520), (1, 512), (1, 520), (1, 1024)])
@torch.no_grad()
def test_precisions(precision: str, bits: int, cells: int, width: int) -> None:
    """Values are within the bound of operands that are rounded to so many bits, where they are (`GHN.precision`)."""
    source, targets = made([(6, 5, cells, 20, 17, PRODUCT), (6, 5, cells, 6, 30, PRODUCT)], (6, 5, width))
    doubles = DecodeSource(*(tensor.double() for tensor in source))
    sizes = doubles._replace(hidden=doubles.hidden.abs(), weight=doubles.weight.abs(), bias=0 * doubles.bias)
    rounds = precision != "float32"
    unit = 2.0 ** -(bits if rounds else 24)
    values = decode(source, targets, precision), naive(doubles, targets), naive(sizes, targets)
    for found, wanted, most in zip(*values, strict=True):
        error = (found - wanted).abs()
        # Sums of float32 are wrong by less than this, too.
        assert (error <= (2 * unit + unit**2) * most + 1e-6 * most.max()).all()
        assert (error.max() > 1e-5 * wanted.abs().max()) == rounds


@pytest.mark.parametrize(("count", "width", "repeated"), [(17, 520, True), (33, 700, False)])
def test_many_targets_of_wide_hidden_states(count: int, width: int, repeated: bool) -> None:
    """More than are columns of one product, of two sizes of blocks."""
    targets = [(6, 5 - index % 7 // 6, 1, 6 * (1 + repeated), 5 + 3 * (index % 4), PRODUCT) for index in range(count)]
    source, table = made(targets, (6, 5, width))
    source = DecodeSource((source.hidden / width**0.5).detach().requires_grad_(), *source[1:])
    assert_same_decoding(source, table)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, which interprets the kernels
@pytest.mark.parametrize("cells", [1, 4])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_what_is_not_a_number_stays_so(precision: str, cells: int) -> None:
    """In every pattern of bits: some would carry into the sign where they are rounded, and be zero."""
    for bits in (0x7FFFFFFF, -1, 0x7F800001, 0x7FC00000, -0x400000):
        for name in ("hidden", "weight"):
            source, targets = made([(6, 5, cells, 6, 5, PRODUCT)])
            with torch.no_grad():
                getattr(source, name).view(torch.int32).flatten()[3] = bits
            (values,) = decode(DecodeSource(*(tensor.detach() for tensor in source)), targets, precision)
            assert values.isnan().any(), (hex(bits), name)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rounding_the_largest_numbers_keeps_them_finite() -> None:
    source, targets = made([(6, 5, 4, 6, 5, PRODUCT)])
    with torch.no_grad():
        source.weight.fill_(torch.finfo(torch.float32).max)
        source.hidden.zero_()
    (values,) = decode(DecodeSource(*(tensor.detach() for tensor in source)), targets, "tf32")
    assert values.isfinite().all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", [PRODUCT, SCALED])
@pytest.mark.parametrize(
    ("dtype", "least"),
    [(torch.float16, 65520.0), (torch.bfloat16, 2.0**128 - 2.0**119), (torch.float32, float("inf"))],
)
def test_what_rounds_to_a_finite_number_is_finite(kind: TargetKind, dtype: torch.dtype, least: float) -> None:
    assert_rounded_or_refused(kind, dtype, least, DEVICE)


ROW = 1 << 25  # elements of a row of a large parameter; 65 of them are more than 2^31


def large_memory(elements: int) -> torch.Tensor:
    """Zeros that take memory where they are touched alone; on a GPU, all of it."""
    if DEVICE != "cpu":
        return torch.zeros(elements, device=DEVICE)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return torch.frombuffer(mmap.mmap(-1, 4 * elements, flags=flags), dtype=torch.float32)


def of_one_item(targets: Any, memory: Any, tile: int, part: int = 0, parts: int = 1) -> decode_tables.Tables:
    """Tables whose list of items is one, of the first target: this tile, and this part of its repeats."""
    items = decode_tables.item_tables(targets)
    assert all(array.dtype == np.int32 for array in items)
    one = np.array([[0, tile, part, parts]], dtype=np.int32)
    arrays = [decode_tables.target_table(targets, memory), one, one]
    tables = decode_tables.Tables(*(torch.from_numpy(array).to(DEVICE) for array in [*arrays, *[one] * 6]))
    assert decode_tables.TILE * (tile + 1) == ROW
    return tables


def test_gradients_of_more_than_two_to_the_31_elements() -> None:
    """The last elements of the last repeats: their places take 64 bits."""
    rows = 65
    targets = targets_of([(0, 1, ROW, 1, rows, ROW, SCALED)])
    grad, blocks = large_memory(rows * ROW), large_memory(ROW)
    at = torch.tensor([0, 17, rows - 2, rows - 1])
    for row in at.tolist():
        grad[row * ROW + ROW - 3 :][:3] = torch.tensor([1.0, 2.0, 3.0]) * (row + 1)
    tables = of_one_item(targets, None, ROW // decode_tables.TILE - 1)
    _, found = kernels.decode_backward(grad, blocks, tables, 0)
    wanted = torch.tensor([1.0, 2.0, 3.0]) * float((at + 1).sum())
    assert torch.equal(found[-3:].cpu(), wanted)


def test_writing_beyond_two_to_the_31_elements() -> None:
    rows = 65
    targets = targets_of([(0, 1, ROW, 1, rows, ROW, SCALED)])
    blocks, output = large_memory(ROW), large_memory(rows * ROW)
    blocks[-2:] = torch.tensor([5.0, 6.0])
    memory = table(MEMORY, [(output.data_ptr(), 0, (ROW, 1, 1))])
    tables = of_one_item(targets, memory, ROW // decode_tables.TILE - 1, rows - 1, rows)
    status = torch.tensor(decode_tables.FINE.value, dtype=torch.int32, device=DEVICE)
    kernels.store(blocks, blocks, blocks, tables, status, False)
    assert output[-2:].tolist() == [5.0, 6.0]
    assert output[-ROW - 2 : -ROW].tolist() == [0.0, 0.0]  # the row before is another item's


def test_sizes_and_repeats_beyond_32_bits_are_counted_in_64() -> None:
    narrow, wide = targets_of([(0, 4, 4, 1, 2**20, 2**14, SCALED)]), targets_of([(0, 1, 1, 1, 2**17, 2**15, SCALED)])
    assert decode_tables.index_type(narrow) is np.int32
    for targets in (wide, targets_of([(0, 1, 4, 1, 1, 2**31, BIAS)]), np.concatenate([narrow, wide])):
        assert decode_tables.index_type(targets) is np.int64


def test_64_bit_counters_give_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_tables, "index_type", lambda targets: np.int64)
    assert_same_decoding(*made(TARGETS))


def test_tables_are_kept_for_the_same_outputs() -> None:
    source, targets = made(TARGETS[:2])
    outputs = [torch.empty(t.out, t.in_, t.cells, 1, device=DEVICE) for t in targets]
    memory = memory_table(outputs, targets.table)
    first = triton_tables(targets, memory, source.hidden)
    again = triton_tables(targets, memory.copy(), source.hidden)
    assert all(table is known for table, known in zip(again, first, strict=True))
    other = memory_table([output.clone() for output in outputs], targets.table)
    rows, *items = triton_tables(targets, other, source.hidden)
    assert rows is not first[0]
    assert all(table is known for table, known in zip(items, first[1:], strict=True))
    assert not np.array_equal(memory, other)
