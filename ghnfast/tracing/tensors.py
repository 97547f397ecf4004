"""What every part of the tracer does with tensors: find them among arguments, copy them, make them without data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import TraceError
from ..memory import lost_memory
from .shapes import contiguous_layout

META = torch.device("meta")
CPU = torch.device("cpu")

# What the arguments of a call mostly are besides tensors; asked for by `type`, which is the fastest question.
SCALARS = frozenset((int, float, bool, str, type(None), torch.dtype, torch.device))


def tensors_in(*trees: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples, dicts and slices."""
    found: list[Tensor] = []
    collect_tensors(trees, found)
    return found


def collect_tensors(items: Iterable[Any], found: list[Tensor]) -> None:
    for item in items:
        kind = type(item)
        if kind is Tensor:
            found.append(item)
        elif kind in SCALARS:
            continue
        elif isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, (list, tuple)):
            collect_tensors(item, found)
        elif isinstance(item, dict):
            collect_tensors(item.values(), found)
        elif isinstance(item, slice):
            collect_tensors((item.start, item.stop, item.step), found)


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """`tree` with every tensor replaced by `function(tensor)`."""
    if type(tree) in SCALARS:
        return tree
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, tuple):
        items = [map_tensors(function, item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    if isinstance(tree, list):
        return [map_tensors(function, item) for item in tree]
    if isinstance(tree, dict):
        return {key: map_tensors(function, item) for key, item in tree.items()}
    if isinstance(tree, slice):
        return slice(*(map_tensors(function, item) for item in (tree.start, tree.stop, tree.step)))
    return tree


@lru_cache(maxsize=4096)
def broadcast_shapes(a: tuple[int, ...], b: tuple[int, ...]) -> torch.Size:
    """`torch.broadcast_shapes` would import sympy."""
    try:
        return torch.Size(np.broadcast_shapes(a, b))
    except ValueError:
        raise RuntimeError(f"tensors of shapes {tuple(a)} and {tuple(b)} cannot be broadcast together") from None


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors in one memory may have an element in common."""
    if a.stride() != b.stride():
        return True
    if a.storage_offset() > b.storage_offset():
        a, b = b, a
    distance = int(b.storage_offset() - a.storage_offset())
    for stride, size in sorted(zip(a.stride(), a.shape, strict=True), reverse=True):
        steps, distance = divmod(distance, stride) if stride else (0, distance)
        if steps >= size:
            return False
    return True


def covers(a: Tensor, b: Tensor) -> bool:
    """Whether a tensor has every element of another one in the same memory."""
    whole = a.numel() * a.element_size() == a.untyped_storage().nbytes()
    same = (a.storage_offset(), a.stride(), a.shape) == (b.storage_offset(), b.stride(), b.shape)
    return whole or same


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A contiguous meta tensor, in half the time of `torch.empty`."""
    sizes, strides = contiguous_layout(shape)
    return torch.empty_strided(sizes, strides, dtype=dtype, device=META)


def on_meta(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a factory function, which is to make something on the meta device."""
    return {**kwargs, "device": META} if "device" in kwargs else kwargs


class MemoryLost(TraceError):
    """What the forward computes with is gone."""


def check_memory(tensor: Tensor) -> None:
    if (reason := lost_memory(tensor)) is not None:
        raise MemoryLost(f"a tensor of shape {tuple(tensor.shape)} that the forward computes with {reason}")


def copy_of(tensor: Tensor) -> Tensor:
    """A copy of a tensor from outside, on the CPU; of one on the meta device there.

    Raises:
        MemoryLost: its storage was freed.
    """
    check_memory(tensor)
    return tensor.detach().clone().to(META if tensor.is_meta else CPU)


def to_meta(tensor: Tensor) -> Tensor:
    """A meta tensor of the same shape, strides and dtype; a dense one for one that is sparse."""
    if tensor.is_meta:
        return tensor
    if tensor.layout is not torch.strided:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=META)
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
