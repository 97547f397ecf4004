"""What each torch function does to the architecture graph.

`RULES` maps torch functions to rules. A rule gets the tracer and the call, records the operations that the call stands
for and returns what the call would return, on the meta device. Functions without a rule connect everything they read to
everything they return (`Tracer.generic`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .tracer import META, Kind, Rule, Tracer, Value, embedding_shape, map_tensors, tensors_in, writes_first_argument

Function = Callable[..., Any]
Arguments = tuple[Any, ...]
Keywords = dict[str, Any]

RULES: dict[Any, Rule] = {}


def functions(*names: str) -> list[Function]:
    """Every torch function of one of these names: in torch, torch.nn.functional, as a method, in place or not."""
    places = (torch, torch._C._nn, F, Tensor, torch.special)
    variants = [
        variant for name in names for variant in (name, f"{name}_", f"__{name}__", f"__i{name}__", f"__r{name}__")
    ]
    found = (getattr(place, variant, None) for place in places for variant in variants)
    return [function for function in found if callable(function)]


def rule(targets: Iterable[Function]) -> Callable[[Rule], Rule]:
    """Register a rule for functions."""

    def register(handler: Rule) -> Rule:
        for target in targets:
            RULES[target] = handler
        return handler

    return register


def argument(args: Arguments, kwargs: Keywords, position: int, name: str, default: Any = None) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def pair(value: Any) -> tuple[int, int]:
    """(height, width) from a number, a 1-tuple or a 2-tuple."""
    if isinstance(value, int):
        return value, value
    values = tuple(int(item) for item in value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


# Attributes and conversions ---------------------------------------------------------------------------------------


def attribute(name: str, access: str = "__get__") -> list[Function]:
    """How a tensor attribute is read, or set, as a function; none where this torch has no such attribute."""
    return [getattr(getattr(Tensor, name), access)] if hasattr(Tensor, name) else []


PLAIN_ATTRIBUTES = (
    "shape",
    "dtype",
    "ndim",
    "requires_grad",
    "is_leaf",
    "layout",
    "is_sparse",
    "is_quantized",
    "is_nested",
)
PLAIN_METHODS = (
    "size",
    "dim",
    "ndimension",
    "numel",
    "nelement",
    "stride",
    "is_floating_point",
    "is_complex",
    "__len__",
)


@rule(
    [function for name in PLAIN_ATTRIBUTES for function in attribute(name)]
    + [getattr(Tensor, name) for name in PLAIN_METHODS]
    + [torch.is_floating_point, torch.is_complex, torch.is_tensor, torch.numel]
)
def plain(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """What a meta twin answers as well as the tensor itself."""
    return func(*args, **kwargs)


@rule(attribute("device"))
def device(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> torch.device:
    """The whole model is on the meta device as far as its forward can see."""
    tensor = args[0]
    value = tracer.value(tensor)
    own = value.operation >= 0 or value.parameters or value.buffer
    return META if own else func(*args)


@rule(functions("to", "cuda", "cpu", "type", "type_as", "float", "double", "half", "bfloat16"))
def convert(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Conversions stay on the meta device and take the new dtype only."""
    source = args[0]
    value = tracer.value(source)
    if value.operation < 0 and not value.parameters:
        return tracer.run_constant(func, args, kwargs)
    name = func.__name__
    dtype: Any = None
    if name == "to":
        dtype = torch._C._nn._parse_to(*args[1:], **{key: item for key, item in kwargs.items() if key != "copy"})[1]
    elif name == "type_as":
        dtype = args[1].dtype
    elif name == "type":
        if not args[1:] and not kwargs:
            return func(tracer.twin(source))
        dtype = argument(args, kwargs, 1, "dtype")
    elif name not in ("cuda", "cpu"):
        dtype = {"float": torch.float32, "double": torch.float64, "half": torch.float16}.get(name, torch.bfloat16)
    twin = tracer.twin(source)
    result = twin.detach() if dtype is None else twin.type(dtype)
    return tracer.set_value(result if result is not twin else twin.detach(), value)


SHAPE_DONORS = "zeros_like ones_like empty_like full_like rand_like randn_like randint_like".split()
NEW = "new_zeros new_ones new_empty new_full new_tensor".split()


