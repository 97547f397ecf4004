"""ghnfast/ops/decode.py: what runs against what defines it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ghnfast.errors import BackendError
from ghnfast.ops.decode import (
    DecodeSource,
    DecodeTargets,
    NotFinite,
    Role,
    TargetKind,
    decode,
    decode_into,
    decode_into_op,
    decode_op,
    naive_blocks,
    normalization,
    tile,
)

PRODUCT, SCALED, NORM_WEIGHT, BIAS = TargetKind
# (rows, columns, cells, out, in, kind)
TARGETS = [
    (6, 5, 9, 6, 5, PRODUCT),
    (6, 5, 9, 20, 17, PRODUCT),
    (6, 5, 1, 13, 5, PRODUCT),
    (6, 1, 25, 13, 1, PRODUCT),
    (2, 5, 4, 2, 11, PRODUCT),
    (1, 7, 1, 1, 30, NORM_WEIGHT),
    (1, 7, 1, 1, 7, BIAS),
    (10, 5, 1, 10, 33, SCALED),
]


def make(
    targets: list[tuple[int, ...]], dtype: torch.dtype = torch.float32, sizes: tuple[int, int, int] = (6, 5, 16)
) -> tuple[DecodeSource, DecodeTargets]:
    """A source that requires gradients, and targets whose blocks lie one behind the other."""
    generator = torch.Generator().manual_seed(len(targets))
    first = {True: 0, False: 0}
    table, scales = [], []
    for rows, columns, cells, out, in_, kind in targets:
        product = kind == PRODUCT
        table.append((first[product], rows, columns, cells, out, in_, kind))
        first[product] += cells if product else rows * columns * cells
        scales.append(0.25 + len(table) / 8 if kind in (PRODUCT, SCALED) else 1.0)
    shapes = [(first[True], sizes[2]), sizes, sizes[:2], (first[False],)]
    source = DecodeSource(*(torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes))
    return source, DecodeTargets(torch.tensor(table).reshape(-1, 7).numpy(), torch.tensor(scales).double().numpy())


def naive(source: DecodeSource, targets: DecodeTargets) -> list[Tensor]:
    shapes = [(target.out, target.in_, target.cells) for target in targets]
    return [tile(block, shape) for block, shape in zip(naive_blocks(source, targets), shapes, strict=True)]


def assert_same_as_naive(source: DecodeSource, targets: DecodeTargets) -> None:
    ours, wanted = decode(source, targets), naive(source, targets)
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
    grads = [torch.randn_like(value) for value in wanted]
    found = torch.autograd.grad(ours, source, grads)
    expected = torch.autograd.grad(wanted, source, grads, allow_unused=True, materialize_grads=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, float(b.abs().max()) if b.numel() else 1.0))


def test_values_and_gradients() -> None:
    assert_same_as_naive(*make(TARGETS))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_targets(data: st.DataObject) -> None:
    sizes = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([4, 32])))
    targets: list[tuple[int, ...]] = []
    for _ in range(data.draw(st.integers(1, 5))):
        out, in_, cells = (data.draw(st.integers(1, limit)) for limit in (30, 30, 30))
        kind = data.draw(st.sampled_from([PRODUCT, PRODUCT, SCALED]))
        targets.append((min(out, sizes[0]), min(in_, sizes[1]), cells, out, in_, kind))
    assert_same_as_naive(*make(targets, sizes=sizes))


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
        tolerance = {} if dtype.itemsize == 2 else {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(output.reshape(value.shape), value.to(dtype), **tolerance)
        assert output._version > version  # autograd sees the write


@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize("index", [0, 4, 7])
def test_nothing_is_written_where_a_value_is_not_finite(
    monkeypatch: pytest.MonkeyPatch, backend: str, index: int
) -> None:
    monkeypatch.setenv("GHNFAST_BACKEND", backend)
    source, targets = make(TARGETS)
    targets.scales[index] = 1e39
    outputs = [torch.full((target.out, target.in_ * target.cells), 5.0) for target in targets]
    outputs = [o.view(t.out, t.in_, t.cells, 1) for o, t in zip(outputs, targets, strict=True)]
    with torch.no_grad(), pytest.raises(NotFinite) as caught:
        decode_into(source, targets, outputs)
    assert caught.value.index == index
    assert all((output == 5).all() for output in outputs)


def test_operators() -> None:
    """Schema, fake implementations, autograd registration and torch.compile's view of the operators."""
    source, targets = make(TARGETS)
    table = torch.from_numpy(targets.table), torch.from_numpy(targets.scales)
    elements = sum(target.out * target.in_ * target.cells for target in targets)
    torch.library.opcheck(decode_op, (*source, *table, elements))
    outputs = [torch.empty(target.out, target.in_, target.cells, 1) for target in targets]
    torch.library.opcheck(decode_into_op, (*(tensor.detach() for tensor in source), *table, outputs))


def test_outputs_of_other_sizes_are_rejected() -> None:
    source, targets = make(TARGETS[:2])
    table = torch.from_numpy(targets.table), torch.from_numpy(targets.scales)
    with torch.no_grad(), pytest.raises(ValueError, match="the sizes of the outputs differ"):
        decode_into_op(*source, *table, [torch.empty(6, 5, 3, 3), torch.empty(20, 17, 3, 2)])


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
    with pytest.raises(BackendError, match="'numpy'; 'torch' and 'cpp' are accepted"):
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
