"""Triton's interpreter, with the same results in half the time.

Most of its time goes to the types of values, which it makes anew for each of them, and to looking for overflows of
which nobody is told. What is kept here is what it makes itself, for the next value of the same type.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from typing import Any


def speed_up() -> None:
    """Of all kernels that this process interprets from now on; once."""
    if importlib.util.find_spec("triton") is None:
        return
    from triton.language import core, semantic
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_LangPatchScope"):  # before Triton 3.4
        return
    patch_the_language_once(core, interpreter)
    keep_types(core)
    keep_what_types_say(core, interpreter)
    pass_on_what_fits(core, semantic.TritonSemantic)
    builder = interpreter.interpreter_builder
    if not builder.options.debug:  # without it, what is found is thrown away
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def patch_the_language_once(core: Any, interpreter: Any) -> None:
    """Let it put its own operations into the language once a launch.

    It does so for each call of a function within a kernel, too, where it finds them all there: a third of the time.
    """
    language, patch = sys.modules["triton.language"], interpreter._patch_lang

    def patch_once(function: Any) -> Any:
        names = function.__globals__.values()
        modules = [value for value in names if value is language or value is core]
        if modules and not any(core.is_builtin(module.load) for module in modules):
            return interpreter._LangPatchScope()
        return patch(function)

    interpreter._patch_lang = patch_once


def keep_types(core: Any) -> None:
    """One type for all blocks of a kind and a shape, which are then compared by what they are."""
    block, initialize = core.block_type, core.block_type.__init__
    kept: dict[Any, Any] = {}

    def new(cls: Any, element_ty: Any, shape: Any) -> Any:
        if cls is not block:
            return object.__new__(cls)
        sizes = tuple([size if type(size) is int else core._unwrap_if_constexpr(size) for size in shape])
        key = id(element_ty), sizes  # the type that is kept has the kind: there is no other one of this id
        found = kept.get(key)
        if found is None:
            found = object.__new__(cls)
            initialize(found, element_ty, shape)
            found.sizes = sizes
            kept[key] = found
        return found

    def unless_it_is(self: Any, element_ty: Any, shape: Any) -> None:
        if "sizes" not in self.__dict__:
            initialize(self, element_ty, shape)

    block.__new__, block.__init__ = new, unless_it_is
    for kind in (core.dtype, core.pointer_type, block):
        equal, hashed = kind.__eq__, kind.__hash__
        kind.__eq__ = lambda self, other, equal=equal: self is other or equal(self, other)
        kind.__hash__ = hashed


def keep_what_types_say(core: Any, interpreter: Any) -> None:
    """What a value is beside its numbers, and which numbers of numpy's those are."""
    initialize, numbers = core.tensor.__init__, interpreter._get_np_dtype

    def of_its_type(self: Any, handle: Any, type: Any) -> None:
        rest = type.__dict__.get("rest")
        if rest is None:
            initialize(self, handle, type)
            type.rest = {name: value for name, value in self.__dict__.items() if name != "handle"}
        else:
            self.__dict__.update(rest)
            self.handle = handle

    def numbers_of(type: Any) -> Any:
        found = type.__dict__.get("numbers")
        if found is None:
            found = type.numbers = numbers(type)
        return found

    core.tensor.__init__, interpreter._get_np_dtype = of_its_type, numbers_of


def pass_on_what_fits(core: Any, semantic: Any) -> None:
    """Constants of the language, operands of one type and of one shape: most are, and nothing is to be done."""
    unwrap, common, broadcast = (
        core._unwrap_if_constexpr, semantic.computation_type_impl, semantic.broadcast_impl_value
    )  # fmt: skip

    def quick_unwrap(value: Any) -> Any:
        kind = type(value)
        if kind is core.constexpr:
            return value.value
        return value if kind is int or kind is core.tensor else unwrap(value)

    def quick_common(self: Any, left: Any, left_is: bool, right: Any, right_is: bool, divided: bool) -> Any:
        return left if left is right and not divided else common(self, left, left_is, right, right_is, divided)

    def quick_broadcast(self: Any, left: Any, right: Any) -> Any:
        sizes = left.type.__dict__.get("sizes")
        if sizes is not None and sizes == right.type.__dict__.get("sizes"):
            return left, right
        return broadcast(self, left, right)

    core._unwrap_if_constexpr = quick_unwrap
    semantic.computation_type_impl, semantic.broadcast_impl_value = quick_common, quick_broadcast
