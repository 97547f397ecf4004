"""Random inputs of attention, and its comparison with the definition."""

from __future__ import annotations

import torch
from torch import Tensor

from ghnfast.ops.attention import CODES, Relations, attention, naive_attention


def attention_inputs(
    relations: Relations,
    heads: int,
    width: int,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv and the table, which require gradients, and a gradient of the result."""
    generator = torch.Generator().manual_seed(seed)
    nodes = int(relations.graph_offsets[-1])

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

    qkv, table = made(nodes, 3 * heads * width), 2 * made(CODES, heads)
    return qkv.requires_grad_(), table.requires_grad_(), made(nodes, heads * width)


def assert_same_attention(relations: Relations, qkv: Tensor, table: Tensor, grad: Tensor) -> None:
    """Values within 1e-5, gradients within 1e-5 of their largest; in double precision within 1e-11."""
    tolerance = 1e-5 if qkv.dtype == torch.float32 else 1e-11
    ours, naive = attention(qkv, table, relations), naive_attention(qkv, table, relations)
    torch.testing.assert_close(ours, naive, rtol=tolerance, atol=tolerance)
    found = torch.autograd.grad(ours, [qkv, table], grad)
    wanted = torch.autograd.grad(naive, [qkv, table], grad)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1, float(b.abs().max())))
