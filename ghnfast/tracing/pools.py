"""Rules for pools and reductions of the image plane."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .calls import ShapeError
from .operations import Kind
from .registry import Arguments, Function, Keywords, argument, arguments, pair, rule
from .tensors import META
from .tracer import Rule, Tracer
from .values import Value

Kinds = tuple[Kind, Kind]
Pair = tuple[int, int]


def pool_output(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return span // stride + 1
    # The last window must start inside the input or its left padding.
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding else count


@lru_cache(maxsize=4096)
def pool_result(
    shape: torch.Size, maximum: bool, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool
) -> tuple[Kind, tuple[int, ...]]:
    """What a pool is, and the shape of its output."""
    if len(shape) not in (3, 4):
        raise ShapeError(f"a 2-D pool cannot read an input of shape {tuple(shape)}")
    plane = tuple(pool_output(shape[i - 2], kernel[i], stride[i], padding[i], dilation[i], ceil_mode) for i in range(2))
    if min(plane) < 1:
        raise ShapeError(f"a pool with window {kernel} cannot read an input of shape {tuple(shape)}")
    whole = plane == (1, 1) and kernel[0] >= shape[-2] and kernel[1] >= shape[-1]
    if maximum:
        kind = Kind.SQUEEZE_MAX_POOL if whole else Kind.MAX_POOL
    else:
        kind = Kind.SQUEEZE_AVG_POOL if whole else Kind.AVG_POOL
    return kind, (*shape[:-2], *plane)


def pool(tracer: Tracer, x: Tensor, value: Value, maximum: bool, window: Arguments) -> Tensor:
    """A pool; `window` is its kernel size, stride, padding, dilation and ceil mode."""
    size, given_stride, padding, dilation, ceil_mode = window
    kernel = pair(size)
    stride = kernel if given_stride is None or given_stride in ((), []) else pair(given_stride)
    kind, shape = pool_result(x.shape, maximum, kernel, stride, pair(padding), pair(dilation), bool(ceil_mode))
    operation = tracer.emit(kind, [value.operation], shape=(1, 1, *kernel))
    return tracer.new(shape, x, operation, len(shape) - 3)


MAX_POOL2D = {"input": None, "kernel_size": None, "stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
AVG_POOL2D = {name: default for name, default in MAX_POOL2D.items() if name != "dilation"}


@rule([F.max_pool2d, torch.max_pool2d])
def max_pool2d(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    value = tracer.data_value(args[0])
    if value is None:
        return tracer.generic(func, args, kwargs)
    x, *window = arguments(args[:6], kwargs, MAX_POOL2D)
    return pool(tracer, x, value, True, tuple(window))


@rule([F.max_pool2d_with_indices])
def max_pool2d_with_indices(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    pooled = max_pool2d(tracer, func, args, kwargs)
    return pooled, tracer.set_value(torch.empty(pooled.shape, dtype=torch.int64, device=META), Value())


@rule([F.avg_pool2d])
def avg_pool2d(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    value = tracer.data_value(args[0])
    if value is None:
        return tracer.generic(func, args, kwargs)
    x, size, stride, padding, ceil_mode = arguments(args[:5], kwargs, AVG_POOL2D)
    return pool(tracer, x, value, False, (size, stride, padding, 1, ceil_mode))


def adaptive_pool(tracer: Tracer, x: Tensor, value: Value, size: Any, dimensions: int, kinds: Kinds) -> Tensor:
    """A pool to a plane of `size`; `kinds` says what it is, and what it is where that plane is one pixel."""
    if x.ndim not in (dimensions + 1, dimensions + 2):
        raise ShapeError(f"a {dimensions}-D adaptive pool cannot read an input of shape {tuple(x.shape)}")
    sizes = (size,) * dimensions if isinstance(size, int) or size is None else tuple(size)
    plane = tuple(x.shape[i - dimensions] if (side := sizes[i]) is None else int(side) for i in range(dimensions))
    operation = tracer.emit(kinds[max(plane) == 1], [value.operation])
    return tracer.new((*x.shape[:-dimensions], *plane), x, operation, x.ndim - dimensions - 1)


def adaptive(dimensions: int, kinds: Kinds, indices: bool) -> Rule:
    def apply(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
        x = args[0]
        if not tracer.is_data(x):
            return tracer.generic(func, args, kwargs)
        size = argument(args, kwargs, 1, "output_size")
        pooled = adaptive_pool(tracer, x, tracer.value(x), size, dimensions, kinds)
        if not indices:
            return pooled
        return pooled, tracer.set_value(torch.empty(pooled.shape, dtype=torch.int64, device=META), Value())

    return apply


GLOBAL_AVERAGE = (Kind.GLOB_AVG, Kind.SQUEEZE_GLOB_AVG)
GLOBAL_MAXIMUM = (Kind.MAX_POOL, Kind.SQUEEZE_MAX_POOL)
for rank, average in enumerate((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d), start=1):
    rule([average])(adaptive(rank, GLOBAL_AVERAGE, indices=False))
rule([torch.adaptive_avg_pool1d])(adaptive(1, GLOBAL_AVERAGE, indices=False))
rule([torch._C._nn.adaptive_avg_pool2d])(adaptive(2, GLOBAL_AVERAGE, indices=False))
rule([F.adaptive_max_pool2d])(adaptive(2, GLOBAL_MAXIMUM, indices=False))
rule([F.adaptive_max_pool2d_with_indices, torch._C._nn.adaptive_max_pool2d])(adaptive(2, GLOBAL_MAXIMUM, indices=True))


def reduced_dimensions(x: Tensor, dim: Any) -> set[int]:
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return set(range(x.ndim))
    return {int(item) % x.ndim for item in (dim if isinstance(dim, (tuple, list)) else (dim,))}


def covers_plane(x: Tensor, channel: int | None, reduced: set[int]) -> bool:
    """Whether a reduction leaves nothing of the image plane (or of a sequence of patches), and keeps the channels."""
    if channel is None:
        # Layouts that hold channels: (N, C, H, W), (N, H, W, C), (N, L, C).
        channel = 1 if x.ndim == 4 and reduced <= {2, 3} else x.ndim - 1
    if 0 in reduced or channel in reduced:
        return False
    left = (size for i, size in enumerate(x.shape) if i not in (0, channel) and i not in reduced)
    return all(size == 1 for size in left)


@rule([torch.mean, Tensor.mean, torch.sum, Tensor.sum, torch.amax, Tensor.amax, torch.std, Tensor.std])
def reduction(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """A mean over the image plane is a global average pool."""
    x = args[0]
    if not tracer.is_data(x):
        return tracer.generic(func, args, kwargs)
    value = tracer.value(x)
    dim = argument(args, kwargs, 1, "dim")
    if isinstance(dim, bool) or (dim is not None and not isinstance(dim, (int, tuple, list))):
        return tracer.generic(func, args, kwargs)
    reduced = reduced_dimensions(x, dim)
    kind = Kind.PASS
    if covers_plane(x, value.channel, reduced):
        kind = Kind.SQUEEZE_GLOB_AVG if func.__name__ == "mean" else Kind.SQUEEZE_PASS
    result = tracer.run_meta(func, args, kwargs, tracer.emit(kind, [value.operation]))
    channel = value.channel
    if channel is not None and result.ndim != x.ndim:
        channel = None if channel in reduced else channel - sum(i < channel for i in reduced)
    return tracer.set_value(result, Value(tracer.value(result).operation, channel))
