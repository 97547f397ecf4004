"""Which function has which shape: `result_shape`, and what goes with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .elementwise import (
    above,
    along,
    between,
    binary,
    chosen,
    chosen_here,
    learned_slope,
    limited,
    log_softmax,
    masked,
    normalized,
    response_normalized,
    shrunk,
    ternary,
    unary,
    weight_normalized,
    with_number,
)
from .layouts import Layout, Shape, contiguous_layout, dense_strides, is_plain
from .pieces import concatenation, contiguous_copy, looked_up, roll, stacked
from .reductions import batch_product, gated, matrix_product, norm, reduction, similarity, spread, vector_norm
from .windows import convolved, interpolated, padded, transposed_convolved


def result_shape(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Shape:
    """The shape of what a function returns: a new contiguous tensor of the dtype that `result_dtype` says."""
    answer = SHAPES.get(func)
    if answer is None:
        return None
    if kwargs.get("out", 0) is None or kwargs.get("dtype", 0) is None:  # as torch's functions in Python pass them on
        kwargs = {name: value for name, value in kwargs.items() if value is not None or name not in ("out", "dtype")}
    try:
        return answer(*args, **kwargs)
    except TypeError:  # other arguments than those that are known here
        return None


def result_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype that goes with `result_shape`, by the tensors among a call's arguments: masks do not count."""
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), tensors[0].dtype)


def kept_layout(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    """Sizes and strides of a result that is like the first argument, and in its dtype, where that is not contiguous."""
    if func not in KEEPING or not args or not isinstance(x := args[0], Tensor) or not x.is_floating_point():
        return None
    if any(isinstance(item, Tensor) for item in args[1:]) or not x.numel():
        return None
    sizes, strides = contiguous_layout(x.shape)
    stand_in = torch.empty_strided(sizes, strides, dtype=x.dtype, device="meta")
    if result_shape(func, (stand_in, *args[1:]), kwargs) != x.shape:
        return None
    dense = dense_strides(sizes, x.stride())
    return None if dense is None else (sizes, dense)


def changes_values_alone(func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether a call divides a tensor by a number in place (as dropped paths do, by the share of what is kept), or
    fills it with one."""
    if func == Tensor.zero_:
        return len(args) == 1
    scaled = func == Tensor.div_ and is_plain(args[0])
    return (scaled or func == Tensor.fill_) and len(args) == 2 and type(args[1]) in (int, float)


def methods_too(names: Sequence[str]) -> list[Callable[..., Any]]:
    """Functions of torch, and the methods of the same names."""
    return [getattr(owner, name) for name in names for owner in (torch, Tensor) if hasattr(owner, name)]


UNARY = (
    "abs exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square reciprocal sign sin cos tan sinh cosh asin acos atan "
    "erf erfc floor ceil round trunc frac neg"
).split()
BINARY = "maximum minimum atan2 hypot logaddexp".split()
WITH_NUMBER = "fmod remainder pow __pow__ __mod__ clamp_min clamp_max".split()
SHAPES: dict[Callable[..., Any], Callable[..., Shape]] = {
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), concatenation),
    Tensor.contiguous: contiguous_copy,
    **dict.fromkeys((torch.mean, Tensor.mean), reduction),
    **dict.fromkeys((torch.sum, Tensor.sum, torch.amax, Tensor.amax), reduction),
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__), matrix_product),
    **dict.fromkeys((torch.roll, Tensor.roll), roll),
    Tensor.__getitem__: looked_up,
    **dict.fromkeys((torch.bmm, Tensor.bmm), batch_product),
    **dict.fromkeys(methods_too(UNARY), unary),
    **dict.fromkeys(methods_too(BINARY), binary),
    **dict.fromkeys(methods_too(WITH_NUMBER), with_number),
    **dict.fromkeys((torch.clamp, Tensor.clamp, torch.clip, Tensor.clip), limited),
    **dict.fromkeys(methods_too(["lerp"]), between),
    **dict.fromkeys(methods_too(["addcmul", "addcdiv"]), ternary),
    torch.where: chosen,
    Tensor.where: chosen_here,
    **dict.fromkeys((torch.masked_fill, Tensor.masked_fill), masked),
    **dict.fromkeys(methods_too(["cumsum", "cumprod"]), along),
    F.normalize: normalized,
    **dict.fromkeys((F.tanhshrink, F.logsigmoid), unary),
    **dict.fromkeys((F.softshrink, F.hardshrink), shrunk),
    F.threshold: above,
    **dict.fromkeys((F.prelu, torch.prelu), learned_slope),
    F.local_response_norm: response_normalized,
    torch._weight_norm: weight_normalized,
    F.log_softmax: log_softmax,
    **dict.fromkeys(methods_too(["amin", "logsumexp"]), reduction),
    torch.linalg.vector_norm: vector_norm,
    **dict.fromkeys((torch.norm, Tensor.norm, torch.linalg.norm), norm),
    **dict.fromkeys(methods_too(["var", "std"]), spread),
    **dict.fromkeys((F.cosine_similarity, torch.cosine_similarity), similarity),
    F.glu: gated,
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), convolved),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), transposed_convolved),
    F.pad: padded,
    F.interpolate: interpolated,
    torch.stack: stacked,
}
# Elementwise functions of one tensor, whose results have its order of memory, whatever that is.
KEEPING = dict.fromkeys([
    *methods_too([*UNARY, *WITH_NUMBER]), torch.clamp, Tensor.clamp, torch.clip, Tensor.clip, F.normalize, F.tanhshrink,
    F.softshrink, F.hardshrink, F.threshold,
])  # fmt: skip
