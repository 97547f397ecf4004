"""Memory as many tensors, and their gradients as one: two steps of torch's graph, however many tensors there are.

A view of its own for each would be a step of its own, which takes longer on the host than what it does on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Parts(torch.autograd.Function):
    """Parts of memory, one behind the other, as tensors with shapes."""

    @staticmethod
    def forward(flat: Tensor, sizes: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
        return tuple(views_of(flat.detach(), sizes, shapes))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.sizes = inputs[1]
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None]:
        known = next((grad for grad in grads if grad is not None), None)
        if known is None:
            return None, None, None
        return torch.cat([
            known.new_zeros(size) if grad is None else grad.reshape(-1)
            for grad, size in zip(grads, ctx.sizes, strict=True)
        ]), None, None  # fmt: skip


class Given(torch.autograd.Function):
    """A zero whose gradient, times 1, gives tensors these gradients."""

    @staticmethod
    def forward(ctx: Any, grads: Sequence[Tensor], *values: Tensor) -> Tensor:
        ctx.grads = grads
        return values[0].new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grads, ctx.grads = ctx.grads, None
        return None, *grads


def parts_of(flat: Tensor, sizes: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Parts of memory, one behind the other, as tensors with shapes; differentiable once.

    Args:
        flat: (elements,).
        sizes: the elements of each.
    """
    if torch.is_grad_enabled() and flat.requires_grad:
        return list(Parts.apply(flat, sizes, shapes))
    return views_of(flat, sizes, shapes)


def views_of(flat: Tensor, sizes: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    return [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]


def send_back(values: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    """`torch.autograd.backward(values, grads)`, which looks at each of them in Python."""
    if values:
        Given.apply(grads, *values).backward()
