"""Operators of ATen (`torch.ops.aten`), as exported programs call them, and the torch functions that are the same.

Rules go by functions. Those that torch generates from an operator take what the operator takes, in that order.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
OPERATORS = frozenset((torch._ops.OpOverload, torch._ops.OpOverloadPacket))
# What torch generates, and what it has written in Python that takes the same.
PLACES = (
    torch._C._VariableFunctions,
    torch._C._nn,
    Tensor,
    *(getattr(torch._C, name) for name in ("_linalg", "_special")),
)
GENERATED = (types.BuiltinFunctionType, types.MethodDescriptorType)
SAME: dict[str, Callable[..., Any]] = {
    "split": Tensor.split,
    "unflatten": Tensor.unflatten,
    "einsum": torch.einsum,
    "norm": Tensor.norm,
    "max_pool2d_with_indices": F.max_pool2d_with_indices,
    "_unsafe_view": Tensor.view,
    "lift_fresh": Tensor.clone,
    "lift_fresh_copy": Tensor.clone,
    "alias": Tensor.detach,
    "sym_size": Tensor.size,
    "sym_stride": Tensor.stride,
    "sym_numel": Tensor.numel,
    "_local_scalar_dense": Tensor.item,
}


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Call:
    name = f"conv_transpose{weight.ndim - 2}d" if transposed else f"conv{weight.ndim - 2}d"
    after = (output_padding, groups, dilation) if transposed else (dilation, groups)
    return getattr(torch, name), (input, weight, bias, stride, padding, *after), {}


def sliced(input: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Call:
    before = (slice(None),) * (dim % input.ndim)
    return Tensor.__getitem__, (input, (*before, slice(start, end, step))), {}


def indexed(input: Tensor, indices: Any) -> Call:
    return Tensor.__getitem__, (input, tuple(slice(None) if item is None else item for item in indices)), {}


def softmax(input: Tensor, dim: int, half_to_float: bool) -> Call:
    return torch.softmax, (input, dim), {"dtype": torch.float32} if half_to_float else {}


def log_softmax(input: Tensor, dim: int, half_to_float: bool) -> Call:
    return torch.log_softmax, (input, dim), {"dtype": torch.float32} if half_to_float else {}


def converted(input: Tensor, *, dtype: torch.dtype | None = None, **layout: Any) -> Call:
    return Tensor.to, (input, input.dtype if dtype is None else dtype), {}


REWRITTEN: dict[str, Callable[..., Call]] = {
    "convolution": convolution,
    "slice": sliced,
    "index": indexed,
    "_softmax": softmax,
    "_log_softmax": log_softmax,
    "_to_copy": converted,
}
known: dict[str, Callable[..., Any] | None] = {}


def as_function(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], rules: Mapping[Any, Any]) -> Call:
    """The call of a torch function that is the call of this operator; the call as it is where there is none."""
    whole = operator._schema.name if isinstance(operator, torch._ops.OpOverload) else operator._qualified_op_name
    namespace, _, name = whole.partition("::")
    if namespace != "aten":
        return operator, args, kwargs
    if "self" in kwargs and not args:
        args, kwargs = (kwargs["self"],), {key: item for key, item in kwargs.items() if key != "self"}
    if name in REWRITTEN:
        try:
            return REWRITTEN[name](*args, **kwargs)
        except TypeError:  # it takes something else, as torch will say
            return operator, args, kwargs
    if name not in known:
        known[name] = function_of(name, rules)
    return known[name] or operator, args, kwargs


def function_of(name: str, rules: Mapping[Any, Any]) -> Callable[..., Any] | None:
    """The torch function of this name, of several one that has a rule."""
    if name in SAME:
        return SAME[name]
    named = (getattr(place, name, None) for place in PLACES)
    found = [function for function in named if isinstance(function, GENERATED)]
    return next((function for function in found if function in rules), found[0] if found else None)
