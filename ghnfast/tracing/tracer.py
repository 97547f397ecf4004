"""Records what a model's forward does, without computing it.

A `Tracer` is a `torch.overrides.TorchFunctionMode`: while it is active, every torch function that the forward calls
comes here first. Tensors that depend on the input or on a parameter live on the meta device, so a call costs a shape
computation. What each call does to the architecture graph is decided by its rule (`rules`).

What can be known is known: constants and integers among the inputs are real tensors on the CPU, and what is computed
from parameters alone is computed for real where the forward reads it. Only values of features are unknown.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from ..errors import TraceError
from ..randomness import DRAWING
from .calls import check_visible, function_name, writes_first_argument
from .chance import Chance, TraceRandom
from .members import Members
from .operations import Kind
from .overloads import OPERATORS, as_function
from .predicted import Predicted
from .shapes import changes_values_alone, kept_layout, result_dtype, result_shape
from .tensors import CPU, META, copy_of, empty, map_tensors, on_meta, tensors_in, to_meta
from .values import Call, Origin, Value, merged
from .zeros import call_on_meta

FACTORIES = frozenset(_device_constructors())
NOTHING = nullcontext()
Rule = Callable[["Tracer", Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Tracer(Predicted, TorchFunctionMode):
    """Records the operations of one forward pass; see the module docstring."""

    # Functions whose rules answer for tensors with known values, too.
    unknowing: frozenset[Callable[..., Any]] = frozenset()

    def __init__(self, members: Members, rules: dict[Any, Rule], chance: Chance) -> None:
        super().__init__(members)
        self.rules = rules
        self.chance = chance

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if type(func) in OPERATORS:
            func, args, kwargs = as_function(func, args, kwargs or {}, self.rules)
        if self.has_known and (found := self.run_known(func, args, kwargs or {})) is not NotImplemented:
            return found
        if not kwargs:
            return self.rules.get(func, Tracer.generic)(self, func, args, {})
        if not args and "input" in kwargs:
            kwargs = dict(kwargs)
            args = (kwargs.pop("input"),)
        if len(args) == 1 and "other" in kwargs:
            kwargs = dict(kwargs)
            args = (*args, kwargs.pop("other"))
        return self.rules.get(func, Tracer.generic)(self, func, args, kwargs)

    def generic(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run any function: everything it reads connects to everything it returns."""
        values = [self.value(tensor) for tensor in tensors_in(args, kwargs)]
        inputs = self.distinct_operations(values)
        parameters = tuple(dict.fromkeys([index for value in values for index in value.parameters]))
        if not inputs and not parameters:
            return self.run_constant(func, args, kwargs)
        made = functools.reduce(operator.or_, [value.made for value in values], 0)
        if not inputs:
            return self.run_parametric(func, args, kwargs, parameters, made)
        if parameters:
            if writes_first_argument(func):
                self.note_use(args[:1], "the forward writes what is computed from features to it")
            name = function_name(func)
            self.note_use((args, kwargs), f"torch's {name} uses it, whose parameters are not predicted")
        return self.run_meta(func, args, kwargs, self.emit(Kind.PASS, inputs), (), made)

    def run_constant(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function of constants and buffers for real: control flow may depend on their values."""
        check_visible()
        tensors = tensors_in(args, kwargs)
        values = [self.value(tensor) for tensor in tensors]
        source = merged(values)
        if not all(map(self.is_known, tensors)):
            args, kwargs = map_tensors(self.copy, args), map_tensors(self.copy, kwargs)
            tensors = tensors_in(args, kwargs)
        if len({tensor.is_meta for tensor in tensors}) == 2:
            args, kwargs = map_tensors(to_meta, args), map_tensors(to_meta, kwargs)
        if func in FACTORIES:  # on no other device, also where there is a default one
            kwargs = {**kwargs, "device": CPU}
        scaled = changes_values_alone(func, args) and args[0].is_meta and not kwargs
        with TraceRandom(self.chance.generators[0]) if func in DRAWING else NOTHING:
            result = args[0] if scaled else func(*args, **kwargs)
        self.set_real(result, args, source)
        self.note_real_write(func, args, kwargs, source)
        if source.sites and not tensors_in(result):
            self.chance.read.update(dict.fromkeys(source.sites))
        return result

    def run_parametric(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        parameters: tuple[int, ...],
        made: int = 0,
    ) -> Any:
        """Run a function of parameters: of their shapes, or where that is not enough, of their values."""
        try:
            return self.run_meta(func, args, kwargs, -1, parameters, made)
        except Exception as error:  # whatever a function says of tensors without data
            if isinstance(error, TraceError):
                raise
            try:
                result = self.call_for_real(func, args, kwargs)
            except Exception:
                raise error from None  # what is wrong with it, it says of the shapes
        found = tensors_in(result)
        if not found:
            self.read.update(parameters)
        for tensor in found:
            base = self.base_of(func, args, kwargs, tensor)
            self.set_value(tensor, Origin(-1, None, parameters, made=made, base=base))
        return result

    def run_known(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function of integers among the inputs, and of constants, for real; NotImplemented for others."""
        tensors = tensors_in(args, kwargs)
        values = [self.value(tensor) for tensor in tensors]
        if not any(value.known for value in values) or func in self.unknowing:
            return NotImplemented
        if any(value.parameters or (value.operation >= 0 and not value.known) for value in values):
            return NotImplemented
        args, kwargs = map_tensors(self.copy, args), map_tensors(self.copy, kwargs)
        if any(tensor.is_meta for tensor in tensors_in(args, kwargs)):
            return NotImplemented
        with TraceRandom(self.chance.generators[0]):
            result = func(*args, **kwargs)
        operation = self.distinct_operations(values)[0]
        source = Origin(operation, known=True)
        self.set_real(result, args, source)
        self.note_real_write(func, args, kwargs, source)
        return result

    def call_for_real(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with TraceRandom(self.chance.generators[0]):
            return func(*map_tensors(self.real, args), **map_tensors(self.real, kwargs))

    def real(self, tensor: Tensor) -> Tensor:
        """The values of a constant, or of a tensor that is computed from parameters; a copy of the model's own."""
        value = self.value(tensor)
        if value.operation >= 0 and not value.known:
            raise TraceError("the values of features are not known in a trace")
        recipe = value.recipe
        if recipe is not None:
            return tensors_in(self.call_for_real(recipe.func, recipe.args, recipe.kwargs))[recipe.position]
        if tensor.is_meta:
            raise TraceError("a tensor on the meta device has no values")
        return tensor if self.is_known(tensor) else copy_of(tensor)

    def run_meta(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operation: int,
        parameters: tuple[int, ...] = (),
        made: int = 0,
    ) -> Any:
        """Run `func` on meta tensors; its results come from `operation` (or from `parameters` alone)."""
        target = args[0] if args and isinstance(args[0], Tensor) else None
        written = target if writes_first_argument(func) else kwargs.get("out")
        if not isinstance(written, Tensor) or (written.is_meta and not changes_values_alone(func, args)):
            result = self.run(func, args, kwargs)
        # Else nothing may be written; the result has the shape of what it is written to.
        if isinstance(written, Tensor):
            base = self.base_of(func, args, kwargs, written) if operation < 0 else None
            return self.write(written, operation, parameters, base)
        channel, rank, size = None, -1, -1
        if target is not None and (channel := self.value(target).channel) is not None:
            rank, size = target.ndim, target.shape[channel]
        for position, tensor in enumerate(tensors_in(result)):
            if tensor is target and self.is_known(tensor):
                self.write(tensor, operation, parameters)
                continue
            kept = channel is not None and tensor.ndim == rank and tensor.shape[channel] == size
            shared = tensor._is_view()
            if operation >= 0 and not made:
                self.set_value(tensor, Value(operation, channel if kept else None, shared))
            else:
                value = Origin(operation, channel if kept else None, parameters, made=made, shared=shared)
                if operation < 0:
                    value.recipe = Call(func, args, kwargs, position)
                    value.base = self.base_of(func, args, kwargs, tensor)
                self.set_value(tensor, value)
            if shared:
                self.share(args, kwargs)
        return result

    def run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a function returns on the meta device."""
        shape = result_shape(func, args, kwargs)
        if shape is not None:
            return empty(shape, result_dtype(tensors_in(args, kwargs)))
        if (layout := kept_layout(func, args, kwargs)) is not None:
            return torch.empty_strided(*layout, dtype=args[0].dtype, device=META)
        args, kwargs = map_tensors(self.twin, args), on_meta(map_tensors(self.twin, kwargs))
        return call_on_meta(func, args, kwargs)

    def run_unary(self, func: Callable[..., Any], x: Tensor, rest: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same for a function of one tensor, its first argument."""
        shape = result_shape(func, (x, *rest), kwargs)
        if shape is not None:
            return empty(shape, x.dtype)
        return call_on_meta(func, (self.twin(x), *rest), kwargs)

    def draw_in_likeness(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Numbers of the shape of features, or parameters, that do not come from them; on the meta device."""
        return self.set_value(func(*map_tensors(self.twin, args), **on_meta(kwargs)), Value())
