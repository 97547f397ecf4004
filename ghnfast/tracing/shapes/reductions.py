"""Shapes of functions whose results have fewer elements, and of products of matrices."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .elementwise import along
from .layouts import Shape, dimensions, is_exact, is_image, is_number, is_plain


def reduction(x: Any, dim: Any, keepdim: bool = False) -> Shape:
    reduced = dimensions(x, dim) if is_plain(x) else None
    if reduced is None or not isinstance(keepdim, bool):
        return None
    sizes = [1 if at in reduced else size for at, size in enumerate(x.shape)]
    return tuple(size for at, size in enumerate(sizes) if keepdim or at not in reduced)


def vector_norm(x: Any, ord: Any = 2, dim: Any = None, keepdim: Any = False) -> Shape:
    return reduction(x, dim, keepdim) if is_exact(x) and is_number(ord) else None


def norm(x: Any, p: Any = "fro", dim: Any = None, keepdim: Any = False) -> Shape:
    one = type(dim) is int or (isinstance(dim, (tuple, list)) and len(dim) == 1)
    return reduction(x, dim, keepdim) if one and is_exact(x) and (p in ("fro", None) or is_number(p)) else None


def spread(x: Any, dim: Any, unbiased: Any = True, keepdim: Any = False, *, correction: Any = 1) -> Shape:
    return reduction(x, dim, keepdim) if isinstance(unbiased, bool) and type(correction) is int else None


def similarity(a: Any, b: Any, dim: Any = 1, eps: Any = 1e-8) -> Shape:
    fits = is_plain(a) and is_plain(b) and a.shape == b.shape and a.dtype is b.dtype and type(dim) is int
    return reduction(a, dim) if fits and type(eps) is float else None


def gated(x: Any, dim: Any = -1) -> Shape:
    if along(x, dim) is None or not is_image(x) or x.shape[dim] % 2:
        return None
    at = dim % x.ndim
    return tuple(size // 2 if index == at else size for index, size in enumerate(x.shape))


def matrix_product(a: Any, b: Any) -> Shape:
    """Of batches of matrices; its result is contiguous whatever they are."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or not a.ndim == b.ndim >= 3 or a.dtype != b.dtype:
        return None
    left, right = a.shape, b.shape
    fits = left[:-2] == right[:-2] and left[-1] == right[-2] and a.is_floating_point()
    return (*left[:-1], right[-1]) if fits and a.numel() and b.numel() else None


def batch_product(a: Any, b: Any) -> Shape:
    return matrix_product(a, b) if isinstance(a, Tensor) and a.ndim == 3 else None