@rule([getattr(torch, name) for name in SHAPE_DONORS] + [getattr(Tensor, name) for name in NEW])
def shape_donor(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """The result takes the shape or dtype of the first argument, and nothing of its values."""
    made = func(*map_tensors(tracer.twin, args), **kwargs) if tracer.is_data(args[0]) else None
    return tracer.set_value(made, Value()) if made is not None else tracer.run_constant(func, args, kwargs)


@rule(attribute("data"))
def data_attribute(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    return (
        like(tracer, args[0].detach(), args, kwargs) if tracer.is_data(args[0]) else tracer.generic(func, args, kwargs)
    )


@rule(
    [*attribute("requires_grad", "__set__"), *attribute("grad", "__set__"), Tensor.requires_grad_, Tensor.retain_grad]
)
def autograd_setting(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """The trace has no gradients, and the model's own settings are not the trace's to change."""
    return args[0]


@rule(attribute("grad"))
def gradient(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> None:
    return None


# Layers with weights ----------------------------------------------------------------------------------------------


def emit_bias(tracer: Tracer, operation: int, bias: Tensor | None) -> int:
    """A bias is a node of its own behind its weight."""
    if bias is None or not tracer.is_parametric(bias):
        return operation
    index = tracer.parameter_behind(bias)
    if index is None:
        tracer.note_use(bias, "a bias that is put together from several parameters")
    return tracer.emit(Kind.BIAS, [operation], (index, None), embedding_shape(tuple(bias.shape)))


def emit_weight(tracer: Tracer, kind: Kind, data: Sequence[int], weight: Tensor, bias: Tensor | None) -> int:
    index = tracer.parameter_behind(weight)
    if index is None:
        tracer.note_use(weight, "a weight that is put together from several parameters")
    else:
        tracer.note_use(weight, "a rescaling of another parameter")
    shape = tuple(weight.shape) if index is None else tuple(tracer.parameters[index].shape)
    return emit_bias(tracer, tracer.emit(kind, data, (index, None), embedding_shape(shape)), bias)


def conv_output(size: int, kernel: int, stride: int, padding: Any, dilation: int) -> int:
    if padding == "same":
        return size
    total = 0 if padding == "valid" else 2 * padding
    return (size + total - dilation * (kernel - 1) - 1) // stride + 1


@rule([torch.conv2d])
def conv2d(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    x, weight, bias = args[0], argument(args, kwargs, 1, "weight"), argument(args, kwargs, 2, "bias")
    if not tracer.is_parametric(weight):
        return tracer.generic(func, args, kwargs)
    if tracer.is_parametric(x):
        return tracer.generic(func, args, kwargs)
    stride = pair(argument(args, kwargs, 3, "stride", 1))
    padding = argument(args, kwargs, 4, "padding", 0)
    dilation = pair(argument(args, kwargs, 5, "dilation", 1))
    groups = argument(args, kwargs, 6, "groups", 1)
    kernel = (weight.shape[2], weight.shape[3])
    paddings = (padding, padding) if isinstance(padding, str) else pair(padding)
    plane = tuple(conv_output(x.shape[i - 2], kernel[i], stride[i], paddings[i], dilation[i]) for i in range(2))
    if x.ndim not in (3, 4) or x.shape[-3] != weight.shape[1] * groups or min(plane) < 1:
        raise RuntimeError(
            f"a convolution with weight {tuple(weight.shape)} and groups={groups} cannot read an input of shape "
            f"{tuple(x.shape)}"
        )
    if groups > 1:
        kind = Kind.DIL_CONV if min(dilation) > 1 else Kind.SEP_CONV
    else:
        kind = Kind.POINTWISE_CONV if kernel == (1, 1) else Kind.CONV
    operation = emit_weight(tracer, kind, tracer.weight_inputs(x), weight, bias)
    return tracer.new((*x.shape[:-3], weight.shape[0], *plane), x, operation, x.ndim - 3)


@rule([F.linear])
def linear(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    x, weight, bias = args[0], argument(args, kwargs, 1, "weight"), argument(args, kwargs, 2, "bias")
    if not tracer.is_parametric(weight) or tracer.is_parametric(x) or weight.ndim != 2:
        return tracer.generic(func, args, kwargs)
    if x.shape[-1] != weight.shape[1]:
        raise RuntimeError(
            f"a linear layer with weight {tuple(weight.shape)} cannot read an input of shape {tuple(x.shape)}"
        )
    operation = emit_weight(tracer, Kind.POINTWISE_CONV, tracer.weight_inputs(x), weight, bias)
    return tracer.new((*x.shape[:-1], weight.shape[0]), x, operation, x.ndim - 1)


@rule([*functions("matmul", "mm", "bmm"), torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm])
def matmul(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    adds = func.__name__ in ("addmm", "baddbmm")
    left, right = args[1:3] if adds else (args[0], argument(args, kwargs, 1, "other"))
    return product(tracer, func, args, kwargs, [left, right], args[0] if adds else None)


@rule([torch.einsum])
def einsum(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    return product(tracer, func, args, kwargs, list(tensors_in(args)), None)


def product(
    tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords, factors: list[Any], offset: Tensor | None
) -> Any:
    """A matrix product: of two activations (attention), or of an activation with a weight (a linear layer)."""
    data = [factor for factor in factors if tracer.is_data(factor)]
    weights = [factor for factor in factors if tracer.is_parametric(factor)]
    if len(data) >= 2:
        operation = tracer.emit(Kind.MATMUL, tracer.sources(data))
        if offset is not None and tracer.is_data(offset):
            operation = tracer.emit(Kind.PASS, [operation, *tracer.sources(offset)])
    elif (
        len(data) == 1
        and len(weights) == 1
        and weights[0].ndim == 2
        and tracer.parameter_behind(weights[0]) is not None
    ):
        operation = emit_weight(tracer, Kind.POINTWISE_CONV, tracer.sources(data), weights[0], offset)
    else:
        return tracer.generic(func, args, kwargs)
    result = tracer.run_meta(func, args, kwargs, operation)
    channel = result.ndim - 1 if len(data) == 1 else None
    return tracer.set_value(result, Value(operation, channel))


# Normalization ----------------------------------------------------------------------------------------------------


def normalization(kind: Kind, weight_at: int, bias_at: int) -> Rule:
    """A normalization layer is one node for its weight and bias; without parameters it is none."""

    def apply(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
        x = args[0]
        weight, bias = argument(args, kwargs, weight_at, "weight"), argument(args, kwargs, bias_at, "bias")
        if not tracer.is_data(x):
            return tracer.generic(func, args, kwargs)
        value = tracer.value(x)
        indices = (tracer.parameter_behind(weight), tracer.parameter_behind(bias))
        if indices == (None, None):
            operation = tracer.emit(Kind.PASS, [value.operation])
        else:
            width = tracer.parameters[next(index for index in indices if index is not None)].shape
            operation = tracer.emit(kind, [value.operation], indices, embedding_shape(tuple(width)))
        return tracer.new(x.shape, x, operation, value.channel)

    return apply


NOT_THERE = 99  # a position that no call reaches
rule([F.batch_norm])(normalization(Kind.BN, 3, 4))
rule([F.layer_norm, torch.layer_norm])(normalization(Kind.LN, 2, 3))
rule([F.group_norm, torch.group_norm])(normalization(Kind.LN, 2, 3))
rule([F.instance_norm])(normalization(Kind.LN, 3, 4))
rule([F.rms_norm, torch.rms_norm])(normalization(Kind.LN, 2, NOT_THERE))
rule([torch.batch_norm])(normalization(Kind.BN, 1, 2))


# Pools ------------------------------------------------------------------------------------------------------------


def pool_output(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return span // stride + 1
    # The last window must start inside the input or its left padding.
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding else count


def pool(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords, maximum: bool) -> Any:
    x = args[0]
    if not tracer.is_data(x):
        return tracer.generic(func, args, kwargs)
    kernel = pair(argument(args, kwargs, 1, "kernel_size"))
    given_stride = argument(args, kwargs, 2, "stride")
    stride = kernel if given_stride is None or given_stride in ((), []) else pair(given_stride)
    padding = pair(argument(args, kwargs, 3, "padding", 0))
    dilation = pair(argument(args, kwargs, 4, "dilation", 1)) if maximum else (1, 1)
    ceil_mode = bool(argument(args, kwargs, 5 if maximum else 4, "ceil_mode", False))
    plane = tuple(
        pool_output(x.shape[i - 2], kernel[i], stride[i], padding[i], dilation[i], ceil_mode) for i in range(2)
    )
    if min(plane) < 1:
        raise RuntimeError(f"a pool with window {kernel} cannot read an input of shape {tuple(x.shape)}")
    whole = plane == (1, 1) and kernel[0] >= x.shape[-2] and kernel[1] >= x.shape[-1]
    if maximum:
        kind = Kind.SQUEEZE_MAX_POOL if whole else Kind.MAX_POOL
    else:
        kind = Kind.SQUEEZE_AVG_POOL if whole else Kind.AVG_POOL
    value = tracer.value(x)
    operation = tracer.emit(kind, [value.operation], shape=(1, 1, *kernel))
    return tracer.new((*x.shape[:-2], *plane), x, operation, x.ndim - 3)


@rule([F.max_pool2d, torch.max_pool2d])
def max_pool2d(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    return pool(tracer, func, args, kwargs, maximum=True)


@rule([F.max_pool2d_with_indices])
def max_pool2d_with_indices(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    pooled = pool(tracer, func, args, kwargs, maximum=True)
    return pooled, tracer.set_value(torch.empty(pooled.shape, dtype=torch.int64, device=META), Value())


@rule([F.avg_pool2d])
def avg_pool2d(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    return pool(tracer, func, args, kwargs, maximum=False)


def adaptive_pool(
    tracer: Tracer, args: Arguments, kwargs: Keywords, dimensions: int, kinds: tuple[Kind, Kind]
) -> Tensor:
    x = args[0]
    size = argument(args, kwargs, 1, "output_size")
    sizes = (size,) * dimensions if isinstance(size, int) or size is None else tuple(size)
    plane = tuple(int(sizes[i] or x.shape[i - dimensions]) for i in range(dimensions))
    value = tracer.value(x)
    operation = tracer.emit(kinds[max(plane) == 1], [value.operation])
    return tracer.new((*x.shape[:-dimensions], *plane), x, operation, x.ndim - dimensions - 1)


def adaptive(dimensions: int, kinds: tuple[Kind, Kind], indices: bool) -> Rule:
    def apply(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
        if not tracer.is_data(args[0]):
            return tracer.generic(func, args, kwargs)
        pooled = adaptive_pool(tracer, args, kwargs, dimensions, kinds)
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


# Sums, products, concatenations -----------------------------------------------------------------------------------


def broadcast(a: Any, b: Any) -> Sequence[int]:
    if not isinstance(b, Tensor):
        return a.shape
    if not isinstance(a, Tensor) or a.shape == b.shape:
        return b.shape
    return torch.broadcast_shapes(a.shape, b.shape)


def binary_result(tracer: Tracer, func: Function, args: Arguments, operation: int) -> Tensor:
    """The result of an elementwise function of `args[:2]`, in place where `func` is."""
    a, b = args[:2]
    shape = broadcast(a, b)
    carrier = a if tracer.is_data(a) else b
    if tracer.is_data(a) and tracer.is_data(b) and b.ndim > a.ndim:
        carrier = b
    channel = tracer.value(carrier).channel
    if channel is not None:
        channel += len(shape) - carrier.ndim
    if writes_first_argument(func):
        if tuple(shape) != tuple(a.shape):
            raise RuntimeError(f"an in-place {func.__name__} cannot give shape {tuple(shape)} to {tuple(a.shape)}")
        return tracer.run_meta(func, args[:2], {}, operation)
    result = tracer.new(shape, carrier, operation, channel)
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype:
        return result
    dtype = torch.result_type(*(tracer.twin(item) if isinstance(item, Tensor) else item for item in (a, b)))
    return result if dtype == result.dtype else tracer.set_value(result.to(dtype), tracer.value(result))


@rule(functions("add"))
def add(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """A sum of two activations, a bias, an embedding that is added, or nothing to the graph."""
    if len(args) < 2 or "out" in kwargs:
        args = (*args, kwargs["other"]) if "other" in kwargs and "out" not in kwargs else args
        if len(args) < 2 or "out" in kwargs:
            return tracer.generic(func, args, kwargs)
    data = [item for item in args[:2] if tracer.is_data(item)]
    if not data:
        return tracer.generic(func, args, kwargs)
    inputs = tracer.sources(data)
    if len(inputs) == 2:
        operation = tracer.emit(Kind.SUM, inputs)
    elif len(data) == 1 and tracer.is_parametric(other := args[1] if data[0] is args[0] else args[0]):
        operation = emit_offset(tracer, inputs[0], other)
    else:
        operation = tracer.emit(Kind.PASS, inputs)
    return binary_result(tracer, func, args, operation)


def emit_offset(tracer: Tracer, data: int, offset: Tensor) -> int:
    """A parameter that is added: the bias of the layer before, or an embedding."""
    index = tracer.parameter_behind(offset)
    if sum(size > 1 for size in offset.shape) <= 1:
        before = tracer.operations[data]
        while before.kind == Kind.VIEW:
            before = tracer.operations[before.inputs[0]]
        convolutions = (Kind.CONV, Kind.POINTWISE_CONV, Kind.SEP_CONV, Kind.DIL_CONV)
        if index is not None and before.kind in convolutions and before.shape and offset.numel() in before.shape[:2]:
            return emit_bias(tracer, data, offset)  # (views between the two commute with it)
        tracer.note_use(offset, "a vector that is added to features, but is not the bias of a layer")
        return tracer.emit(Kind.PASS, [data])
    value = tracer.value(offset)
    if value.lookup:
        index = None
        tracer.note_use(offset, "a table that is looked up by index")
    elif index is None and len(value.parameters) == 1:
        index = value.parameters[0]  # a part of a position encoding, or one that was resampled
    if index is not None and not is_position_encoding(tuple(tracer.parameters[index].shape)):
        index = None
    tracer.note_use(offset, "an embedding that is added, of a shape other than (1, n, d), (n, d) or (1, c, h, w)")
    shape = tuple(offset.shape if index is None else tracer.parameters[index].shape)
    position = tracer.emit(Kind.POS_ENC, [], (index, None), embedding_shape(shape, position=True))
    return tracer.emit(Kind.SUM, [data, position])


def is_position_encoding(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) in (3, 4) and shape[0] == 1)


@rule(functions("mul", "multiply"))
def multiply(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    if len(args) != 2 or kwargs:
        return tracer.generic(func, args, kwargs)
    data = [item for item in args if tracer.is_data(item)]
    if not data:
        return tracer.generic(func, args, kwargs)
    inputs = tracer.sources(data)
    tracer.note_use(args, "a scale that is multiplied onto features")
    operation = tracer.emit(Kind.GATE if len(inputs) == 2 else Kind.PASS, inputs)
    return binary_result(tracer, func, args, operation)


@rule(functions("sub", "subtract", "div", "divide", "truediv", "true_divide"))
def difference(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    if len(args) != 2 or kwargs or not (tracer.is_data(args[0]) or tracer.is_data(args[1])):
        return tracer.generic(func, args, kwargs)
    tracer.note_use(args, "a shift or scale of features")
    return binary_result(tracer, func, args, tracer.emit(Kind.PASS, tracer.sources(args)))


@rule([torch.cat, torch.concat, torch.concatenate, torch.stack, torch.hstack, torch.vstack, torch.dstack])
def concatenate(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    inputs = tracer.sources(args, kwargs)
    if not inputs:
        return tracer.generic(func, args, kwargs)
    tracer.note_use((args, kwargs), "a token that is concatenated to features")
    operation = tracer.emit(Kind.CONCAT if len(inputs) > 1 else Kind.PASS, inputs)
    result = tracer.run_meta(func, args, kwargs, operation)
    ranked = [item for item in tensors_in((args, kwargs)) if tracer.is_data(item) and item.ndim == result.ndim]
    channel = tracer.value(ranked[0]).channel if ranked else None
    return tracer.set_value(result, Value(operation, channel))


# Attention --------------------------------------------------------------------------------------------------------


@rule(functions("softmax"))
def softmax(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    x = args[0]
    if not tracer.is_data(x):
        return tracer.generic(func, args, kwargs)
    value = tracer.value(x)
    dtype = kwargs.get("dtype")
    result = tracer.new(x.shape, x, tracer.emit(Kind.SOFTMAX, [value.operation]), value.channel)
    return result if dtype in (None, x.dtype) else tracer.set_value(result.to(dtype), tracer.value(result))


@rule([F.scaled_dot_product_attention])
def scaled_dot_product_attention(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    query = argument(args, kwargs, 0, "query")
    value = argument(args, kwargs, 2, "value")
    inputs = tracer.sources(args, kwargs)
    if not inputs:
        return tracer.generic(func, args, kwargs)
    tracer.note_use((args, kwargs), "an offset of attention scores")
    operation = tracer.emit(Kind.MSA, inputs)
    carrier = next(item for item in tensors_in((args, kwargs)) if tracer.is_data(item))
    return tracer.new((*query.shape[:-1], value.shape[-1]), carrier, operation)


MULTI_HEAD_SIGNATURE = inspect.signature(F.multi_head_attention_forward)


@rule([F.multi_head_attention_forward])
def multi_head_attention(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """torch's own attention layer: projections in, attention, projection out."""
    call = MULTI_HEAD_SIGNATURE.bind(*args, **kwargs)
    call.apply_defaults()
    given = call.arguments
    query, key = given["query"], given["key"]
    tracer.note_use((given["bias_k"], given["bias_v"]), "a key or value that is appended in an attention")
    inputs = emit_projections(tracer, given)
    attention = tracer.emit(Kind.MSA, inputs)
    operation = emit_weight(tracer, Kind.POINTWISE_CONV, [attention], given["out_proj_weight"], given["out_proj_bias"])
    result = tracer.new(query.shape, query, operation, query.ndim - 1)
    if not given["need_weights"]:
        return result, None
    batch = () if query.ndim == 2 else (query.shape[1],)
    heads = () if given["average_attn_weights"] else (given["num_heads"],)
    shape = (*batch, *heads, query.shape[0], key.shape[0])
    return result, tracer.new(shape, query, attention)


def emit_projections(tracer: Tracer, given: dict[str, Any]) -> list[int]:
    """The input projections of `multi_head_attention_forward`: packed into one weight, or three."""
    bias = given["in_proj_bias"]
    if not given["use_separate_proj_weight"]:
        data = tracer.sources(given["query"], given["key"], given["value"])
        return [emit_weight(tracer, Kind.POINTWISE_CONV, data, given["in_proj_weight"], bias)]
    if bias is not None:
        tracer.note_use(bias, "a bias that three weights share")
    return [
        emit_weight(tracer, Kind.POINTWISE_CONV, tracer.sources(given[name]), given[weight], None)
        for name, weight in (("query", "q_proj_weight"), ("key", "k_proj_weight"), ("value", "v_proj_weight"))
    ]


# Functions that keep or rearrange values --------------------------------------------------------------------------


def like(tracer: Tracer, result: Tensor, args: Arguments, kwargs: Keywords) -> Tensor:
    return tracer.set_value(result, tracer.value(args[0]))


ACTIVATIONS = """
relu relu6 silu gelu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu selu celu mish softplus
softsign logsigmoid hardshrink dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout
feature_alpha_dropout clamp clip clamp_min clamp_max exp log sqrt rsqrt abs neg square erf
""".split()


@rule(functions(*ACTIVATIONS))
def activation(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Elementwise functions of one activation."""
    x: Any = args[0] if args else None
    if not tracer.is_data(x) or len(tracer.sources(args, kwargs)) > 1 or "out" in kwargs or not x.is_meta:
        return tracer.generic(func, args, kwargs)
    value = tracer.value(x)
    in_place = writes_first_argument(func) or argument_named(func, "inplace", args, kwargs)
    kind = Kind.HARDSWISH if func.__name__.startswith("hardswish") else Kind.PASS
    result = Value(tracer.emit(kind, [value.operation]), value.channel)
    return tracer.set_value(x if in_place and x._base is None else x.detach(), result)


def argument_named(func: Function, name: str, args: Arguments, kwargs: Keywords) -> bool:
    if name in kwargs:
        return bool(kwargs[name])
    if len(args) < 2 or not inspect.isfunction(func):
        return False
    names = list(inspect.signature(func).parameters)
    return name in names and len(args) > names.index(name) and bool(args[names.index(name)])


VIEWS = """
view reshape flatten unflatten permute transpose swapaxes swapdims movedim moveaxis t unsqueeze squeeze expand
broadcast_to repeat tile repeat_interleave contiguous clone detach chunk split split_with_sizes tensor_split
unbind narrow select roll flip pad unfold fold pixel_shuffle pixel_unshuffle channel_shuffle getitem
index_select gather view_as reshape_as expand_as interpolate upsample rot90 identity
""".split()
SAME_VALUES = ("contiguous", "clone", "detach", "identity")
DONORS = ("view_as", "reshape_as", "expand_as")
LOOKUPS = ("index_select", "gather")


@rule(functions(*VIEWS) + attribute("T") + attribute("mT") + attribute("H"))
def view(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Functions that move values around: their results are the same value to the graph."""
    x: Any = args[0] if args else None
    name = func.__name__.strip("_")
    if not tracer.is_data(x):
        if name in LOOKUPS or (name == "getitem" and any(True for _ in tensors_in(args[1:]))):
            return lookup(tracer, func, args, kwargs)
        return tracer.generic(func, args, kwargs)
    value = tracer.value(x)
    inputs = tracer.sources(x) if name in DONORS else tracer.sources(args, kwargs)
    if len(inputs) > 1:
        operation = tracer.emit(Kind.PASS, inputs)
    elif name in SAME_VALUES:
        operation = value.operation
    else:
        operation = value.operation
        for _ in range(sliced_dimensions(args[1]) if name == "getitem" else 1):
            operation = tracer.emit(Kind.VIEW, [operation])
    result = tracer.run_meta(func, args, kwargs, operation)
    for tensor in tensors_in(result):
        tracer.set_value(tensor, Value(operation, moved_channel(name, args, kwargs, x, tensor, value.channel)))
    return result


def sliced_dimensions(index: Any) -> int:
    """How many dimensions an index changes: each is one operation."""
    items = index if isinstance(index, tuple) else (index,)
    return max(1, sum(not (item is Ellipsis or (isinstance(item, slice) and item == slice(None))) for item in items))


def moved_channel(
    name: str, args: Arguments, kwargs: Keywords, x: Any, result: Tensor, channel: int | None
) -> int | None:
    """Where the channel dimension of `x` went."""
    if channel is None:
        return None
    if name in ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "get", "rot90"):
        # A small tensor whose strides say which dimension went where.
        probe = torch.empty(tuple(range(2, x.ndim + 2)), device=META)
        try:
            moved = transposed(name, probe, args, kwargs)
        except (TypeError, RuntimeError, IndexError):
            return None
        return next((i for i in range(moved.ndim) if moved.shape[i] == channel + 2), None)
    if name in (
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "unsqueeze",
        "squeeze",
        "view_as",
        "reshape_as",
        "contiguous",
    ):
        before, size = math.prod(x.shape[:channel]), x.shape[channel]
        return next(
            (i for i in range(result.ndim) if result.shape[i] == size and math.prod(result.shape[:i]) == before), None
        )
    if name == "getitem":
        return indexed_channel(args[1], x.ndim, channel)
    return channel if result.ndim == x.ndim else None


def transposed(name: str, probe: Tensor, args: Arguments, kwargs: Keywords) -> Tensor:
    if name == "get":
        return probe.mT
    kept = {key: item for key, item in kwargs.items() if key != "input"}
    return getattr(torch.Tensor, name)(probe, *args[1:], **kept)


def indexed_channel(index: Any, rank: int, channel: int) -> int | None:
    """Where dimension `channel` of a tensor of `rank` dimensions is in `tensor[index]`."""
    items = list(index) if isinstance(index, tuple) else [index]
    if any(not (item is None or item is Ellipsis or isinstance(item, (int, slice))) for item in items):
        return None
    taken = sum(item is not None and item is not Ellipsis for item in items)
    if Ellipsis not in items:
        items.append(Ellipsis)
    at = items.index(Ellipsis)
    items[at : at + 1] = [slice(None)] * (rank - taken)
    source = target = 0
    for item in items:
        if item is None:
            target += 1
            continue
        if source == channel:
            return None if isinstance(item, int) else target
        source += 1
        target += not isinstance(item, int)
    return None


@rule([F.embedding, torch.embedding])
def lookup(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Entries of a table, picked by index: of a parameter, it is an embedding."""
    if tracer.sources(args, kwargs):
        tracer.note_use((args, kwargs), "a table that is looked up by index")
    elif parameters := tracer.parameters_of(args, kwargs):
        return tracer.run_meta(func, args, kwargs, -1, parameters, lookup=True)
    return tracer.generic(func, args, kwargs)
