"""How tensors lie in memory, and what is asked of the arguments of a call."""

from __future__ import annotations

import math
import operator
from functools import lru_cache
from itertools import accumulate
from typing import Any

from torch import Tensor

Shape = tuple[int, ...] | None
Layout = tuple[tuple[int, ...], tuple[int, ...]]


@lru_cache(maxsize=4096)
def contiguous_layout(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The sizes (torch reads those of a plain tuple faster than those of a `torch.Size`) and strides of a tensor."""
    strides = accumulate((max(size, 1) for size in reversed(shape[1:])), operator.mul, initial=1)
    return tuple(shape), tuple(strides)[::-1] if shape else ()


@lru_cache(maxsize=4096)
def dense_strides(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides of the same order without gaps; None where sizes of 1 or repeated strides leave the order open."""
    order = sorted(range(len(shape)), key=strides.__getitem__)
    if 1 in shape or len(set(strides)) < len(strides) or 0 in strides:
        return None
    found, step = [0] * len(shape), 1
    for at in order:
        found[at] = step
        step *= shape[at]
    return tuple(found)


def is_plain(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_contiguous() and x.is_floating_point() and x.numel() > 0


def is_exact(x: Any) -> bool:
    """Whether a tensor has the very strides that torch gives to new ones: results take after dimensions of size 1."""
    return is_plain(x) and x.stride() == contiguous_layout(x.shape)[1]


def is_image(x: Any) -> bool:
    """Whether it is no image, sequence or volume of single places, which torch may take for one with channels last."""
    return is_exact(x) and not (x.ndim in (4, 5) and math.prod(x.shape[2:]) == 1)


def is_number(item: Any) -> bool:
    return type(item) in (int, float)


def dimensions(x: Tensor, dim: Any) -> set[int] | None:
    """Which dimensions are meant; None where not all are different dimensions of `x`."""
    given = dim if isinstance(dim, (tuple, list)) else (dim,)
    rank = x.ndim
    found = {item % rank for item in given if type(item) is int and -rank <= item < rank}
    return found if found and len(found) == len(given) else None


def as_counts(value: Any, count: int) -> tuple[int, ...] | None:
    """A number for each of so many dimensions."""
    given = (value,) * count if type(value) is int else value
    fits = isinstance(given, (tuple, list)) and all(type(number) is int for number in given)
    if fits and len(given) == 1:
        given = tuple(given) * count
    return tuple(given) if fits and len(given) == count else None
