"""Which tensor comes from where, through views, copies and writes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .calls import hidden_operation, writes_first_argument
from .chance import Site
from .members import Members
from .operations import Kind, Operations
from .parts import Region
from .tensors import META, copy_of, covers, empty, overlap, tensors_in, to_meta
from .values import BUFFER, CONSTANT, Origin, Value, merged

is_meta = operator.attrgetter("is_meta")
Function = Callable[..., Any]


class Write(NamedTuple):
    """A write into memory: what wrote, and through which tensor."""

    operation: int
    tensor: Tensor


class Provenance:
    """Where every tensor of a trace comes from, and the stand-ins of those that must not be written.

    The model's own tensors are never written: meta twins take the place of parameters, copies that of buffers and other
    tensors that the forward computes with for real. What the forward writes into a tensor reaches the tensors that
    share its memory.
    """

    def __init__(self, members: Members) -> None:
        super().__init__()
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
        # The parameters whose values became numbers of Python.
        self.read: set[int] = set()
        # Stand-ins of tensors that must not be written: on the meta device, and real copies. Each is kept with the
        # tensor that it stands for, so that no other tensor can get that id.
        self.twins: dict[int, tuple[Tensor, Tensor]] = {}
        self.copies: dict[int, tuple[Tensor, Tensor]] = {}
        self.counts: dict[int, int] = {}
        # What was written, by memory; and the twins of memory, by the memory that they stand for.
        self.writes: dict[int, list[Write]] = {}
        # Real tensors that were written to, and where that came from, by memory.
        self.real_writes: dict[int, list[tuple[Tensor, Value]]] = {}
        self.twin_bases: dict[int, tuple[Tensor, Tensor]] = {}
        self.twin_memory: dict[int, int] = {}
        # On a model that is on the meta device, tensors that are neither parameters nor buffers nor made by the trace.
        self.meta_ids = {
            id(item)
            for module in (members.modules if any(map(is_meta, self.parameters)) else ())
            for item in module.__dict__.values()
            if isinstance(item, Tensor)
        }

    # Where tensors come from ------------------------------------------------------------------------------------------

    def value(self, tensor: Tensor) -> Value:
        """Where `tensor` comes from."""
        found: Value | None = tensor.__dict__.get("_ghnfast_value")
        if found is None:
            found = self.value_from_outside(tensor)
        if self.real_writes and found.operation < 0 and not found.parameters:
            found = self.after_real_writes(tensor, found)
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

    def set_value(self, tensor: Tensor, value: Value) -> Tensor:
        tensor.__dict__["_ghnfast_value"] = value
        return tensor

    def add_site(self, tensor: Tensor, site: Site) -> None:
        """Remember that the values of a constant were drawn at this line of code."""
        value = self.value(tensor)
        if value.operation < 0 and not value.parameters:
            self.set_value(tensor, Origin(buffer=value.buffer, sites=tuple(dict.fromkeys((*value.sites, site)))))

    def new(self, shape: tuple[int, ...], like: Tensor, operation: int, channel: int | None = None) -> Tensor:
        """A meta tensor that holds the result of `operation`."""
        result = empty(shape, like.dtype)
        result.__dict__["_ghnfast_value"] = Value(operation, channel)
        return result

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

    def sources(self, *items: Any) -> list[int]:
        """The distinct operations that the data among `items` comes from: of features, where there are any."""
        return self.distinct_operations([self.value(tensor) for tensor in tensors_in(*items)])

    def distinct_operations(self, values: Sequence[Value]) -> list[int]:
        found = dict.fromkeys([value.operation for value in values if not value.known])
        found.pop(-1, None)
        if not found and self.has_known:
            found = dict.fromkeys([value.operation for value in values if value.known])
        return list(found)

    def parameters_of(self, *items: Any) -> tuple[int, ...]:
        found = (index for tensor in tensors_in(*items) for index in self.value(tensor).parameters)
        return tuple(dict.fromkeys(found))

    def weight_inputs(self, tensor: Tensor) -> list[int]:
        """What a layer with a weight reads; a buffer (say, a table of coordinates) counts as the network's input."""
        value = self.value(tensor)
        if value.operation >= 0:
            return [value.operation]
        return [0] if value.buffer and not value.parameters else []

    def note_use(self, items: Any, how: str, instead_of: str | None = None) -> None:
        """Remember for the report what became of the parameters among `items`, if nothing but `instead_of` is noted."""
        for tensor in tensors_in(items):
            for index in self.value(tensor).parameters:
                if self.used_by.get(index, instead_of) == instead_of:
                    self.used_by[index] = how

    # Memory -----------------------------------------------------------------------------------------------------------

    def memory_of(self, tensor: Tensor) -> int:
        """A key of a tensor's memory; a real tensor and its twin have the same."""
        key: int = tensor.untyped_storage()._cdata
        return self.twin_memory.get(key, key)

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

    def set_real(self, result: Any, args: tuple[Any, ...], source: Value) -> None:
        """Let real results come from `source`; of a view, what was written there says more than of the whole."""
        whole = args[0] if self.real_writes and args and isinstance(args[0], Tensor) else None
        for tensor in tensors_in(result):
            value = source
            if (
                whole is not None
                and tensor is not whole
                and tensor._is_view()
                and tensor._base is (whole if whole._base is None else whole._base)
            ):
                value = whole.__dict__.get("_ghnfast_value", source)
            self.set_value(tensor, value)

    def note_real_write(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any], source: Value) -> None:
        """Remember where what a function writes into a real tensor comes from: other tensors may look at its memory."""
        target = args[0] if args and writes_first_argument(func) else kwargs.get("out")
        if isinstance(target, Tensor) and not target.is_meta and source is not CONSTANT:
            if func is Tensor.__setitem__ and (part := target[args[1]])._is_view():
                target = part
            self.real_writes.setdefault(target.untyped_storage()._cdata, []).append((target, source))

    def after_real_writes(self, tensor: Tensor, value: Value) -> Value:
        """The value of a constant with what was written into its memory for real."""
        tensor = self.copies[id(tensor)][1] if id(tensor) in self.copies else tensor
        if tensor.is_meta or tensor.layout is not torch.strided:
            return value
        writes = self.real_writes.get(tensor.untyped_storage()._cdata, ())
        sources = [source for target, source in writes if overlap(target, tensor)]
        return merged([value, *sources]) if sources else value

    def share(self, *items: Any) -> None:
        """From here on, other tensors may look at the memory of these."""
        for tensor in tensors_in(*items):
            value = self.value(tensor)
            if value.operation >= 0:
                value.shared = True

    # Stand-ins --------------------------------------------------------------------------------------------------------

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
