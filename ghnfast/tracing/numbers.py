"""A trace on real numbers, for forwards that read values of features.

Every tensor that depends on the input or on a parameter is real here, and has a meta twin that goes through the rules
as in any other trace; what a function returns is real, and comes from where the twins of it come from.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import TraceError
from ..files import in_words
from .calls import ShapeError, hidden_operation, writes_first_argument
from .chance import Chance, TraceRandom
from .members import Members, members_of
from .operations import Kind
from .overloads import OPERATORS, as_function
from .tensors import CPU, SCALARS, check_memory, map_tensors, tensors_in, to_meta
from .tracer import Rule, Tracer
from .values import Origin, Value
from .views import DROPOUTS

# What makes tensors of arrays; `torch.from_numpy`, which does too, is not seen in a trace.
FROM_ARRAYS = (torch.tensor, torch.as_tensor, torch.asarray)


# Operators that torch runs without a function that could be seen, on tensors that it hands out.
HARMLESS = ("lift_fresh", "detach", "alias")


class HiddenOperations(TraceRandom):
    """Fails where something computes with features that no torch function was called for."""

    def __init__(self, tracer: NumbersTracer) -> None:
        super().__init__(tracer.chance.generators[0])
        self.tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        seen = self.tracer.inside or func.overloadpacket.__name__ in HARMLESS
        if not seen and any(self.tracer.is_feature(tensor) for tensor in tensors_in(args, kwargs)):
            self.tracer.hidden = hidden_operation(f"{func.overloadpacket.__name__} is computed by")
            raise self.tracer.hidden
        return self.call(func, args, kwargs)


class NumbersTracer(Tracer):
    """A `Tracer` whose tensors are real; see the module docstring."""

    def __init__(self, members: Members, rules: dict[Any, Rule], chance: Chance) -> None:
        super().__init__(members, rules, chance)
        self.inside = False
        # The twin of each real tensor of the trace, and the tensor, which is kept so that no other can get its id; and
        # the twin of the last tensor in each memory.
        self.partners: dict[int, tuple[Tensor, Tensor]] = {}
        self.memories: dict[int, Tensor] = {}
        # The operations whose values went to numpy, or to Python: what is made of numpy's arrays comes from there.
        self.read_out: list[int] = []
        # What was found to be hidden: TorchScript has messages of its own for errors of ours.
        self.hidden: TraceError | None = None

    def is_feature(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in memory that holds something that depends on the input."""
        if tensor.is_meta or tensor.layout is not torch.strided or is_wrapped(tensor):
            return False
        twin = self.memories.get(tensor.untyped_storage()._cdata)
        return twin is not None and self.value(twin).operation >= 0

    def is_made_of_parameters(self, tensor: Tensor) -> bool:
        """Whether a tensor that is none of the model's own lies in memory of what the forward made of parameters."""
        if id(tensor) in self.indices or tensor.is_meta or tensor.layout is not torch.strided:
            return False
        twin = self.memories.get(tensor.untyped_storage()._cdata)
        return twin is not None and twin.shape == tensor.shape and bool(self.value(twin).parameters)

    def pair(self, real: Tensor, twin: Tensor) -> Tensor:
        """Let a real tensor come from where its twin comes from."""
        self.partners[id(real)] = (real, twin)
        if real.layout is torch.strided:
            self.memories[real.untyped_storage()._cdata] = twin
        return real

    def partner(self, tensor: Tensor) -> Tensor:
        found = self.partners.get(id(tensor))
        return tensor if found is None else found[1]

    def number(self, tensor: Tensor) -> Tensor:
        """What a function computes with: the model's own tensors are private already."""
        own = self.copies.get(id(tensor))
        return tensor if own is None else own[1]

    def value_from_outside(self, tensor: Tensor) -> Value:
        if is_wrapped(tensor):
            raise hidden_operation(f"a tensor of shape {tuple(tensor.shape)} comes out of")
        found = self.partners.get(id(tensor))
        if found is not None:
            return self.value(found[1])
        if self.is_feature(tensor) or self.is_made_of_parameters(tensor):  # another object for the same memory
            return self.value(self.memories[tensor.untyped_storage()._cdata])
        if self.read_out and is_numpys(tensor):
            self.pair(tensor, self.twin_of_read_out(tensor))
            return self.value(self.partner(tensor))
        return super().value_from_outside(tensor)

    def twin_of_read_out(self, tensor: Tensor) -> Tensor:
        return self.set_value(to_meta(tensor), Value(self.emit(Kind.PASS, self.read_out)))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if type(func) in OPERATORS:
            func, args, kwargs = as_function(func, args, kwargs, self.rules)
        before, self.inside = self.inside, True
        try:
            return self.call(func, args, kwargs)
        finally:
            self.inside = before

    def call(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        tensors = tensors_in(args, kwargs)
        twins = [self.partner(tensor) for tensor in tensors]
        values = [self.value(twin) for twin in twins]
        if not any(value.parameters or (value.operation >= 0 and not value.known) for value in values):
            result = super().__torch_function__(func, (), args, kwargs)
            if self.read_out and func in FROM_ARRAYS and args and isinstance(args[0], np.ndarray):
                self.pair(result, self.twin_of_read_out(result))
                del result.__dict__["_ghnfast_value"]
            return result
        traced: Any = None
        try:
            shown = map_tensors(self.partner, args), map_tensors(self.partner, kwargs)
            traced = super().__torch_function__(func, (), *shown)
        except (TraceError, ShapeError):
            raise
        except Exception:  # what shapes cannot say, the numbers do; or they say what is wrong
            traced = None
        outlines = tensors_in(traced)
        writes = writes_first_argument(func) or "out" in kwargs
        if outlines and not writes and not any(outline.is_meta for outline in outlines):
            return traced  # constants that take no more than a shape from features
        result = self.compute(func, args, kwargs)
        made = tensors_in(result)
        if isinstance(result, (np.ndarray, list)) and not made:
            self.read_out = list(dict.fromkeys([*self.read_out, *self.distinct_operations(values)]))
        if len(outlines) != len(made):
            outlines = [self.outline(tensor, values) for tensor in made]
        for tensor, outline in zip(made, outlines, strict=True):
            if tensor is not outline and id(tensor) not in self.indices and id(tensor) not in self.buffer_ids:
                self.pair(tensor, self.fitted(outline, tensor))
        return result

    def compute(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """What a function really returns."""
        if getattr(func, "__name__", "").strip("_") in DROPOUTS and args:
            return self.number(args[0]) if writes_first_argument(func) else self.number(args[0]).clone()
        with torch.no_grad():
            return func(*map_tensors(self.number, args), **map_tensors(self.number, kwargs))

    def outline(self, tensor: Tensor, values: list[Value]) -> Tensor:
        """A twin for a result that no rule could make: it comes from all that the function read."""
        inputs = self.distinct_operations(values)
        operation = self.emit(Kind.PASS, inputs) if inputs else -1
        parameters = () if inputs else tuple(dict.fromkeys([index for value in values for index in value.parameters]))
        return self.set_value(to_meta(tensor), Origin(operation, None, parameters))

    def fitted(self, outline: Tensor, tensor: Tensor) -> Tensor:
        """A twin of the shape and dtype of the tensor."""
        if outline.is_meta and outline.shape == tensor.shape and outline.dtype == tensor.dtype:
            return outline
        return self.set_value(to_meta(tensor), self.value(outline))


def is_wrapped(tensor: Tensor) -> bool:
    """Whether a tensor is one of torch.func's, which stands for another."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def is_numpys(tensor: Tensor) -> bool:
    """Whether a tensor lies in memory that torch did not allocate."""
    return tensor.layout is torch.strided and not tensor.is_meta and not tensor.untyped_storage().resizable()


def deep_copy(model: nn.Module, modules: list[nn.Module]) -> nn.Module:
    """A deep copy, which shares what cannot be copied; of results of computations it has the values.

    Raises:
        TraceError: there can be none.
    """
    with suppress(Exception):  # whatever it consists of raises; then, part by part
        return copy.deepcopy(model)
    memo: dict[int, Any] = {}
    for module in modules:
        for name, value in vars(module).items():
            if name in ("_modules", "_parameters"):
                continue
            for tensor in tensors_in(value):
                if not tensor.is_leaf:
                    memo[id(tensor)] = tensor.detach().clone()
            if not isinstance(value, Tensor) and type(value) not in SCALARS and not can_be_copied(value, memo):
                memo[id(value)] = value
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # of whatever it consists of
        raise TraceError(
            f"the forward reads values of features, which needs a copy of the model, and it cannot be copied: "
            f"{in_words(error)}"
        ) from error


def can_be_copied(value: Any, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:  # whatever its class raises
        return False
    return True


def private_model(model: nn.Module, generator: torch.Generator) -> tuple[nn.Module, Members]:
    """A copy of the model on the CPU, whose tensors the trace may write to.

    Raises:
        MemoryLost: the storage of a parameter or a buffer was freed.
    """
    own = members_of(model)
    for tensor in (*own.parameters, *own.buffers):
        check_memory(tensor)
    made = deep_copy(model, own.modules)
    members = members_of(made)
    if any(tensor.is_meta for tensor in (*members.parameters, *members.buffers)):
        made = made.to_empty(device=CPU)
        members = members_of(made)
        with torch.no_grad():
            for tensor in (*members.parameters, *members.buffers):
                if tensor.is_floating_point():
                    tensor.normal_(0, 0.02, generator=generator)
                else:
                    tensor.zero_()
        return made, members
    made = made.to(CPU)
    return made, members_of(made)
