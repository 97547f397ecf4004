"""Rules for layers with weights: convolutions, linear layers and normalizations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graph import embedding_shape
from ..graph.parameters import unpredicted_weight
from .calls import ShapeError, function_name
from .operations import NO_PATH, Kind
from .overloads import convolution as as_named_convolution
from .registry import Arguments, Function, Keywords, argument, arguments, pair, rule
from .tensors import empty, tensors_in
from .tracer import Rule, Tracer
from .values import LAYER, Value


def emit_bias(tracer: Tracer, operation: int, bias: Tensor | None) -> int:
    """A bias is a node of its own behind its weight."""
    if bias is None or not tracer.is_parametric(bias):
        return operation
    index = tracer.parameter_behind(bias, "a bias that is put together from several parameters")
    if index is None:
        tracer.note_use(bias, composition(tracer, bias))
    return tracer.emit(Kind.BIAS, [operation], (index, None), (bias.numel(), 1, 1, 1))


def composition(tracer: Tracer, weight: Tensor) -> str:
    """What a weight is that is no parameter, nor a part of one."""
    value = tracer.value(weight)
    if len(value.parameters) > 1:
        return "a weight that is put together from several parameters"
    recipe = value.recipe
    while recipe is not None and recipe.func in tracer.rearranging:  # what was done to it before it was moved around
        source = next((tensor for tensor in tensors_in(recipe.args) if tracer.value(tensor).parameters), None)
        before = None if source is None else tracer.value(source).recipe
        if before is None:
            break
        recipe = before
    name = "" if recipe is None else f" ({function_name(recipe.func)})"
    return f"its layer uses a function of it{name}, not itself"


def note_unpredicted(tracer: Tracer, weight: Tensor | None, bias: Any) -> None:
    """Remember why the weight of a layer, or its bias, is not predicted although layers of its kind are."""
    if weight is None or not tracer.is_parametric(weight):
        tracer.note_use(bias, "the bias of a layer whose weight is no parameter")
    elif (reason := unpredicted_weight(weight.shape)) is not None:
        tracer.note_use(weight, reason)


shape_to_embed = lru_cache(maxsize=4096)(embedding_shape)


def emit_weight(tracer: Tracer, kind: Kind, data: Sequence[int], weight: Tensor, bias: Tensor | None) -> int:
    shape: Sequence[int] = weight.shape
    if (index := tracer.index_of(weight)) is None:
        index = tracer.parameter_behind(weight)
        if index is None:
            tracer.note_use(weight, composition(tracer, weight))
        else:
            tracer.note_use(weight, "it masks, scales or shifts another parameter, which is predicted", NO_PATH)
            shape = tracer.shape_of(index)
    return emit_bias(tracer, tracer.emit(kind, data, (index, None), shape_to_embed(shape)), bias)


def conv_output(size: int, kernel: int, stride: int, padding: Any, dilation: int) -> int:
    if padding == "same":
        return size
    total = 0 if padding == "valid" else 2 * padding
    return (size + total - dilation * (kernel - 1) - 1) // stride + 1


@lru_cache(maxsize=4096)
def conv_result(
    shape: torch.Size,
    weight: torch.Size,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> tuple[Kind, tuple[int, ...]]:
    """What a convolution is, and the shape of its output."""
    outputs, inputs, *kernel = weight
    stride, dilation = pair(stride), pair(dilation)
    paddings = (padding, padding) if isinstance(padding, str) else pair(padding)
    plane = (0, 0)
    if len(shape) in (3, 4) and shape[-3] == inputs * groups:
        plane = (
            conv_output(shape[-2], kernel[0], stride[0], paddings[0], dilation[0]),
            conv_output(shape[-1], kernel[1], stride[1], paddings[1], dilation[1]),
        )
    if min(plane) < 1:
        raise ShapeError(
            f"a convolution with weight {tuple(weight)} and groups={groups} cannot read an input of shape "
            f"{tuple(shape)}"
        )
    if groups > 1:
        kind = Kind.DIL_CONV if min(dilation) > 1 else Kind.SEP_CONV
    else:
        kind = Kind.POINTWISE_CONV if kernel == [1, 1] else Kind.CONV
    return kind, (*shape[:-3], outputs, *plane)


# What `torch._convolution` takes besides.
BACKEND_SETTINGS = ("benchmark", "deterministic", "cudnn_enabled", "allow_tf32")
CONV2D = {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}


@rule([torch.conv2d])
def conv2d(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    x, weight, bias, stride, padding, dilation, groups = arguments(args, kwargs, CONV2D)
    if not tracer.is_parametric(weight) or not (inputs := tracer.weight_inputs(x)):
        return on_constant(tracer, func, args, kwargs, weight, bias)
    padding = padding if isinstance(padding, str) else pair(padding)
    window = pair(stride), padding, pair(dilation), groups
    return convolution(tracer, x, inputs, weight, bias, window)


@rule([torch.convolution, torch._convolution])
def any_convolution(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """What all convolutions of torch come to, as the one that it is."""
    kwargs = {key: item for key, item in kwargs.items() if key not in BACKEND_SETTINGS}
    target, args, kwargs = as_named_convolution(*args[:9], **kwargs)
    return tracer.rules.get(target, Tracer.generic)(tracer, target, args, kwargs)


def on_constant(
    tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords, weight: Tensor, bias: Tensor | None
) -> Any:
    """A layer that does not read the network's input: a function of its parameters, if it has some.

    Or one whose weight cannot be predicted.
    """
    parameters = tracer.parameters_of(args, kwargs)
    if not parameters or tracer.sources(args, kwargs):
        note_unpredicted(tracer, weight, bias)
        return tracer.generic(func, args, kwargs)
    tracer.note_use((args, kwargs), NO_PATH)
    return tracer.run_parametric(func, args, kwargs, parameters, LAYER)


def convolution(
    tracer: Tracer, x: Tensor, data: Sequence[int], weight: Tensor, bias: Tensor | None, window: tuple[Any, ...]
) -> Tensor:
    """A convolution of `x`, which comes from `data`; `window` is its stride, padding, dilation and groups."""
    kind, shape = conv_result(x.shape, weight.shape, *window)
    operation = emit_weight(tracer, kind, data, weight, bias)
    return tracer.new(shape, x, operation, len(shape) - 3)


@rule([F.linear])
def linear(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    x, weight, bias = args[0], argument(args, kwargs, 1, "weight"), argument(args, kwargs, 2, "bias")
    if not tracer.is_parametric(weight) or weight.ndim != 2 or not (inputs := tracer.weight_inputs(x)):
        return on_constant(tracer, func, args, kwargs, weight, bias)
    return projection(tracer, x, inputs, weight, bias)


def projection(tracer: Tracer, x: Tensor, data: Sequence[int], weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer on `x`, which comes from `data`."""
    shape = x.shape
    outputs, inputs = weight.shape
    if shape[-1] != inputs:
        raise ShapeError(
            f"a linear layer with weight {tuple(weight.shape)} cannot read an input of shape {tuple(shape)}"
        )
    operation = emit_weight(tracer, Kind.POINTWISE_CONV, data, weight, bias)
    return tracer.new((*shape[:-1], outputs), x, operation, len(shape) - 1)


