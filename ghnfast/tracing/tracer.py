"""Records what a model's forward does, without computing it.

A `Tracer` is a `torch.overrides.TorchFunctionMode`: while it is active, every torch function that the forward calls
comes here first. Tensors that depend on the input or on a parameter live on the meta device, so a call costs a shape
computation. What each call does to the architecture graph is decided by the rules beside this file.

The model's own tensors are never written: meta twins take the place of parameters, copies that of buffers and other
tensors that the forward computes with for real. What the forward writes into a tensor reaches the tensors that share
its memory.

What can be known is known: constants and integers among the inputs are real tensors on the CPU, and what is computed
from parameters alone is computed for real where the forward reads it. Only values of features are unknown.
"""

from __future__ import annotations

import functools
import operator
import sys
from array import array
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from ..errors import TraceError
from ..randomness import DRAWING
from .chance import Chance, Site, TraceRandom
from .members import Members
from .parts import Part, Region, region_part, reparametrizations_of
from .shapes import changes_values_alone, kept_layout, result_dtype, result_shape
from .tensors import CPU, META, copy_of, covers, empty, map_tensors, on_meta, overlap, tensors_in, to_meta
from .zeros import call_on_meta

is_meta = operator.attrgetter("is_meta")


class ShapeError(RuntimeError):
    """A layer cannot read an input of this shape: what the forward itself would have failed with."""


class Kind(IntEnum):
    """What a traced operation is; the numbers are those of `Kind` in csrc/graph/graph.hpp.

    The first fifteen are the primitives of DeepNets-1M, in the order of the embedding table.
    """

    MAX_POOL = 0
    AVG_POOL = 1
    SEP_CONV = 2
    DIL_CONV = 3
    CONV = 4
    MSA = 5
    CSE = 6
    SUM = 7
    CONCAT = 8
    INPUT = 9
    BIAS = 10
    BN = 11
    LN = 12
    POS_ENC = 13
    GLOB_AVG = 14
    PASS = 15
    SOFTMAX = 16
    MATMUL = 17
    GATE = 18
    SQUEEZE_GLOB_AVG = 19
    SQUEEZE_AVG_POOL = 20
    SQUEEZE_MAX_POOL = 21
    SQUEEZE_PASS = 22
    POINTWISE_CONV = 23


class Fate(IntEnum):
    """Why a traced operation is or is not a node; the numbers are those of `Fate` in csrc/graph/graph.hpp."""

    NODE = 0
    CONTRACTED = 1
    NO_INPUT = 2
    NO_OUTPUT = 3
    ATTENTION_OFFSET = 4


NO_PATH = "its layer has no path from the input"
FATE_REASONS = {
    Fate.NO_INPUT: NO_PATH,
    Fate.NO_OUTPUT: "its layer has no path to an output",
    Fate.ATTENTION_OFFSET: "it is added to attention scores, not to features",
}


def fate_reason(fate: Fate | None) -> str:
    """Why a parameter of an operation with this fate has no node; None for a parameter that no operation uses."""
    if fate is None:
        return "the forward does not use it"
    return FATE_REASONS.get(fate, "its layer is not part of the graph")


# How a tensor was made of parameters: entries were picked by index; a layer was applied to a constant. Sums of these.
LOOKUP, LAYER = 1, 2


