"""Random targets for the tests of decoding, and their comparison with the definition."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ghnfast.ops.decode import (
    DecodeSource,
    DecodeTargets,
    NotFinite,
    TargetKind,
    decode,
    decode_into,
    naive_blocks,
    tile,
)
from helpers.table_rows import targets_of

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
    targets: Sequence[tuple[int, ...]],
    dtype: torch.dtype = torch.float32,
    sizes: tuple[int, int, int] = (6, 5, 16),
    device: str = "cpu",
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
    tensors = (torch.randn(shape, generator=generator, dtype=dtype).to(device) for shape in shapes)
    source = DecodeSource(*(tensor.requires_grad_() for tensor in tensors))
    return source, DecodeTargets(targets_of(table, scales))


def naive(source: DecodeSource, targets: DecodeTargets) -> list[Tensor]:
    shapes = [(target.out, target.in_, target.cells) for target in targets]
    return [tile(block, shape) for block, shape in zip(naive_blocks(source, targets), shapes, strict=True)]


def assert_same_decoding(source: DecodeSource, targets: DecodeTargets) -> None:
    ours, wanted = decode(source, targets), naive(source, targets)
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
    grads = [torch.randn_like(value) for value in wanted]
    found = torch.autograd.grad(ours, source, grads)
    expected = torch.autograd.grad(wanted, source, grads, allow_unused=True, materialize_grads=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, float(b.abs().max()) if b.numel() else 1.0))


def assert_rounded_or_refused(kind: TargetKind, dtype: torch.dtype, least: float, device: str) -> None:
    """Values around the least that rounds to infinity in a dtype: they are what torch rounds them to, or refused."""
    source, targets = make([(1, 1, 1, 3, 2, kind)], device=device)
    targets.table["scale"] = 1
    limit = torch.tensor(least)
    below = torch.nextafter(limit, torch.tensor(0.0))
    for value in (
        below * 0.999,
        below,
        limit,
        torch.nextafter(limit, torch.tensor(torch.inf)),
        torch.tensor(torch.inf),
    ):
        for number in (value.item(), -value.item()):
            with torch.no_grad():
                source.weight.zero_()
                source.bias.fill_(number)
                source.blocks.fill_(number)
                output = torch.full((3, 2), 5.0, dtype=dtype, device=device)
                if abs(number) < least:
                    decode_into(source, targets, [output])
                    assert torch.equal(output, torch.tensor(number).to(output).expand(3, 2))
                    assert output.isfinite().all()
                    continue
                with pytest.raises(NotFinite):
                    decode_into(source, targets, [output])
                assert (output == 5).all()
