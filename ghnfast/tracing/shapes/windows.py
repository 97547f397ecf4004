"""Shapes of functions of images, sequences and volumes: convolutions, padding, interpolation."""

from __future__ import annotations

import math
from typing import Any

from .layouts import Shape, as_counts, is_image, is_number


def is_window(x: Any, weight: Any) -> bool:
    return is_image(x) and is_image(weight) and x.dtype is weight.dtype and x.ndim == weight.ndim >= 3


def convolved(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: Any = 1
) -> Shape:
    if not is_window(x, weight) or type(groups) is not int or groups < 1 or x.shape[1] != weight.shape[1] * groups:
        return None
    count = x.ndim - 2
    steps, gaps = as_counts(stride, count), as_counts(dilation, count)
    edges = as_counts(0 if padding in ("same", "valid") else padding, count)
    if steps is None or gaps is None or edges is None or weight.shape[0] % groups or min(*steps, *gaps) < 1:
        return None
    sizes = zip(x.shape[2:], weight.shape[2:], steps, edges, gaps, strict=True)
    found = [(size + 2 * edge - gap * (kernel - 1) - 1) // step + 1 for size, kernel, step, edge, gap in sizes]
    if padding == "same":
        odd = all(gap * (kernel - 1) % 2 == 0 for kernel, gap in zip(weight.shape[2:], gaps, strict=True))
        found = list(x.shape[2:]) if odd and set(steps) == {1} else []
    return (x.shape[0], weight.shape[0], *found) if found and min(found) > 0 and min(edges) >= 0 else None


def transposed_convolved(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
) -> Shape:
    if not is_window(x, weight) or type(groups) is not int or groups < 1 or x.shape[1] != weight.shape[0]:
        return None
    count = x.ndim - 2
    steps, edges, rests, gaps = (as_counts(value, count) for value in (stride, padding, output_padding, dilation))
    if steps is None or edges is None or rests is None or gaps is None or weight.shape[0] % groups:
        return None
    found = []
    sizes = zip(x.shape[2:], weight.shape[2:], steps, edges, rests, gaps, strict=True)
    for size, kernel, step, edge, more, gap in sizes:
        if step < 1 or gap < 1 or edge < 0 or not 0 <= more < max(step, gap):
            return None
        found.append((size - 1) * step - 2 * edge + gap * (kernel - 1) + more + 1)
    return (x.shape[0], weight.shape[1] * groups, *found) if min(found) > 0 else None


def padded(x: Any, pad: Any, mode: Any = "constant", value: Any = None) -> Shape:
    if not is_image(x) or not isinstance(pad, (tuple, list)) or len(pad) % 2 or len(pad) > 2 * x.ndim or not pad:
        return None
    if not all(type(size) is int and size >= 0 for size in pad) or not any(pad):
        return None
    sizes = list(x.shape)
    for index in range(len(pad) // 2):
        before, after, size = pad[2 * index], pad[2 * index + 1], sizes[-1 - index]
        if mode != "constant" and max(before, after) >= size:
            return None
        sizes[-1 - index] = size + before + after
    images = mode in ("reflect", "replicate") and len(pad) == 2 * (x.ndim - 2) and 3 <= x.ndim <= 5
    constant = mode == "constant" and (value is None or is_number(value))
    return tuple(sizes) if constant or (images and value is None) else None


INTERPOLATED = {"nearest": (3, 4, 5), "nearest-exact": (3, 4, 5), "linear": (3,), "bilinear": (4,), "bicubic": (4,),
                "trilinear": (5,)}  # fmt: skip


def interpolated(
    x: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: Any = "nearest",
    align_corners: Any = None,
    recompute_scale_factor: Any = None,
    antialias: Any = False,
) -> Shape:
    if not is_image(x) or mode not in INTERPOLATED or x.ndim not in INTERPOLATED[mode] or antialias is not False:
        return None
    if (mode.startswith("nearest") and align_corners is not None) or (size is None) == (scale_factor is None):
        return None
    if size is not None:
        found = as_counts(size, x.ndim - 2)
    else:
        factors = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * (x.ndim - 2)
        if len(factors) != x.ndim - 2 or not all(type(factor) in (int, float) for factor in factors):
            return None
        found = tuple(math.floor(side * float(factor)) for side, factor in zip(x.shape[2:], factors, strict=True))
    return (*x.shape[:2], *found) if found is not None and min(found) > 0 else None
