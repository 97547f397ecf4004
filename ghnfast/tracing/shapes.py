"""Shapes of results that torch takes a tenth of a millisecond to compute on the meta device.

Its meta kernels of these functions are written in Python. Each function here answers for the calls that models make,
mostly on contiguous tensors that are not empty, and whose results are contiguous; it answers None where torch itself
has to say what a call gives, or what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable
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


def is_plain(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_contiguous() and x.is_floating_point() and x.numel() > 0


def dimensions(x: Tensor, dim: Any) -> set[int] | None:
    """Which dimensions are meant; None where not all are different dimensions of `x`."""
    given = dim if isinstance(dim, (tuple, list)) else (dim,)
    rank = x.ndim
    found = {item % rank for item in given if type(item) is int and -rank <= item < rank}
    return found if found and len(found) == len(given) else None


def concatenation(tensors: Any, dim: Any = 0) -> Shape:
    if not isinstance(tensors, (list, tuple)) or not tensors or not is_plain(tensors[0]):
        return None
    first, rank = tensors[0].shape, tensors[0].ndim
    if type(dim) is not int or not -rank <= dim < rank:
        return None
    at = dim % rank
    before, after, dtype = first[:at], first[at + 1 :], tensors[0].dtype
    size = 0
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or tensor.dtype is not dtype or not tensor.is_contiguous():
            return None
        shape = tensor.shape
        if len(shape) != rank or shape[:at] != before or shape[at + 1 :] != after or not shape[at]:
            return None
        size += shape[at]
    return (*before, size, *after)


def reduction(x: Any, dim: Any, keepdim: bool = False) -> Shape:
    reduced = dimensions(x, dim) if is_plain(x) else None
    if reduced is None or not isinstance(keepdim, bool):
        return None
    sizes = [1 if at in reduced else size for at, size in enumerate(x.shape)]
    return tuple(size for at, size in enumerate(sizes) if keepdim or at not in reduced)


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
    **dict.fromkeys((torch.mean, Tensor.mean), reduction),
    **dict.fromkeys((torch.sum, Tensor.sum, torch.amax, Tensor.amax), reduction),
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__), matrix_product),
    **dict.fromkeys((torch.roll, Tensor.roll), roll),
}
