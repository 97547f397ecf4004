"""What modules keep in objects of their own: caches within caches, counters, generators of random numbers.

`_C.Snapshot` knows the attributes of modules, and the dicts, lists and sets among them; this is what lies deeper.
"""

from __future__ import annotations

import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import _C
from .chance import Chance
from .members import to_the_end
from .private import GENERATORS, innermost, private_generator
from .tensors import SCALARS

# Layers of torch keep nothing of that kind.
PLAIN = frozenset(kind for kind in vars(nn).values() if isinstance(kind, type) and issubclass(kind, nn.Module)) - {
    nn.Module
}
# What is looked into no further: it cannot be changed, is saved elsewhere, or belongs to everybody.
CLOSED = (Tensor, nn.Module, type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, torch.Generator)
# Whose modules are not looked into for what they imported: what these draw, they draw from modules.
FOREIGN = frozenset({"ghnfast", "numpy", "torch"}) | sys.stdlib_module_names
WRAPPERS = frozenset({types.FunctionType, types.MethodType, staticmethod, classmethod, property})
Undo = Callable[[], Any]


def own_modules(modules: list[nn.Module]) -> list[nn.Module]:
    """The modules whose classes are not torch's layers."""
    return [module for module in modules if type(module) not in PLAIN]


@contextmanager
def deep_state(modules: list[nn.Module]) -> Iterator[None]:
    """Puts back what is in the containers and objects that modules keep, however deep, and the states of generators.

    Looked into are objects of dataclasses and of classes that are defined where those of the modules are: what belongs
    to others (a trainer, a queue of another thread) is not the model's.
    """
    own = own_modules(modules)
    if not own:
        yield
        return
    places = {type(module).__module__ for module in own}
    undo: list[Undo] = []
    seen: set[int] = set()
    waiting: list[Any] = _C.open_attributes(own)
    while waiting:
        value = waiting.pop()
        if type(value) in SCALARS or isinstance(value, CLOSED) or id(value) in seen:
            continue
        seen.add(id(value))
        waiting.extend(remember(value, undo, places))
    try:
        yield
    finally:
        to_the_end(lambda: [step() for step in undo])


def remember(value: Any, undo: list[Undo], places: set[str]) -> Iterable[Any]:
    """Remember how a value is put back as it is now; what there is in it."""
    if isinstance(value, random.Random):
        if not isinstance(value, random.SystemRandom):
            undo.append(partial(value.setstate, value.getstate()))
    elif isinstance(value, np.random.RandomState):
        undo.append(partial(value.set_state, value.get_state()))
    elif isinstance(value, np.random.Generator):
        undo.append(partial(setattr, value.bit_generator, "state", value.bit_generator.state))
    elif isinstance(value, (list, deque)):
        undo.append(partial(put_back_sequence, value, list(value)))
        return value
    elif isinstance(value, set):
        undo.append(partial(put_back_set, value, set(value)))
    elif isinstance(value, dict):
        undo.append(partial(put_back_dict, value, dict(value)))
        return value.values()
    elif isinstance(value, tuple):
        return value
    elif is_dataclass(value) or isinstance(value, types.SimpleNamespace) or type(value).__module__ in places:
        return [getattr(value, "__dict__", None)]
    return ()


def put_back_sequence(value: Any, content: list[Any]) -> None:
    if len(value) != len(content) or any(ours is not theirs for ours, theirs in zip(value, content, strict=True)):
        value.clear()
        value.extend(content)


def put_back_set(value: set[Any], content: set[Any]) -> None:
    if value != content:
        value.clear()
        value.update(content)


def put_back_dict(value: dict[Any, Any], content: dict[Any, Any]) -> None:
    if list(map(id, value)) != list(map(id, content)) or any(value[key] is not item for key, item in content.items()):
        value.clear()
        value.update(content)


def draw_privately(modules: list[nn.Module], chance: Chance) -> None:
    """Let generators that are attributes of modules draw as those of `random` and numpy do in a trace.

    The attributes are not put back here.
    """
    own = own_modules(modules)
    if not own or not any(isinstance(value, GENERATORS) for value in _C.open_attributes(own)):
        return
    for module in own:
        for name, value in list(vars(module).items()):
            if isinstance(value, GENERATORS):
                vars(module)[name] = private_generator(chance, value)


Namespace = dict[str, Any]


def namespaces_of(modules: list[nn.Module]) -> list[tuple[Namespace, bool]]:
    """What the modules of Python name in which a model's code lies, and those of what these name.

    Each with whether it is one of the former.
    """
    models = own_modules(modules)
    kinds = {base for kind in set(map(type, models)) for base in kind.__mro__ if base not in PLAIN}
    methods = [value for kind in kinds if not is_foreign(kind.__module__) for value in vars(kind).values()]
    given = [value for module in models for value in vars(module).values() if type(value) is types.FunctionType]
    own = distinct(map(namespace_of, (*methods, *given)), ())
    named = distinct((namespace_of(value) for namespace in own for value in namespace.values()), own)
    return [*((namespace, True) for namespace in own), *((namespace, False) for namespace in named)]


def distinct(namespaces: Iterable[Namespace | None], others: Iterable[Namespace]) -> list[Namespace]:
    """Those that are none of the others, nor foreign."""
    seen = set(map(id, others))
    found = {id(each): each for each in namespaces if each is not None and id(each) not in seen}
    return [each for each in found.values() if not is_foreign(each.get("__name__", ""))]


def is_foreign(name: str) -> bool:
    return name.partition(".")[0] in FOREIGN


def namespace_of(value: Any) -> Namespace | None:
    """The names that a function, or what it wraps, finds, or those in a module; None for anything else."""
    kind = type(value)
    if kind is types.FunctionType and "__wrapped__" not in value.__dict__:
        return value.__globals__
    if kind is types.ModuleType:
        return vars(value)
    if kind in WRAPPERS:
        return getattr(innermost(value.fget if kind is property else value), "__globals__", None)
    return None
