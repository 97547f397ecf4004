"""Which rule a torch function has, and what rules share.

A rule gets the tracer and the call, records the operations that the call stands for and returns what the call would
return, on the meta device. Functions without a rule connect everything they read to everything they return
(`Tracer.generic`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .tracer import Rule

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


def arguments(args: Arguments, kwargs: Keywords, parameters: dict[str, Any]) -> Arguments:
    """The arguments of a call in the order of `parameters` (name: default), however they were given."""
    if len(args) == len(parameters):
        return args
    missing = list(parameters.items())[len(args) :]
    return (*args, *(kwargs.get(name, default) for name, default in missing))


def pair(value: Any) -> tuple[int, int]:
    """(height, width) from a number, a 1-tuple or a 2-tuple."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is type(value[1]) is int:
        return value
    if isinstance(value, int):
        return value, value
    values = tuple(int(item) for item in value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def attribute(name: str, access: str = "__get__") -> list[Function]:
    """How a tensor attribute is read, or set, as a function; none where this torch has no such attribute."""
    return [getattr(getattr(Tensor, name), access)] if hasattr(Tensor, name) else []
