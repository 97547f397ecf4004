"""Shapes of results that torch takes a tenth of a millisecond to compute on the meta device.

Its meta kernels of these functions are written in Python. Each function here answers for the calls that models make,
mostly on contiguous tensors that are not empty, and whose results are contiguous; it answers None where torch itself
has to say what a call gives, or what is wrong with it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, ...] | None


def result_shape(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Shape:
    """The shape of what a function returns: a new contiguous tensor of its first tensor's dtype."""
    answer = SHAPES.get(func)
    if answer is None:
        return None
    try:
        return answer(*args, **kwargs)
    except TypeError:  # other arguments than those that are known here
        return None


@lru_cache(maxsize=4096)
def contiguous_layout(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The sizes (torch reads those of a plain tuple faster than those of a `torch.Size`) and strides of a tensor."""
    strides = accumulate((max(size, 1) for size in reversed(shape[1:])), operator.mul, initial=1)
    return tuple(shape), tuple(strides)[::-1] if shape else ()


def is_plain(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_contiguous() and x.is_floating_point() and x.numel() > 0


def dimensions(x: Tensor, dim: Any) -> set[int] | None:
    """Which dimensions are meant; None where not all are different dimensions of `x`."""
    given = dim if isinstance(dim, (tuple, list)) else (dim,)
    rank = x.ndim
    found = {item % rank for item in given if type(item) is int and -rank <= item < rank}
    return found if found and len(found) == len(given) else None


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
        contiguous = contiguous or tensor.stride() == contiguous_layout(own)[1]
    return (*before, size, *after) if contiguous else None


def contiguous_copy(x: Any) -> Shape:
    return tuple(x.shape) if isinstance(x, Tensor) and not x.is_contiguous() else None


def reduction(x: Any, dim: Any, keepdim: bool = False) -> Shape:
    reduced = dimensions(x, dim) if is_plain(x) else None
    if reduced is None or not isinstance(keepdim, bool):
        return None
    sizes = [1 if at in reduced else size for at, size in enumerate(x.shape)]
    return tuple(size for at, size in enumerate(sizes) if keepdim or at not in reduced)


def scales_in_place(func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether a call divides a tensor by a number, in place: as dropped paths do, by the share of what is kept."""
    return func == Tensor.div_ and len(args) == 2 and is_plain(args[0]) and type(args[1]) in (int, float)


def roll(x: Any, shifts: Any, dims: Any) -> Shape:
    numbers = shifts if isinstance(shifts, (tuple, list)) else (shifts,)
    rolled = dimensions(x, dims) if is_plain(x) else None
    fits = rolled is not None and len(rolled) == len(numbers) and all(type(number) is int for number in numbers)
    return tuple(x.shape) if fits else None


def matrix_product(a: Any, b: Any) -> Shape:
    """Of batches of matrices; its result is contiguous whatever they are."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or not a.ndim == b.ndim >= 3 or a.dtype != b.dtype:
        return None
    left, right = a.shape, b.shape
    fits = left[:-2] == right[:-2] and left[-1] == right[-2] and a.is_floating_point()
    return (*left[:-1], right[-1]) if fits and a.numel() and b.numel() else None


SHAPES: dict[Callable[..., Any], Callable[..., Shape]] = {
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), concatenation),
    Tensor.contiguous: contiguous_copy,
    **dict.fromkeys((torch.mean, Tensor.mean), reduction),
    **dict.fromkeys((torch.sum, Tensor.sum, torch.amax, Tensor.amax), reduction),
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__), matrix_product),
    **dict.fromkeys((torch.roll, Tensor.roll), roll),
}
