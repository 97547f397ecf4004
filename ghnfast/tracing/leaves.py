"""torch's own small layers, without running their forward in Python.

Half of a trace would be spent between a layer's `__call__` and the torch function behind it. So the trace runs a
private copy of the model in which these layers go straight to the rule of that function. Where a copy could behave
differently from the model, there is none (see `private_copy`), and the model itself is run.
"""

from __future__ import annotations

import functools
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _len_torch_function_stack as mode_count
from torch._C import _pop_torch_function_stack as pop_mode
from torch._C import _push_on_torch_function_stack as push_mode

from .. import _C
from .layers import convolution, normalize, projection
from .members import Members, has_global_hooks
from .operations import Kind
from .pools import GLOBAL_AVERAGE, adaptive_pool, pool
from .tensors import SCALARS
from .tracer import Tracer
from .values import Value
from .views import activate

# Takes the attributes of a layer, its input, on the meta device and part of the trace, and where that comes from. It
# returns NotImplemented, before it has recorded anything, where the layer's own forward has to answer.
Leaf = Callable[[Tracer, dict[str, Any], Tensor, Value], Any]


def elementwise(tracer: Tracer, own: dict[str, Any], x: Tensor, value: Value) -> Tensor:
    return activate(tracer, x, value, own.get("inplace", False))


def identity(tracer: Tracer, own: dict[str, Any], x: Tensor, value: Value) -> Tensor:
    return x


def conv2d(tracer: Tracer, own: dict[str, Any], x: Tensor, value: Value) -> Any:
    given = own["_parameters"]
    weight = given["weight"]
    stride, padding, dilation = own["stride"], own["padding"], own["dilation"]
    usual = type(stride) is type(padding) is type(dilation) is tuple and own["padding_mode"] == "zeros"
    if not usual or not tracer.is_parametric(weight):
        return NotImplemented
    window = stride, padding, dilation, own["groups"]
    return convolution(tracer, x, (value.operation,), weight, given["bias"], window)


def linear(tracer: Tracer, own: dict[str, Any], x: Tensor, value: Value) -> Any:
    given = own["_parameters"]
    weight = given["weight"]
    if not tracer.is_parametric(weight) or weight.ndim != 2:
        return NotImplemented
    return projection(tracer, x, (value.operation,), weight, given["bias"])


def batch_norm(tracer: Tracer, own: dict[str, Any], x: Tensor, value: Value) -> Any:
    count = own["_buffers"]["num_batches_tracked"] if own["training"] and own["track_running_stats"] else None
    if x.ndim != 4 or (count is not None and not tracer.count(count, 1)):
        return NotImplemented
    given = own["_parameters"]
    return normalize(tracer, Kind.BN, x, value, None, given.get("weight"), given.get("bias"))


def layer_norm(tracer: Tracer, own: dict[str, Any], x: Tensor, value: Value) -> Any:
    given = own["_parameters"]
    return normalize(tracer, Kind.LN, x, value, own["normalized_shape"], given.get("weight"), given.get("bias"))


def max_pool2d(tracer: Tracer, own: dict[str, Any], x: Tensor, value: Value) -> Any:
    if own["return_indices"]:
        return NotImplemented
    window = own["kernel_size"], own["stride"], own["padding"], own["dilation"], own["ceil_mode"]
    return pool(tracer, x, value, True, window)


def avg_pool2d(tracer: Tracer, own: dict[str, Any], x: Tensor, value: Value) -> Any:
    return pool(tracer, x, value, False, (own["kernel_size"], own["stride"], own["padding"], 1, own["ceil_mode"]))


def adaptive_average(tracer: Tracer, own: dict[str, Any], x: Tensor, value: Value) -> Any:
    return adaptive_pool(tracer, x, value, own["output_size"], 2, GLOBAL_AVERAGE)


