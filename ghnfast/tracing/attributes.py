"""Rules for tensor attributes, conversions and functions that copy a shape only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .calls import check_visible
from .registry import RULES, Arguments, Function, Keywords, argument, attribute, rule
from .tensors import CPU
from .tracer import Rule, Tracer
from .values import Call, Origin, Value

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


# Where the model is, as far as its forward can see: what it makes there is real, and can be known.
PLACES = {"device": CPU, "is_cpu": True, "is_cuda": False, "is_meta": False, "is_mps": False, "is_xpu": False}


def place(name: str) -> Rule:
    def apply(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
        return PLACES[name]

    return apply


for name in PLACES:
    rule(attribute(name))(place(name))


@rule([Tensor.get_device])
def get_device(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> int:
    return -1


DTYPES = {"float": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16}


@rule([getattr(Tensor, name) for name in ("to", "cuda", "cpu", "type", "type_as", *DTYPES)])
def convert(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Conversions take the new dtype only, and stay where they are."""
    source = args[0]
    name = func.__name__
    if name == "type" and not args[1:] and not kwargs:
        return func(tracer.twin(source) if tracer.value(source).parameters else source)
    dtype: Any = None
    if name == "to":
        dtype = wanted_dtype(args[1:], kwargs)
    elif name == "type_as":
        dtype = argument(args, kwargs, 1, "other").dtype
    elif name == "type":
        dtype = dtype_named(argument(args, kwargs, 1, "dtype"))
    elif name not in ("cuda", "cpu"):
        dtype = DTYPES[name]
    value = tracer.value(source)
    if value.known:
        return tracer.set_value(source.to(dtype or source.dtype), Origin(value.operation, known=True))
    if value.operation < 0 and not value.parameters:
        return tracer.run_constant(Tensor.to, (source, dtype or source.dtype), {})
    twin = tracer.twin(source)
    if dtype in (None, twin.dtype):
        return twin
    recipe = Call(Tensor.to, (source, dtype), {}) if value.operation < 0 else None
    made = Origin(value.operation, value.channel, value.parameters, made=value.made, recipe=recipe, base=value.base)
    return tracer.set_value(twin.type(dtype), made)


def wanted_dtype(given: Arguments, kwargs: Keywords) -> torch.dtype | None:
    """The dtype that `Tensor.to` is asked for, as such or by a tensor that has it."""
    other = kwargs.get("other", given[0] if given else None)
    if isinstance(other, Tensor):
        return other.dtype
    named = {key: item for key, item in kwargs.items() if key != "copy"}
    return torch._C._nn._parse_to(*given, **named)[1]


def dtype_named(given: Any) -> Any:
    """A dtype, from one or from the name of a tensor type ("torch.FloatTensor")."""
    if given is None or isinstance(given, torch.dtype):
        return given
    return torch.empty(0).type(given).dtype


SHAPE_DONORS = "zeros_like ones_like empty_like full_like".split()
NEW = "new_zeros new_ones new_empty new_full new_tensor".split()


@rule([getattr(torch, name) for name in SHAPE_DONORS] + [getattr(Tensor, name) for name in NEW])
def shape_donor(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """The result takes the shape or dtype of the first argument, and nothing of its values: it is a constant."""
    check_visible()
    source = args[0]
    likeness = torch.empty((), dtype=source.dtype, device=CPU).expand(source.shape)
    kwargs = {key: item for key, item in kwargs.items() if key not in ("device", "pin_memory")}
    return tracer.run_constant(func, (tracer.set_value(likeness, Value()), *args[1:]), kwargs)


@rule(attribute("data"))
def data_attribute(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    if not tracer.is_data(args[0]):
        return tracer.generic(func, args, kwargs)
    tracer.share(args[0])
    value = tracer.value(args[0])
    return tracer.set_value(args[0].detach(), Value(value.operation, value.channel, shared=True))


@rule(
    [*attribute("requires_grad", "__set__"), *attribute("grad", "__set__"), Tensor.requires_grad_, Tensor.retain_grad]
)
def autograd_setting(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """The trace has no gradients, and the model's own settings are not the trace's to change."""
    return args[0]


@rule(attribute("grad"))
def gradient(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> None:
    return None


# What is asked of tensors whose values are known as of all others.
Tracer.unknowing = frozenset(
    [
        function
        for function, handler in RULES.items()
        if handler in (convert, shape_donor, data_attribute, autograd_setting, gradient, get_device)
    ]
    + [function for name in PLACES for function in attribute(name)]
)
