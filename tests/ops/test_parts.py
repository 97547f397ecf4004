"""Memory as many tensors: equal to views of it, with one step in torch's graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ghnfast.ops.decode import send_back
from ghnfast.ops.decode.parts import parts_of

SHAPES = [(2, 3), (4,), (1, 2, 3, 1), (5, 1), (3, 2)]
SIZES = [6, 4, 6, 5, 6]


def values_and_gradient(ours: bool, skipped: set[int], dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    leaf = torch.linspace(-1, 1, sum(SIZES), dtype=dtype).requires_grad_()
    flat = leaf * 2
    parts = [part.view(shape) for part, shape in zip(flat.split(SIZES), SHAPES, strict=True)]
    values = parts_of(flat, SIZES, SHAPES) if ours else parts
    chosen = [index for index in range(len(SHAPES)) if index not in skipped]
    grads = [torch.arange(values[i].numel(), dtype=dtype).view(SHAPES[i]) + i for i in chosen]
    grads = [grad.mT.contiguous().mT if grad.ndim == 2 else grad for grad in grads]  # of any layout
    (send_back if ours else torch.autograd.backward)([values[i] for i in chosen], grads)
    assert leaf.grad is not None
    return values, leaf.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("skipped", [set(), {0}, {1, 3}, {0, 1, 2, 4}])
def test_parts_are_views_and_their_gradients_go_to_the_memory(skipped: set[int], dtype: torch.dtype) -> None:
    (wanted, gradient), (found, own) = (values_and_gradient(ours, skipped, dtype) for ours in (False, True))
    assert all(map(torch.equal, found, wanted))
    assert torch.equal(own, gradient)


def test_all_parts_are_outputs_of_one_step() -> None:
    flat = torch.ones(sum(SIZES), requires_grad=True) * 1
    values = parts_of(flat, SIZES, SHAPES)
    assert len({value.grad_fn for value in values}) == 1
    assert len({value.untyped_storage().data_ptr() for value in values}) == 1
    send_back([], [])


def test_within_transformations_of_functions() -> None:
    def loss(flat: Tensor) -> Tensor:
        return torch.stack([value.square().sum() for value in parts_of(flat, SIZES, SHAPES)]).sum()

    flat = torch.randn(sum(SIZES))
    torch.testing.assert_close(torch.func.grad(loss)(flat), 2 * flat)
