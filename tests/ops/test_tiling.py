"""Blocks that larger parameters repeat."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ghnfast.ops.decode import store, tile


@st.composite
def blocks_and_shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    return tuple(draw(st.integers(1, size)) for size in shape), shape


def tiled(block: Tensor, shape: Sequence[int]) -> Tensor:
    index = np.ix_(*(np.arange(size) % length for size, length in zip(shape, block.shape, strict=True)))
    return torch.from_numpy(block.numpy()[index])


def numbered(shape: Sequence[int]) -> Tensor:
    return torch.arange(1.0, math.prod(shape) + 1).view(*shape)


@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(case=blocks_and_shapes())
def test_tile_repeats_as_numpy_indexing_does(case: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    block, shape = case
    assert torch.equal(tile(numbered(block), shape), tiled(numbered(block), shape))


@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(case=blocks_and_shapes(), order=st.permutations(range(4)), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_store_writes_into_memory_of_any_order(
    case: tuple[tuple[int, ...], tuple[int, ...]], order: list[int], dtype: torch.dtype
) -> None:
    block, shape = case
    order = [dim for dim in order if dim < len(shape)]
    memory = torch.full([shape[dim] for dim in order], -1.0, dtype=dtype)
    target = memory.permute([order.index(dim) for dim in range(len(shape))])
    assert target.shape == shape
    store(numbered(block).to(dtype), target)
    assert torch.equal(target, tiled(numbered(block).to(dtype), shape))


def test_store_into_channels_last_and_into_a_part_of_memory() -> None:
    block = numbered((3, 2, 2, 2))
    target = torch.zeros(7, 5, 2, 2).contiguous(memory_format=torch.channels_last)
    store(block, target)
    assert torch.equal(target, tiled(block, (7, 5, 2, 2)))
    memory = torch.zeros(9, 8, 2, 2)
    store(block, memory[1:8, 2:7])
    assert torch.equal(memory[1:8, 2:7], target)
    assert memory.count_nonzero() == target.numel()
