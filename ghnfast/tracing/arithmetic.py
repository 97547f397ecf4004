"""Rules for sums, products and concatenations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..graph import embedding_shape
from .calls import ShapeError, writes_first_argument
from .layers import emit_bias
from .operations import NO_PATH, Kind
from .registry import Arguments, Function, Keywords, functions, rule
from .shapes import result_shape
from .tensors import broadcast_shapes, empty, tensors_in
from .tracer import Tracer
from .values import LAYER, Value


def broadcast(a: Any, b: Any) -> torch.Size:
    if not isinstance(b, Tensor):
        return a.shape
    if not isinstance(a, Tensor) or a.shape == b.shape:
        return b.shape
    return broadcast_shapes(a.shape, b.shape)


def features_of(tracer: Tracer, a: Any, b: Any) -> tuple[Value | None, Value | None]:
    """Where two operands come from; None for one that does not depend on the input.

    What comes from integers alone (a mask) is no feature beside one.
    """
    left, right = tracer.data_value(a), tracer.data_value(b)
    if left is not None and right is not None and left.known != right.known:
        return (None, right) if left.known else (left, None)
    return left, right


def operations_of(left: Value | None, right: Value | None) -> list[int]:
    """The distinct operations of one or two activations."""
    return list(dict.fromkeys([value.operation for value in (left, right) if value is not None]))


def binary_result(
    tracer: Tracer, func: Function, args: Arguments, left: Value | None, right: Value | None, operation: int
) -> Tensor:
    """The result of an elementwise function of `args[:2]`, in place where `func` is.

    `left` and `right` are where these come from; None for what does not depend on the input.
    """
    a, b = args[:2]
    shape = broadcast(a, b)
    carrier, value = (a, left) if right is None or (left is not None and b.ndim <= a.ndim) else (b, right)
    channel = None if value is None else value.channel
    if channel is not None:
        channel += len(shape) - carrier.ndim
    if writes_first_argument(func):
        if shape != a.shape:
            raise ShapeError(f"an in-place {func.__name__} cannot give shape {tuple(shape)} to {tuple(a.shape)}")
        return tracer.write(a, operation)
    result = tracer.new(shape, carrier, operation, channel)
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype:
        return result
    dtype = torch.result_type(*(tracer.twin(item) if isinstance(item, Tensor) else item for item in (a, b)))
    return result if dtype == result.dtype else tracer.set_value(result.to(dtype), tracer.value(result))


@rule(functions("add"))
def add(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """A sum of two activations, a bias, an embedding that is added, or nothing to the graph."""
    if len(args) < 2 or "out" in kwargs:
        return tracer.generic(func, args, kwargs)
    a, b = args[:2]
    left, right = features_of(tracer, a, b)
    inputs = operations_of(left, right)
    if not inputs:
        return tracer.generic(func, args, kwargs)
    if len(inputs) == 2:
        operation = tracer.emit(Kind.SUM, inputs)
    elif right is None and tracer.is_parametric(b):
        operation = emit_offset(tracer, a, b)
    elif left is None and tracer.is_parametric(a):
        operation = emit_offset(tracer, b, a)
    else:
        operation = tracer.emit(Kind.PASS, inputs)
    return binary_result(tracer, func, args, left, right, operation)


@rule([Tensor.add_])
def add_in_place(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    if len(args) == 2 and type(args[1]) is int and not kwargs and tracer.count(*args):
        return args[0]
    return add(tracer, func, args, kwargs)


def emit_offset(tracer: Tracer, x: Tensor, offset: Tensor) -> int:
    """A parameter that is added: the bias of the layer before, or an embedding."""
    data = tracer.value(x).operation
    once = unexpanded(tracer, offset)
    fits = is_vector(once) and is_layer_output(tracer, data) and is_along_channels(tracer, x, once)
    if fits and tracer.parameter_behind(once) is not None:
        return emit_bias(tracer, data, once)
    index = tracer.parameter_behind(offset)
    if is_vector(offset):
        tracer.note_use(offset, "a vector that is added to features, but is not the bias of a layer")
        return tracer.emit(Kind.PASS, [data])
    value = tracer.value(offset)
    if index is not None and (part := tracer.part_of(index)) is not None:
        index = part.sources[0] if len(part.sources) == 1 else None  # of a position encoding all is predicted
    if value.made & LAYER:
        tracer.note_use(offset, NO_PATH)
        return tracer.emit(Kind.PASS, [data])
    if value.made:
        index = None
        tracer.note_use(offset, "a table that is looked up by index")
    elif index is None and len(value.parameters) == 1:
        index = value.parameters[0]  # a part of a position encoding, or one that was resampled
    if index is not None and not is_position_encoding(tracer.shape_of(index)):
        index = None
    tracer.note_use(offset, "an embedding that is added, of a shape other than (1, n, d), (n, d) or (1, c, h, w)")
    shape = tuple(offset.shape) if index is None else tracer.shape_of(index)
    position = tracer.emit(Kind.POS_ENC, [], (index, None), embedding_shape(shape, position=True))
    return tracer.emit(Kind.SUM, [data, position])


def is_vector(tensor: Tensor) -> bool:
    return sum(size > 1 for size in tensor.shape) <= 1


def unexpanded(tracer: Tracer, tensor: Tensor) -> Tensor:
    """A tensor without what repeats in it because it was expanded."""
    repeats = [stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    if not any(repeats):
        return tensor
    once = tuple(slice(0, 1) if each else slice(None) for each in repeats)
    result: Tensor = tracer.__torch_function__(Tensor.__getitem__, (), (tensor, once))
    return result


def is_layer_output(tracer: Tracer, operation: int) -> bool:
    """Whether a value comes straight from a convolution or linear layer without bias, reshaped at most."""
    return tracer.operations.kinds[operation] in (Kind.CONV, Kind.POINTWISE_CONV, Kind.SEP_CONV, Kind.DIL_CONV)


def is_along_channels(tracer: Tracer, x: Tensor, vector: Tensor) -> bool:
    """Whether a vector (with dimensions of size 1) has one number for each channel of `x`."""
    channel = tracer.value(x).channel
    channel = x.ndim - 1 if channel is None else channel
    at = channel - (x.ndim - vector.ndim)
    return vector.numel() == x.shape[channel] and at >= 0 and vector.shape[at] == vector.numel()


def is_position_encoding(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) in (3, 4) and shape[0] == 1)


@rule(functions("mul", "multiply"))
def multiply(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    return combine(tracer, func, args, kwargs, Kind.GATE, "a scale that is multiplied onto features")


@rule(functions("sub", "subtract"))
def difference(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    return combine(tracer, func, args, kwargs, Kind.PASS, "a shift or scale of features")


@rule(functions("div", "divide", "truediv", "true_divide"))
def quotient(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    if not any(isinstance(item, Tensor) and (item.is_floating_point() or item.is_complex()) for item in args):
        return tracer.generic(func, args, kwargs)  # of integers it is no integer
    return difference(tracer, func, args, kwargs)


def combine(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords, together: Kind, how: str) -> Any:
    """A function of two operands: of two activations it is `together`; `how` is said of parameters beside one."""
    if len(args) != 2 or kwargs:
        return tracer.generic(func, args, kwargs)
    left, right = features_of(tracer, *args)
    inputs = operations_of(left, right)
    if not inputs:
        return tracer.generic(func, args, kwargs)
    if left is None or right is None:
        tracer.note_use(args[left is not None], how)
    operation = tracer.emit(together if len(inputs) == 2 else Kind.PASS, inputs)
    return binary_result(tracer, func, args, left, right, operation)


@rule([torch.cat, torch.concat, torch.concatenate, torch.stack, torch.hstack, torch.vstack, torch.dstack])
def concatenate(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    tensors = tensors_in(args, kwargs)
    values = [tracer.value(tensor) for tensor in tensors]
    inputs = dict.fromkeys([value.operation for value in values])
    if -1 in inputs:
        del inputs[-1]
        if not inputs:
            return tracer.generic(func, args, kwargs)
        tracer.note_use(tensors, "a token that is concatenated to features")
    operation = tracer.emit(Kind.CONCAT, list(inputs))  # with one source after contraction, it is no node
    shape = result_shape(func, args, kwargs)
    result = tracer.run_meta(func, args, kwargs, operation) if shape is None else empty(shape, tensors[0].dtype)
    ranked = zip(tensors, values, strict=True)
    channels = (value.channel for tensor, value in ranked if value.operation >= 0 and tensor.ndim == result.ndim)
    return tracer.set_value(result, Value(operation, next(channels, None)))
