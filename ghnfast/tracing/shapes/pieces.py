"""Shapes of functions that put tensors together, pick from them, or move what is in them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .layouts import Shape, contiguous_layout, dimensions, is_exact, is_plain


def concatenation(tensors: Any, dim: Any = 0) -> Shape:
    """The result is contiguous where torch sees no other memory format in one of the tensors: only images have one."""
    if not isinstance(tensors, (list, tuple)) or not tensors:
        return None
    first = tensors[0]
    if not isinstance(first, Tensor) or not first.is_floating_point() or not first.numel():
        return None
    shape, dtype = first.shape, first.dtype
    rank = len(shape)
    if type(dim) is not int or not -rank <= dim < rank:
        return None
    at = dim % rank
    before, after = shape[:at], shape[at + 1 :]
    size, contiguous = 0, rank not in (4, 5)
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or tensor.dtype is not dtype:
            return None
        own = tensor.shape
        if own != shape:  # the last one that fitted
            if len(own) != rank or own[:at] != before or own[at + 1 :] != after or not own[at]:
                return None
            shape = own
        size += own[at]
        contiguous = contiguous or has_leading_channels(tensor.stride(), own)
    return (*before, size, *after) if contiguous else None


def has_leading_channels(strides: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether an image is contiguous, or a part of one that torch does not take for one with its channels last."""
    return strides == contiguous_layout(shape)[1] or (strides[-1] == 1 and strides[1] * shape[1] > strides[1] > 1)


def stacked(tensors: Any, dim: Any = 0) -> Shape:
    if not isinstance(tensors, (tuple, list)) or not tensors or type(dim) is not int:
        return None
    first = tensors[0]
    if not all(is_exact(item) and item.shape == first.shape and item.dtype is first.dtype for item in tensors):
        return None
    rank = first.ndim + 1
    if not -rank <= dim < rank:
        return None
    at = dim % rank
    return (*first.shape[:at], len(tensors), *first.shape[at:])


def contiguous_copy(x: Any) -> Shape:
    return tuple(x.shape) if isinstance(x, Tensor) and not x.is_contiguous() else None


def looked_up(x: Any, rows: Any) -> Shape:
    """Rows of a table, by number."""
    if not isinstance(rows, Tensor) or rows.dtype is not torch.int64 or not rows.numel() or not is_exact(x):
        return None
    plain = x.ndim > 0 and rows.ndim > 0 and rows.is_contiguous()
    return (*rows.shape, *x.shape[1:]) if plain else None


def roll(x: Any, shifts: Any, dims: Any) -> Shape:
    numbers = shifts if isinstance(shifts, (tuple, list)) else (shifts,)
    rolled = dimensions(x, dims) if is_plain(x) else None
    fits = rolled is not None and len(rolled) == len(numbers) and all(type(number) is int for number in numbers)
    return tuple(x.shape) if fits else None
