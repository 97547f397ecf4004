"""Gradients of products, against their definition."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from helpers.kernel_device import DEVICE
from helpers.table_rows import targets_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ghnfast.kernels import products as kernels
from ghnfast.ops.decode import DecodeSource, DecodeTargets, decode, naive_blocks
from ghnfast.ops.decode.operators import product_gradients
from ghnfast.ops.uploads import uploaded

ROWS, COLUMNS = 7, 20


@st.composite
def runs(draw: Any) -> list[list[int]]:
    """Runs of products, in any order of their hidden rows, some rows between them in none."""
    found, first = [], 0
    for _ in range(draw(st.integers(0, 6))):
        first += draw(st.integers(0, 2))
        count = draw(st.integers(1, 40))
        found.append([draw(st.integers(1, ROWS)), draw(st.integers(1, COLUMNS)), first, first + count])
        first += count
    return with_starts(list(draw(st.permutations(found))))


def with_starts(runs: list[list[int]]) -> list[list[int]]:
    """Their products lie one behind the other."""
    sizes = [rows * columns * (last - first) for rows, columns, first, last in runs]
    return [[*run, end - size] for run, end, size in zip(runs, itertools.accumulate(sizes), sizes, strict=True)]


@given(runs(), st.integers(1, 70))
@settings(max_examples=8, deadline=None)
def test_gradients_of_products(found: list[list[int]], width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    elements = sum(rows * columns * (last - first) for rows, columns, first, last, _ in found)
    hidden_rows = max((last for *_, last, _ in found), default=0) + 1
    shapes = (elements,), (hidden_rows, width), (ROWS, COLUMNS, width), (ROWS, COLUMNS)
    products, hidden, weight, bias = (torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes)
    table = torch.tensor(found, dtype=torch.int64).view(-1, 5)
    table_on_device, items, _ = uploaded(kernels.run_tables(table.numpy()), torch.device(DEVICE))
    ours = kernels.product_gradients(products, hidden, weight, bias, table_on_device, items)
    wanted = product_gradients(products, hidden, weight, bias, table)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def test_rows_that_two_products_read() -> None:
    """Such rows have the gradients of both."""
    targets = DecodeTargets(targets_of([(0, 2, 3, 4, 2, 3, 0), (2, 3, 3, 4, 3, 6, 0)], 0.5))
    source = DecodeSource(torch.randn(6, 8), torch.randn(3, 3, 8), torch.randn(3, 3), torch.zeros(0))
    source = DecodeSource(*(tensor.to(DEVICE).requires_grad_() for tensor in source))
    first, second = decode(source, targets)
    ours = torch.autograd.grad(first.square().sum() + second.square().sum(), source[:3])
    blocks = naive_blocks(source, targets)
    wanted = torch.autograd.grad(blocks[0].square().sum() + 2 * blocks[1].square().sum(), source[:3])
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 50])
def test_launches_do_not_grow_with_products(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    launched: list[str] = []
    monkeypatch.setattr(kernels, "launch", lambda kernel, grid, *_, **__: launched.append(kernel.fn.__name__))
    runs = with_starts([[1 + index % 7, 3, index, index + 1] for index in range(count)])
    table = torch.tensor(runs, dtype=torch.int64).view(-1, 5)
    tensors = torch.zeros(0), torch.zeros(50, 8), torch.zeros(ROWS, COLUMNS, 8), torch.zeros(ROWS, COLUMNS)
    kernels.product_gradients(*tensors, *map(torch.from_numpy, kernels.run_tables(table.numpy())[:2]))
    assert launched == ["hidden_gradient_kernel", "weight_gradient_kernel"][not count :]
