"""Shapes of functions whose results have the shape of what goes in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .layouts import Shape, contiguous_layout, dimensions, is_exact, is_number


def elementwise(*operands: Any) -> Shape:
    """Of tensors of one dtype, masks and numbers; one of them has the shape of the result."""
    tensors = [item for item in operands if isinstance(item, Tensor)]
    numbers = [item for item in tensors if item.dtype is not torch.bool]
    if not numbers or not all(map(is_exact, numbers)) or len({item.dtype for item in numbers}) > 1:
        return None
    if not all(is_number(item) for item in operands if not isinstance(item, Tensor)):
        return None
    exact = all(item.stride() == contiguous_layout(item.shape)[1] for item in tensors)
    largest = max(tensors, key=lambda item: (item.ndim, item.numel())).shape
    return tuple(largest) if exact and all(broadcasts_to(item.shape, largest) for item in tensors) else None


def broadcasts_to(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """`torch.broadcast_shapes` would import sympy."""
    last = target[len(target) - len(shape) :]
    return len(shape) <= len(target) and all(a in (1, b) for a, b in zip(shape, last, strict=True))


def unary(x: Any) -> Shape:
    return elementwise(x) if isinstance(x, Tensor) else None


def binary(a: Any, b: Any) -> Shape:
    return elementwise(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else None


def with_number(a: Any, b: Any) -> Shape:
    fits = isinstance(a, Tensor) and not (isinstance(b, Tensor) and b.dtype is torch.bool)
    return elementwise(a, b) if fits and a.is_floating_point() else None


def limited(x: Any, min: Any = None, max: Any = None) -> Shape:
    limits = [limit for limit in (min, max) if limit is not None]
    return elementwise(x) if limits and isinstance(x, Tensor) and all(map(is_number, limits)) else None


def ternary(a: Any, b: Any, c: Any, *, value: Any = 1) -> Shape:
    tensors = all(isinstance(item, Tensor) and item.is_floating_point() for item in (a, b, c))
    return elementwise(a, b, c) if tensors and is_number(value) else None


def between(a: Any, b: Any, weight: Any) -> Shape:
    tensors = all(isinstance(item, Tensor) and item.is_floating_point() for item in (a, b))
    return elementwise(a, b, weight) if tensors and is_number(weight) else None


def chosen(condition: Any, a: Any, b: Any) -> Shape:
    mask = isinstance(condition, Tensor) and condition.dtype is torch.bool
    others = [item for item in (a, b) if isinstance(item, Tensor)]
    fits = mask and others and all(item.is_floating_point() for item in others)
    return elementwise(a, condition, b) if fits else None


def chosen_here(x: Any, condition: Any, other: Any) -> Shape:
    return chosen(condition, x, other) if isinstance(x, Tensor) else None


def masked(x: Any, mask: Any, value: Any) -> Shape:
    mask_fits = isinstance(mask, Tensor) and mask.dtype is torch.bool
    shape = elementwise(x, mask) if isinstance(x, Tensor) and mask_fits and is_number(value) else None
    return shape if shape is not None and x.shape == shape else None


def shrunk(x: Any, lambd: Any = 0.5) -> Shape:
    return unary(x) if is_number(lambd) else None


def above(x: Any, threshold: Any, value: Any, inplace: Any = False) -> Shape:
    return unary(x) if is_number(threshold) and is_number(value) and inplace is False else None


def along(x: Any, dim: Any) -> Shape:
    """Of functions that work along a dimension and keep it."""
    one = is_exact(x) and type(dim) is int and dimensions(x, dim) is not None
    return tuple(x.shape) if one else None


def normalized(x: Any, p: Any = 2.0, dim: Any = 1, eps: Any = 1e-12) -> Shape:
    return along(x, dim) if is_number(p) and type(eps) is float else None


def log_softmax(x: Any, dim: Any, _stacklevel: int = 3) -> Shape:
    return along(x, dim)


def learned_slope(x: Any, weight: Any) -> Shape:
    fits = is_exact(x) and isinstance(weight, Tensor) and weight.dtype is x.dtype and weight.ndim == 1
    count = x.shape[1] if fits and x.ndim > 1 else 1
    return tuple(x.shape) if fits and weight.numel() in (1, count) else None


def response_normalized(x: Any, size: Any, alpha: Any = 1e-4, beta: Any = 0.75, k: Any = 1.0) -> Shape:
    numbers = type(size) is int and size > 0 and all(map(is_number, (alpha, beta, k)))
    return tuple(x.shape) if numbers and is_exact(x) and x.ndim >= 3 else None


def weight_normalized(v: Any, g: Any, dim: Any = 0) -> Shape:
    return along(v, dim) if isinstance(g, Tensor) and isinstance(v, Tensor) and g.dtype is v.dtype else None