class Call(NamedTuple):
    """A call of a torch function, and which of the tensors that it returns is meant."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    position: int = 0


class Value:
    """Where a tensor comes from.

    operation: the traced operation that produced it, or -1 for a tensor that does not depend on the input.
    channel: the dimension that holds the channels, or None where it is unknown.
    shared: whether another tensor may look at the same memory.

    What else there is to know of some tensors is in an `Origin`; these are its values for all others.
    """

    __slots__ = ("channel", "operation", "shared")

    parameters: tuple[int, ...] = ()
    buffer: bool = False
    made: int = 0
    known: bool = False
    sites: tuple[Site, ...] = ()
    recipe: Call | None = None
    base: int | Region | None = None

    def __init__(self, operation: int = -1, channel: int | None = None, shared: bool = False) -> None:
        self.operation = operation
        self.channel = channel
        self.shared = shared


class Origin(Value):
    """Where a tensor comes from that does not depend on features, but on something that is known.

    parameters: indices of the parameters it is computed from.
    buffer: whether it is computed from a buffer of the model.
    made: how it was made of parameters, of `LOOKUP` and `LAYER`.
    known: whether the tensor is real although it depends on the input: it comes from integers alone.
    sites: where the random numbers that it depends on were drawn (only for constants).
    recipe: the call that gives its values (only for meta tensors that are computed from parameters).
    base: the parameter, or the part of one, that the tensor is a rearrangement or a rescaling of (likewise).
    """

    __slots__ = ("base", "buffer", "known", "made", "parameters", "recipe", "sites")

    def __init__(
        self,
        operation: int = -1,
        channel: int | None = None,
        parameters: tuple[int, ...] = (),
        buffer: bool = False,
        made: int = 0,
        shared: bool = False,
        known: bool = False,
        sites: tuple[Site, ...] = (),
        recipe: Call | None = None,
        base: int | Region | None = None,
    ) -> None:
        super().__init__(operation, channel, shared)
        self.parameters = parameters
        self.buffer = buffer
        self.made = made
        self.known = known
        self.sites = sites
        self.recipe = recipe
        self.base = base


CONSTANT = Value()
BUFFER = Origin(buffer=True)


class Operations:
    """The traced operations, field by field, as C++ reads them.

    kinds: what each operation is.
    inputs: the operations that operation i reads are inputs[input_offsets[i]:input_offsets[i + 1]].
    parameters: indices of the weight and, for a normalization layer, the bias; None where there is none to predict.
    shapes: 4-D shape for the shape embedding (see `embedding_shape`), or None.
    """

    __slots__ = ("input_offsets", "inputs", "kinds", "parameters", "shapes")

    def __init__(self) -> None:
        self.kinds = array("b")
        self.inputs = array("i")
        self.input_offsets = array("i", [0])
        self.parameters: list[tuple[int | None, int | None]] = []
        self.shapes: list[tuple[int, ...] | None] = []

    def append(
        self,
        kind: Kind,
        inputs: Sequence[int],
        parameters: tuple[int | None, int | None] = (None, None),
        shape: tuple[int, ...] | None = None,
    ) -> int:
        """Append an operation; its number."""
        self.kinds.append(kind)
        self.inputs.extend(inputs)
        self.input_offsets.append(len(self.inputs))
        self.parameters.append(parameters)
        self.shapes.append(shape)
        return len(self.shapes) - 1


class Write(NamedTuple):
    """A write into memory: what wrote, and through which tensor."""

    operation: int
    tensor: Tensor


Rule = Callable[["Tracer", Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Tracer(TorchFunctionMode):
    """Records the operations of one forward pass; see the module docstring."""

    # Functions whose rules answer for tensors with known values, too.
    unknowing: frozenset[Callable[..., Any]] = frozenset()
    # Functions that move or copy the elements of their first argument, and those that shift or scale them.
    rearranging: frozenset[Callable[..., Any]] = frozenset()
    rescaling: frozenset[Callable[..., Any]] = frozenset()

    def __init__(self, members: Members, rules: dict[Any, Rule], chance: Chance) -> None:
        super().__init__()
        self.rules = rules
        self.chance = chance
        # Whether there are tensors that depend on the input and are known.
        self.has_known = False
        self.names, self.parameters = members.names, members.parameters
        # The model's own tensors; one that is both counts as a parameter.
        self.indices = dict(zip(map(id, self.parameters), range(len(self.parameters)), strict=True))
        self.buffer_ids = set(map(id, members.buffers))
        self.operations = Operations()
        self.emit = self.operations.append
        self.emit(Kind.INPUT, ())
        self.used_by: dict[int, str] = {}
        # What is predicted as one although it is no parameter; it is numbered after the parameters.
        self.parts: list[Part] = []
        self.part_numbers: dict[str, int] = {}
        self.reparametrized = reparametrizations_of(members)
        # Stand-ins of tensors that must not be written: on the meta device, and real copies. Each is kept with the
        # tensor that it stands for, so that no other tensor can get that id.
        self.twins: dict[int, tuple[Tensor, Tensor]] = {}
        self.copies: dict[int, tuple[Tensor, Tensor]] = {}
        self.counts: dict[int, int] = {}
        # What was written, by memory; and the twins of memory, by the memory that they stand for.
        self.writes: dict[int, list[Write]] = {}
        self.twin_bases: dict[int, tuple[Tensor, Tensor]] = {}
        self.twin_memory: dict[int, int] = {}
        # On a model that is on the meta device, tensors that are neither parameters nor buffers nor made by the trace.
        self.meta_ids = {
            id(item)
            for module in (members.modules if any(map(is_meta, self.parameters)) else ())
            for item in module.__dict__.values()
            if isinstance(item, Tensor)
        }

    # Values --------------------------------------------------------------------------------------------------------

    def value(self, tensor: Tensor) -> Value:
        """Where `tensor` comes from."""
        found: Value | None = tensor.__dict__.get("_ghnfast_value")
        if found is None:
            found = self.value_from_outside(tensor)
        return self.after_writes(tensor, found) if self.writes and (found.shared or found.operation < 0) else found

    def value_from_outside(self, tensor: Tensor) -> Value:
        """The value of a tensor that the trace did not make."""
        key = id(tensor)
        if key in self.twins:
            return self.value(self.twins[key][1])
        if key in self.indices:
            return Origin(parameters=(self.indices[key],), base=self.indices[key])
        if key in self.buffer_ids:
            return BUFFER
        if tensor.is_meta and key not in self.meta_ids:
            raise hidden_operation(f"a tensor of shape {tuple(tensor.shape)} comes out of")
        return CONSTANT

    def after_writes(self, tensor: Tensor, value: Value) -> Value:
        """The value of a tensor with what was written into its memory since."""
        writes = self.writes.get(self.memory_of(tensor), ())
        sources = [value.operation] if value.operation >= 0 else []
        for write in writes:
            if write.operation > value.operation and overlap(write.tensor, tensor):
                if covers(write.tensor, tensor):
                    sources.clear()
                sources.append(write.operation)
        if not sources or sources == [value.operation]:
            return value
        operation = sources[0] if len(sources) == 1 else self.emit(Kind.PASS, sources)
        return self.set_value(tensor, Value(operation, value.channel, True)).__dict__["_ghnfast_value"]

    def write(
        self,
        target: Tensor,
        operation: int,
        parameters: tuple[int, ...] = (),
        base: int | Region | None = None,
    ) -> Tensor:
        """Let `target` hold the result of `operation`, as an in-place function does; the tensor to go on with."""
        value = self.value(target)
        stand_in = target if self.is_known(target) else self.twin(target)
        kept = () if operation >= 0 else tuple(dict.fromkeys((*value.parameters, *parameters)))
        shared = value.shared or value.operation < 0  # the forward may have other tensors in memory from outside
        stand_in.__dict__["_ghnfast_value"] = Origin(operation, value.channel, kept, shared=shared, base=base)
        if operation >= 0 and shared:
            self.writes.setdefault(self.memory_of(stand_in), []).append(Write(operation, stand_in))
        return stand_in

    def memory_of(self, tensor: Tensor) -> int:
        """A key of a tensor's memory; a real tensor and its twin have the same."""
        key: int = tensor.untyped_storage()._cdata
        return self.twin_memory.get(key, key)

    def is_known(self, tensor: Tensor) -> bool:
        """Whether the tensor was made during this trace."""
        return "_ghnfast_value" in tensor.__dict__

    def is_data(self, item: Any) -> bool:
        """Whether `item` is a tensor that depends on the input."""
        return self.data_value(item) is not None

    def data_value(self, item: Any) -> Value | None:
        """Where `item` comes from, if it is a tensor that depends on the input."""
        if not isinstance(item, Tensor):
            return None
        value = self.value(item)
        return value if value.operation >= 0 else None

    def is_parametric(self, item: Any) -> bool:
        """Whether `item` is a tensor computed from parameters alone."""
        return self.index_of(item) is not None or (isinstance(item, Tensor) and bool(self.value(item).parameters))

    def index_of(self, item: Any) -> int | None:
        """Which of the model's parameters `item` is, as long as the forward has only read it."""
        key = id(item)
        return None if self.writes or key in self.twins else self.indices.get(key)

    def set_value(self, tensor: Tensor, value: Value) -> Tensor:
        tensor.__dict__["_ghnfast_value"] = value
        return tensor

    def new(self, shape: tuple[int, ...], like: Tensor, operation: int, channel: int | None = None) -> Tensor:
        """A meta tensor that holds the result of `operation`."""
        result = empty(shape, like.dtype)
        result.__dict__["_ghnfast_value"] = Value(operation, channel)
        return result

    def twin(self, tensor: Tensor) -> Tensor:
        """The meta tensor to compute with in place of `tensor`."""
        key = id(tensor)
        if tensor.is_meta and key not in self.indices and key not in self.buffer_ids:
            return tensor
        if key in self.twins:
            return self.twins[key][1]
        value = self.value(tensor)
        made = self.set_value(self.twin_view(tensor) if self.is_known(tensor) else to_meta(tensor), value)
        self.twins[key] = (tensor, made)
        return made

    def twin_view(self, tensor: Tensor) -> Tensor:
        """A meta tensor that lies in the twin of a tensor's memory as the tensor lies in its memory."""
        key = tensor.untyped_storage()._cdata
        if key not in self.twin_bases:
            count = tensor.untyped_storage().nbytes() // tensor.element_size()
            base = torch.empty(count, dtype=tensor.dtype, device=META)
            self.twin_bases[key] = (tensor, base)
            own_key = base.untyped_storage()._cdata
            if key in self.writes:
                self.writes[own_key] = self.writes.pop(key)
            self.twin_memory[key] = own_key
        return self.twin_bases[key][1].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    # Operations ----------------------------------------------------------------------------------------------------

    def sources(self, *items: Any) -> list[int]:
        """The distinct operations that the data among `items` comes from: of features, where there are any."""
        return self.distinct_operations([self.value(tensor) for tensor in tensors_in(*items)])

    def distinct_operations(self, values: Sequence[Value]) -> list[int]:
        found = dict.fromkeys([value.operation for value in values if not value.known])
        found.pop(-1, None)
        if not found and self.has_known:
            found = dict.fromkeys([value.operation for value in values if value.known])
        return list(found)

    def note_use(self, items: Any, how: str) -> None:
        """Remember for the report what became of the parameters among `items`."""
        for tensor in tensors_in(items):
            for index in self.value(tensor).parameters:
                self.used_by.setdefault(index, how)

    def weight_inputs(self, tensor: Tensor) -> list[int]:
        """What a layer with a weight reads; a buffer (say, a table of coordinates) counts as the network's input."""
        value = self.value(tensor)
        if value.operation >= 0:
            return [value.operation]
        return [0] if value.buffer and not value.parameters else []

    def parameter_behind(self, tensor: Tensor | None, how: str = "") -> int | None:
        """What is to be predicted for `tensor`: its parameter, or a part that stands for it; None if there is none.

        It is the parameter that `tensor` is, or is a rearrangement or rescaling of; the part of a parameter that it
        looks at; or a weight that torch computes from several, and can compute those from.
        `how`, where given, is noted (see `note_use`) for the parameters that `tensor` is computed from.
        """
        if tensor is None:
            return None
        if (index := self.index_of(tensor)) is not None:
            return index
        value = self.value(tensor)
        if not value.parameters:
            return None
        if len(value.parameters) == 1 and self.parameters[value.parameters[0]] is tensor:
            return value.parameters[0]
        group = self.reparametrized.get(value.parameters[0])
        if group is not None and set(value.parameters) <= set(group.originals):
            if group.reason:
                self.note_use(tensor, group.reason)
                return None
            return self.part(group.part(self.names, tuple(tensor.shape)))
        if how:
            self.note_use(tensor, how)
        if isinstance(value.base, Region):
            region = region_part(value.base, self.names, self.parameters)
            return None if region is None or value.made else self.part(region)
        return value.base

    def part(self, part: Part) -> int:
        """The number of a part."""
        if part.name not in self.part_numbers:
            self.part_numbers[part.name] = len(self.parameters) + len(self.parts)
            self.parts.append(part)
        return self.part_numbers[part.name]

    def part_of(self, index: int) -> Part | None:
        """The part of this number; None for a parameter."""
        return self.parts[index - len(self.parameters)] if index >= len(self.parameters) else None

    def shape_of(self, index: int) -> tuple[int, ...]:
        """The shape of a parameter or part."""
        part = self.part_of(index)
        return tuple(self.parameters[index].shape) if part is None else part.shape

    def base_of(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
    ) -> int | Region | None:
        """The parameter, or part of one, that the result of a function of parameters is but for order and scale."""
        values = [(tensor, self.value(tensor)) for tensor in tensors_in(args, kwargs)]
        sources = [(tensor, value) for tensor, value in values if value.parameters]
        alone = sources[0][1].parameters if len(sources) == 1 else ()
        if len(alone) == 1 and result.is_meta and (region := self.region_seen(alone[0], result)) is not None:
            return region
        whole = [value for tensor, value in sources if tensor.numel() == result.numel()]
        if func in self.rearranging and whole:
            base = whole[0].base
            moved = isinstance(base, Region) and sources[0][0].shape != result.shape
            return None if moved else base
        if func not in self.rescaling:
            return None
        known = [value for value in whole if value.base is not None]
        if len(known) != 1:
            return None
        base = known[0].base
        index = base.parameter if isinstance(base, Region) else base
        return None if any(index in value.parameters for value in whole if value is not known[0]) else base

    def region_seen(self, index: int, view: Tensor) -> int | Region | None:
        """What of a parameter a meta tensor looks at, if it lies in the memory of the parameter's twin."""
        parameter = self.parameters[index]
        twin = self.twins.get(id(parameter))
        if twin is None or view.untyped_storage()._cdata != twin[1].untyped_storage()._cdata:
            return None
        if view.numel() == parameter.numel():
            return index
        return Region(index, tuple(view.shape), view.stride(), int(view.storage_offset()))

    # The mode ------------------------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
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
            name = function_name(func)
            self.note_use((args, kwargs), f"torch's {name} uses it, whose parameters are not predicted")
        return self.run_meta(func, args, kwargs, self.emit(Kind.PASS, inputs), (), made)

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
        for tensor in tensors_in(result):
            self.set_value(tensor, Origin(-1, None, parameters, made=made))
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
        for tensor in tensors_in(result):
            self.set_value(tensor, Origin(operation, known=True))
        return result

    def parameters_of(self, *items: Any) -> tuple[int, ...]:
        found = (index for tensor in tensors_in(*items) for index in self.value(tensor).parameters)
        return tuple(dict.fromkeys(found))

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

    def share(self, *items: Any) -> None:
        """From here on, other tensors may look at the memory of these."""
        for tensor in tensors_in(*items):
            value = self.value(tensor)
            if value.operation >= 0:
                value.shared = True

    def run_constant(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function of constants and buffers for real: control flow may depend on their values."""
        check_visible()
        tensors = tensors_in(args, kwargs)
        values = [self.value(tensor) for tensor in tensors]
        buffer = any(value.buffer for value in values)
        sites = tuple(dict.fromkeys([site for value in values for site in value.sites]))
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
        found = tensors_in(result)
        for tensor in found:
            self.set_value(tensor, Origin(buffer=buffer, sites=sites) if sites else BUFFER if buffer else CONSTANT)
        if sites and not found:
            self.chance.read.update(dict.fromkeys(sites))
        return result

    def add_site(self, tensor: Tensor, site: Site) -> None:
        """Remember that the values of a constant were drawn at this line of code."""
        value = self.value(tensor)
        if value.operation < 0 and not value.parameters:
            self.set_value(tensor, Origin(buffer=value.buffer, sites=tuple(dict.fromkeys((*value.sites, site)))))

    def draw_in_likeness(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Numbers of the shape of features, or parameters, that do not come from them; on the meta device."""
        return self.set_value(func(*map_tensors(self.twin, args), **on_meta(kwargs)), Value())

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy that stands for a tensor from outside, which the forward may write to, also through a view."""
        if self.is_known(tensor):
            return tensor
        key = id(tensor)
        if key not in self.copies:
            made = copy_of(tensor)
            self.copies[key] = (tensor, self.set_value(made, self.value(tensor)))
            if key in self.counts:
                made.add_(self.counts.pop(key))
        return self.copies[key][1]

    def count(self, counter: Tensor, number: int) -> bool:
        """Add to a counter (say, of batches) among the buffers when it is read, for most never are; whether it is one.

        Later reads and writes reach the buffer's copy, so that the counter itself may stand for the sum.
        """
        key = id(counter)
        later = key in self.buffer_ids and key not in self.copies and key not in self.twins
        if not later or counter.dtype is not torch.int64:
            return False
        self.counts[key] = self.counts.get(key, 0) + number
        return True


FACTORIES = frozenset(_device_constructors())
NOTHING = nullcontext()
KERNEL_MODULES = ("torch._refs", "torch._prims", "torch._decomp", "torch._meta_registrations", "torch._inductor")


def check_visible() -> None:
    """Fail where a kernel of torch is running: what called it did not come here, and is not in the trace."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("ghnfast.tracing"):
        frame = frame.f_back
    if frame.f_globals.get("__name__", "").startswith(KERNEL_MODULES):
        raise hidden_operation(f"{frame.f_code.co_name} is computed by")


def hidden_operation(what: str) -> TraceError:
    return TraceError(
        f"{what} something that cannot be followed (TorchScript, a torch.func transform); operations written in Python "
        "with torch functions are accepted"
    )


def function_name(func: Callable[..., Any]) -> str:
    """The name to show for a torch function: `gru`, `conv1d`, `mul`."""
    name = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__"):
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name.strip("_")


IN_PLACE_OPERATORS = frozenset(
    f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "matmul")
) | {"__setitem__", "__set__"}


@lru_cache(maxsize=1024)
def writes_first_argument(func: Callable[..., Any]) -> bool:
    """Whether torch's naming says that the function changes its first argument."""
    name = getattr(func, "__name__", "")
    return name in IN_PLACE_OPERATORS or (name.endswith("_") and not name.endswith("__"))