def normalization(kind: Kind, weight_at: int, bias_at: int) -> Rule:
    """A normalization layer is one node for its weight and bias; without parameters it is none."""

    def apply(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
        x = args[0]
        value = tracer.value(x) if isinstance(x, Tensor) else None
        weight, bias = argument(args, kwargs, weight_at, "weight"), argument(args, kwargs, bias_at, "bias")
        if value is None or value.operation < 0:
            if not tracer.sources(args, kwargs):
                tracer.note_use((weight, bias), NO_PATH)
            return tracer.generic(func, args, kwargs)
        normalized = args[1] if weight_at == 2 and len(args) > 1 else None
        return normalize(tracer, kind, x, value, normalized, weight, bias)

    return apply


def with_statistics(apply: Rule, count: int = 2) -> Rule:
    """A normalization that also returns the mean and the scale that it normalized with, which are no features."""

    def both(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
        if not tracer.is_data(args[0]):
            return tracer.generic(func, args, kwargs)
        result = apply(tracer, func, args, kwargs)
        return result, *(tracer.set_value(empty((result.shape[1],), result.dtype), Value()) for _ in range(count))

    return both


def normalize(
    tracer: Tracer, kind: Kind, x: Tensor, value: Value, normalized: Any, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    shape = x.shape
    check_norm_shape(shape, normalized, weight, kind)
    how = "a normalization parameter that is put together from several others"
    indices = (tracer.parameter_behind(weight, how), tracer.parameter_behind(bias, how))
    index = indices[1] if indices[0] is None else indices[0]
    if index is None:
        operation = tracer.emit(Kind.PASS, [value.operation])
    else:
        operation = tracer.emit(kind, [value.operation], indices, shape_to_embed(tracer.shape_of(index)))
    return tracer.new(shape, x, operation, value.channel)


def check_norm_shape(shape: torch.Size, normalized: Any, weight: Tensor | None, kind: Kind) -> None:
    """The shape computation that the forward would have failed in."""
    width = None if weight is None else weight.numel()
    if isinstance(normalized, (tuple, list)):
        fits = tuple(shape[-len(normalized) :]) == tuple(normalized)
    elif isinstance(normalized, int):  # groups of channels
        fits = shape[1] % normalized == 0 and (width is None or width == shape[1])
    else:
        fits = width is None or width == shape[1 if len(shape) > 1 else 0]
    if not fits:
        raise ShapeError(f"a normalization layer ({kind.name.lower()}) cannot read an input of shape {tuple(shape)}")


NOT_THERE = 99  # a position that no call reaches
rule([F.batch_norm])(normalization(Kind.BN, 3, 4))
rule([F.layer_norm, torch.layer_norm])(normalization(Kind.LN, 2, 3))
rule([F.group_norm, torch.group_norm])(normalization(Kind.LN, 2, 3))
rule([F.instance_norm])(normalization(Kind.LN, 3, 4))
rule([F.rms_norm, torch.rms_norm])(normalization(Kind.LN, 2, NOT_THERE))
rule([torch.batch_norm])(normalization(Kind.BN, 1, 2))
rule([torch.instance_norm])(normalization(Kind.LN, 1, 2))
rule([torch.native_layer_norm])(with_statistics(normalization(Kind.LN, 2, 3)))
rule([torch.native_group_norm])(with_statistics(normalization(Kind.LN, 1, 2)))
rule([torch.ops.aten._native_batch_norm_legit_functional.default])(with_statistics(normalization(Kind.BN, 1, 2), 4))
rule([torch.native_batch_norm, torch._native_batch_norm_legit_no_training])(
    with_statistics(normalization(Kind.BN, 1, 2))
)