LEAVES: dict[type[nn.Module], Leaf] = {
    nn.Conv2d: conv2d,
    nn.Linear: linear,
    nn.BatchNorm2d: batch_norm,
    nn.LayerNorm: layer_norm,
    nn.MaxPool2d: max_pool2d,
    nn.AvgPool2d: avg_pool2d,
    nn.AdaptiveAvgPool2d: adaptive_average,
    nn.Identity: identity,
    nn.ReLU: elementwise,
    nn.ReLU6: elementwise,
    nn.SiLU: elementwise,
    nn.GELU: elementwise,
    nn.Sigmoid: elementwise,
    nn.Hardswish: elementwise,
    nn.Hardsigmoid: elementwise,
    nn.Dropout: elementwise,
}
# A forward that somebody replaced in torch is not the one that is meant here.
FORWARDS = {kind: kind.forward for kind in LEAVES}


@contextmanager
def private_copy(model: nn.Module, members: Members, tracer: Tracer) -> Iterator[nn.Module]:
    """A copy of the modules, with the model's own parameters, buffers and containers; the model where it might not do.

    It does where modules know of each other only as torch's `Module` registers them: a hook, a bound method or a list
    of modules would lead back to the model.
    """
    modules = members.modules
    if has_global_hooks() or not members.plain:
        yield model
        return
    known = {kind: leaf for kind, leaf in LEAVES.items() if kind.forward is FORWARDS[kind]}
    leaves = [
        known.get(type(module)) if bare else None
        for module, bare in zip(modules, _C.bare_modules(modules), strict=True)
    ]
    if not are_self_contained([module for module, leaf in zip(modules, leaves, strict=True) if leaf is None]):
        yield model
        return
    copies = _C.copy_modules(modules)
    called = [(made, leaf) for made, leaf in zip(copies, leaves, strict=True) if leaf is not None]
    for made, leaf in called:
        made.__dict__["_compiled_call_impl"] = call_of(tracer, made, leaf)
    try:
        yield copies[0]
    finally:
        # A layer and its call know of each other, and would keep the model's memory until they are found out.
        for made, _ in called:
            made.__dict__["_compiled_call_impl"] = None


def are_self_contained(modules: list[nn.Module]) -> bool:
    """Whether the modules' `__dict__`s are all there is to them, and no attribute could lead to another module."""
    kinds = set(map(type, modules))
    if any(kind.__basicsize__ != nn.Module.__basicsize__ or hasattr(kind, "__del__") for kind in kinds):
        return False
    return all(map(is_inert, _C.open_attributes(modules)))


def is_inert(value: Any) -> bool:
    """Whether a value of an attribute cannot lead to a module."""
    kind = type(value)
    if kind in SCALARS or kind is torch.Size or isinstance(value, (Tensor, type, Enum)):
        return True
    if kind in (list, set, frozenset) or isinstance(value, tuple):
        return all(map(is_inert, value))
    if kind in (dict, OrderedDict):
        return all(map(is_inert, value)) and all(map(is_inert, value.values()))
    if is_dataclass(value) and hasattr(value, "__dict__"):
        return all(map(is_inert, vars(value).values()))
    if kind is functools.partial:
        return is_inert(value.func) and is_inert(value.args) and is_inert(value.keywords)
    if kind is types.FunctionType:
        return value.__closure__ is None and is_inert(value.__defaults__) and is_inert(value.__kwdefaults__)
    return kind is types.BuiltinFunctionType and isinstance(value.__self__, (types.ModuleType, type))


def call_of(tracer: Tracer, module: nn.Module, leaf: Leaf) -> Callable[..., Any]:
    """What a call of the layer does; a partial function is one object, a closure is six."""
    return functools.partial(call_layer, tracer, module, module.__dict__, leaf)


def call_layer(tracer: Tracer, module: nn.Module, own: dict[str, Any], leaf: Leaf, /, *args: Any, **kwargs: Any) -> Any:
    """The rule, where the input is one it knows."""
    if len(args) == 1 and not kwargs and type(x := args[0]) is Tensor and mode_count():
        mode = pop_mode()
        try:
            if mode is tracer and x.is_meta and (value := tracer.value(x)).operation >= 0:
                result = leaf(tracer, own, x, value)
                if result is not NotImplemented:
                    return result
        finally:
            push_mode(mode)
    return module._call_impl(*args, **kwargs)
