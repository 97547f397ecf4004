"""Rules for tensor attributes, conversions and functions that copy a shape only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .registry import Arguments, Function, Keywords, argument, attribute, functions, rule
from .tracer import META, Tracer, Value, check_visible, map_tensors

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
    if dtype in (None, twin.dtype):
        return twin
    return tracer.set_value(
        twin.type(dtype), Value(value.operation, value.channel, value.parameters, lookup=value.lookup)
    )


SHAPE_DONORS = "zeros_like ones_like empty_like full_like rand_like randn_like randint_like".split()
NEW = "new_zeros new_ones new_empty new_full new_tensor".split()


@rule([getattr(torch, name) for name in SHAPE_DONORS] + [getattr(Tensor, name) for name in NEW])
def shape_donor(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """The result takes the shape or dtype of the first argument, and nothing of its values."""
    check_visible()
    made = func(*map_tensors(tracer.twin, args), **kwargs) if tracer.is_data(args[0]) else None
    return tracer.set_value(made, Value()) if made is not None else tracer.run_constant(func, args, kwargs)


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
