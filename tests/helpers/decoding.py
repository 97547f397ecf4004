"""Random targets for the tests of decoding, and their comparison with the definition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ghnfast.ops.decode import DecodeSource, DecodeTargets, TargetKind, decode, naive_blocks, tile

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
    return source, DecodeTargets(torch.tensor(table).reshape(-1, 7).numpy(), torch.tensor(scales).double().numpy())


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
