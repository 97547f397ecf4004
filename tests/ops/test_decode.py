"""ghnfast/ops/decode: what runs against what defines it."""

from __future__ import annotations

from typing import Any

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
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ghnfast.errors import BackendError
from ghnfast.ops.decode import (
    DecodeSource,
    NotFinite,
    Role,
    TargetKind,
    as_tensor,
    decode,
    decode_into,
    decode_into_op,
    decode_op,
    memory_table,
    normalization,
    product_runs,
)


def test_values_and_gradients() -> None:
    assert_same_decoding(*make(TARGETS))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_targets(data: st.DataObject) -> None:
    sizes = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([4, 32])))
    targets: list[tuple[int, ...]] = []
    for _ in range(data.draw(st.integers(1, 5))):
        out, in_, cells = (data.draw(st.integers(1, limit)) for limit in (30, 30, 30))
        kind = data.draw(st.sampled_from([PRODUCT, PRODUCT, SCALED]))
        targets.append((min(out, sizes[0]), min(in_, sizes[1]), cells, out, in_, kind))
    assert_same_decoding(*make(targets, sizes=sizes))


@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_writing_gives_the_same_values(monkeypatch: pytest.MonkeyPatch, backend: str, dtype: torch.dtype) -> None:
    """In every dtype, and into memory of every layout."""
    source, targets = make(TARGETS)
    wanted = naive(source, targets)
    monkeypatch.setenv("GHNFAST_BACKEND", backend)
    outputs = [torch.empty(value.shape, dtype=dtype) for value in wanted]
    shaped = [
        outputs[0].view(6, 5, 3, 3),
        torch.empty(20, 17, 3, 3, dtype=dtype).to(memory_format=torch.channels_last),
        torch.empty(5, 26, dtype=dtype)[:, ::2].T,
        torch.empty(13, 1, 5, 5, dtype=dtype).transpose(2, 3),  # cells that are not evenly spaced
        outputs[4].view(2, 11, 2, 2),
        torch.empty(60, dtype=dtype)[::2],
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


@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize("index", [0, 4, 7])
def test_nothing_is_written_where_a_value_is_not_finite(
    monkeypatch: pytest.MonkeyPatch, backend: str, index: int
) -> None:
    monkeypatch.setenv("GHNFAST_BACKEND", backend)
    source, targets = make(TARGETS)
    targets.table["scale"][index] = 1e39
    outputs = [torch.full((target.out, target.in_ * target.cells), 5.0) for target in targets]
    outputs = [o.view(t.out, t.in_, t.cells, 1) for o, t in zip(outputs, targets, strict=True)]
    with torch.no_grad(), pytest.raises(NotFinite) as caught:
        decode_into(source, targets, outputs)
    assert caught.value.index == index
    assert all((output == 5).all() for output in outputs)


# The first value that rounds to infinity in each dtype, of float32.
LEAST_INFINITE = {torch.float16: 65520.0, torch.bfloat16: 2.0**128 - 2.0**119, torch.float32: float("inf")}


@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize("kind", [PRODUCT, SCALED])
@pytest.mark.parametrize("dtype", LEAST_INFINITE)
def test_what_rounds_to_a_finite_number_is_finite(
    monkeypatch: pytest.MonkeyPatch, backend: str, kind: TargetKind, dtype: torch.dtype
) -> None:
    monkeypatch.setenv("GHNFAST_BACKEND", backend)
    assert_rounded_or_refused(kind, dtype, LEAST_INFINITE[dtype], "cpu")


def test_operators() -> None:
    """Schema, fake implementations, autograd registration and torch.compile's view of the operators."""
    source, targets = make(TARGETS)
    elements = sum(target.out * target.in_ * target.cells for target in targets)
    runs = product_runs(targets.table)
    torch.library.opcheck(decode_op, (*source, [as_tensor(targets.table)], elements, runs, "float32"))
    outputs = [torch.empty(target.out, target.in_, target.cells, 1) for target in targets]
    tables = [as_tensor(table) for table in (targets.table, memory_table(outputs, targets.table))]
    source = DecodeSource(*(tensor.detach() for tensor in source))
    # The table of memory holds addresses: operators on copies of the outputs, as other checks make, would miss them.
    torch.library.opcheck(decode_into_op, (*source, tables, outputs, "float32"), test_utils="test_schema")
    torch.library.opcheck(decode_into_op, (*source, tables, outputs, "float32"), test_utils="test_faketensor")


def test_outputs_of_other_sizes_are_rejected() -> None:
    source, targets = make(TARGETS[:2])
    with torch.no_grad(), pytest.raises(ValueError, match="the sizes of the outputs differ"):
        decode_into(source, targets, [torch.empty(6, 5, 3, 3), torch.empty(20, 17, 3, 2)])


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_gradcheck(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setenv("GHNFAST_BACKEND", backend)
    targets = [
        (3, 2, 2, 7, 5, PRODUCT),
        (3, 1, 4, 4, 1, PRODUCT),
        (1, 4, 1, 1, 6, NORM_WEIGHT),
        (1, 3, 1, 1, 7, BIAS),
        (2, 2, 1, 3, 5, SCALED),
    ]
    source, table = make(targets, torch.float64, (3, 2, 4))

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(decode(DecodeSource(*tensors), table))

    assert torch.autograd.gradcheck(run, tuple(source))


def test_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    source, targets = make(TARGETS)
    monkeypatch.setenv("GHNFAST_BACKEND", "torch")
    for ours, wanted in zip(decode(source, targets), naive(source, targets), strict=True):
        assert torch.equal(ours, wanted)
    monkeypatch.setenv("GHNFAST_BACKEND", "numpy")
    with pytest.raises(BackendError, match="'numpy'; 'torch', 'cpp', 'triton' are accepted"):
        decode(source, targets)


@pytest.mark.parametrize(
    ("shape", "role", "expected"),
    [
        ((64, 32, 3, 3), Role.WEIGHT, (SCALED, (2 / 288) ** 0.5)),
        ((64, 1, 3, 3), Role.WEIGHT, (SCALED, (1 / 9) ** 0.5)),
        ((64, 32, 1, 7), Role.WEIGHT, (SCALED, (1 / 224) ** 0.5)),
        ((64, 32, 7, 1), Role.WEIGHT, (SCALED, (2 / 224) ** 0.5)),
        ((10, 100), Role.WEIGHT, (SCALED, 0.02**0.5)),
        ((1, 100, 7, 7), Role.POSITION, (SCALED, 1.0)),
        ((10,), Role.NORM_WEIGHT, (NORM_WEIGHT, 1.0)),
        ((10,), Role.BIAS, (BIAS, 1.0)),
    ],
)
def test_normalization(shape: tuple[int, ...], role: Role, expected: tuple[TargetKind, float]) -> None:
    assert normalization(shape, role) == pytest.approx(expected)
