"""Shapes of results that torch takes a tenth of a millisecond to compute on the meta device.

Its meta kernels of these functions are written in Python, and the first that runs imports sympy, many also torch's
compiler, which takes one to ten seconds. Each function here answers for the calls that models make,
mostly on contiguous tensors that are not empty, and whose results are contiguous; it answers None where torch itself
has to say what a call gives, or what is wrong with it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, ...] | None


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


Layout = tuple[tuple[int, ...], tuple[int, ...]]


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


def result_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype that goes with `result_shape`, by the tensors among a call's arguments: masks do not count."""
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), tensors[0].dtype)


@lru_cache(maxsize=4096)
def contiguous_layout(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The sizes (torch reads those of a plain tuple faster than those of a `torch.Size`) and strides of a tensor."""
    strides = accumulate((max(size, 1) for size in reversed(shape[1:])), operator.mul, initial=1)
    return tuple(shape), tuple(strides)[::-1] if shape else ()


def is_plain(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_contiguous() and x.is_floating_point() and x.numel() > 0


def is_exact(x: Any) -> bool:
    """Whether a tensor has the very strides that torch gives to new ones: results take after dimensions of size 1."""
    return is_plain(x) and x.stride() == contiguous_layout(x.shape)[1]


def is_image(x: Any) -> bool:
    """Whether it is no image, sequence or volume of single places, which torch may take for one with channels last."""
    return is_exact(x) and not (x.ndim in (4, 5) and math.prod(x.shape[2:]) == 1)


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
        contiguous = contiguous or has_leading_channels(tensor.stride(), own)
    return (*before, size, *after) if contiguous else None


def has_leading_channels(strides: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether an image is contiguous, or a part of one that torch does not take for one with its channels last."""
    return strides == contiguous_layout(shape)[1] or (strides[-1] == 1 and strides[1] * shape[1] > strides[1] > 1)


def contiguous_copy(x: Any) -> Shape:
    return tuple(x.shape) if isinstance(x, Tensor) and not x.is_contiguous() else None


def reduction(x: Any, dim: Any, keepdim: bool = False) -> Shape:
    reduced = dimensions(x, dim) if is_plain(x) else None
    if reduced is None or not isinstance(keepdim, bool):
        return None
    sizes = [1 if at in reduced else size for at, size in enumerate(x.shape)]
    return tuple(size for at, size in enumerate(sizes) if keepdim or at not in reduced)


def changes_values_alone(func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether a call divides a tensor by a number in place (as dropped paths do, by the share of what is kept), or
    fills it with one."""
    if func == Tensor.zero_:
        return len(args) == 1
    scaled = func == Tensor.div_ and is_plain(args[0])
    return (scaled or func == Tensor.fill_) and len(args) == 2 and type(args[1]) in (int, float)


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


def matrix_product(a: Any, b: Any) -> Shape:
    """Of batches of matrices; its result is contiguous whatever they are."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or not a.ndim == b.ndim >= 3 or a.dtype != b.dtype:
        return None
    left, right = a.shape, b.shape
    fits = left[:-2] == right[:-2] and left[-1] == right[-2] and a.is_floating_point()
    return (*left[:-1], right[-1]) if fits and a.numel() and b.numel() else None


# Of the shape of what goes in ----------------------------------------------------------------------------------------


def is_number(item: Any) -> bool:
    return type(item) in (int, float)


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


# Of fewer elements ----------------------------------------------------------------------------------------------------


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


# Of images, sequences and volumes -------------------------------------------------------------------------------------


def as_counts(value: Any, count: int) -> tuple[int, ...] | None:
    """A number for each of so many dimensions."""
    given = (value,) * count if type(value) is int else value
    fits = isinstance(given, (tuple, list)) and all(type(number) is int for number in given)
    if fits and len(given) == 1:
        given = tuple(given) * count
    return tuple(given) if fits and len(given) == count else None


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


def batch_product(a: Any, b: Any) -> Shape:
    return matrix_product(a, b) if isinstance(a, Tensor) and a.ndim == 3 else None


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
