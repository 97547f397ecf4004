"""The definition of the operation, in plain PyTorch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .targets import DecodeSource, DecodeTargets, NotFinite, Target, TargetKind


def naive_blocks(source: DecodeSource, targets: DecodeTargets) -> list[Tensor]:
    """The normalized blocks of all targets, each (rows, columns, cells)."""
    blocks: list[Tensor | None] = [None] * len(targets.table)
    numbered = [(index, target) for index, target in enumerate(targets) if target.kind == TargetKind.PRODUCT]
    for (rows, columns, cells), group in itertools.groupby(numbered, key=lambda item: block_shape(item[1])):
        members = list(group)
        at = torch.tensor([target.first for _, target in members], device=source.hidden.device)
        cell = at[:, None] + torch.arange(cells, device=at.device)
        weight = source.weight[:rows, :columns].flatten(0, 1)
        products = F.linear(source.hidden[cell], weight, source.bias[:rows, :columns].flatten())
        for (index, _), product in zip(members, products.transpose(1, 2).unflatten(1, (rows, columns)), strict=True):
            blocks[index] = product
    for index, target in enumerate(targets):
        shape = block_shape(target)
        block = blocks[index]
        if block is None:
            block = source.blocks[target.first : target.first + math.prod(shape)].view(shape)
        blocks[index] = normalize(block, target.kind, target.scale)
    return blocks  # type: ignore[return-value]


def block_shape(target: Target) -> tuple[int, int, int]:
    return target.rows, target.columns, target.cells


def normalize(block: Tensor, kind: int, scale: float) -> Tensor:
    """A block as `normalization` says."""
    if kind == TargetKind.NORM_WEIGHT:
        return 2 * torch.sigmoid(block / 2)
    return torch.tanh(block / 5) if kind == TargetKind.BIAS else block * scale


def naive_decode_into(source: DecodeSource, targets: DecodeTargets, outputs: Sequence[Tensor]) -> None:
    places: list[Tensor] = []
    values: list[Tensor] = []
    for index, (block, output) in enumerate(zip(naive_blocks(source, targets), outputs, strict=True)):
        block = block.to(output.device, output.dtype)
        if not torch.isfinite(block).all():
            raise NotFinite(index)
        block = block.flatten() if output.ndim == 1 else block.flatten(1) if output.ndim == 2 else block
        for place, value in stores(block.unflatten(2, output.shape[2:]) if output.ndim == 4 else block, output):
            places.append(place)
            values.append(value)
    copy_all(places, values)


def copy_all(places: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into tensors that they broadcast to, in one call: nothing in Python comes between two copies."""
    if places:
        # Where torch reads memory as its negative, it does not write in one call: the memory itself gets the negative.
        negative = [place.is_neg() for place in places]
        memory = [torch._neg_view(place) if neg else place for place, neg in zip(places, negative, strict=True)]
        values = [-value if neg else value for value, neg in zip(values, negative, strict=True)]
        with torch.inference_mode(any(place.is_inference() for place in places)):
            torch._foreach_copy_([place.detach() for place in memory], values)


def tile(block: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of `shape` that repeats `block`: entry i, j, ... is block[i mod rows, j mod columns, ...].

    Args:
        block: no dimension longer than the same one of `shape`.
    """
    for dim, size in enumerate(shape):
        index = torch.arange(size, device=block.device) % block.shape[dim]
        block = block if block.shape[dim] == size else block.index_select(dim, index)
    return block


def store(block: Tensor, target: Tensor) -> None:
    """Write `tile(block, target.shape)` into `target`, without a temporary of its size."""
    copy_all(*zip(*stores(block, target), strict=True))


def stores(block: Tensor, target: Tensor, dim: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """What `store` copies: parts of the target, and what is broadcast to them.

    Args:
        dim: the dimensions before it are settled: of equal size, or broadcast.
    """
    while dim < target.ndim and block.shape[dim] == target.shape[dim]:
        dim += 1
    if dim == target.ndim:
        yield target, block
        return
    length = block.shape[dim]
    repeats, rest = divmod(target.shape[dim], length)
    if repeats:
        # Splitting a dimension is a view whatever the strides are; the block broadcasts along the repeats.
        whole = target.narrow(dim, 0, repeats * length).unflatten(dim, (repeats, length))
        yield from stores(block.unsqueeze(dim), whole, dim + 2)
    if rest:
        yield from stores(block.narrow(dim, 0, rest), target.narrow(dim, repeats * length, rest), dim + 1)
