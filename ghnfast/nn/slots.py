"""Which parameters of a model are predicted from which node, in what shape, and where they are written."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import _C
from ..errors import PredictError
from ..graph import PREDICTED_DTYPES, PRIMITIVES, ArchGraph, ParameterSlice, Reparametrization, embedding_shape
from ..memory import (
    BEFORE_WRAPPING,
    extent,
    has_common_elements,
    is_distributed,
    is_same_memory,
    keeps_no_elements,
    unwritable,
)
from ..ops.decode import Role
from ..tracing.members import Members
from .inversion import reason_to_keep


@dataclass(frozen=True, eq=False)
class Form:
    """How parameters of one shape and role are decoded.

    shape: the shape to decode for; it differs from the parameter's only by dimensions of size 1.
    parameter_shape: the parameter's own shape.
    reason: why they cannot be decoded, or None where they can.
    """

    role: Role
    shape: tuple[int, ...]
    parameter_shape: tuple[int, ...]
    reason: str | None

    @property
    def tokens(self) -> int:
        """How many rows in front of a position encoding's patches (class, distillation) keep their values."""
        if self.role is not Role.POSITION or len(self.parameter_shape) == 4:
            return 0
        count, patches = self.parameter_shape[-2], self.shape[2] * self.shape[3]
        return count - patches if count - patches <= MAX_TOKENS else 0


@dataclass(frozen=True, eq=False)
class Slots:
    """The parameters that a graph predicts, slot by slot, and why others cannot be decoded.

    nodes: the node that each is decoded from.
    shapes: the parameters' own shapes.
    classifier: the slots of the classification layer, which has a decoder of its own.
    optional: the slots that `classifier=False` leaves alone: the classification layer's, and what is tied to it.
    skipped: {name: reason}.
    ran_on_numbers, slices, reparametrized: see `ArchGraph`.
    """

    names: list[str]
    nodes: list[int]
    forms: list[Form]
    shapes: list[tuple[int, ...]]
    classifier: list[int]
    optional: list[int]
    skipped: dict[str, str]
    ran_on_numbers: str | None
    slices: dict[str, ParameterSlice]
    reparametrized: dict[str, Reparametrization]

    def parameters_of(self, name: str) -> tuple[str, ...]:
        """The parameters that are predicted with a slot of this name."""
        if name in self.slices:
            return (self.slices[name].parameter,)
        return self.reparametrized[name].originals if name in self.reparametrized else (name,)


@dataclass(frozen=True, eq=False)
class Plan:
    """What is predicted of one model, and what is not, and why.

    rows: (n,) int64, which of the graph's slots these are.
    parameters: the model's parameters, one per row.
    memory: (n, 3) int64, where each lies: the address; the dtype (`ELEMENTS`) where C++ writes to it as it is, or -1;
        and the bytes that it spans.
    """

    members: Members
    slots: Slots
    rows: NDArray[np.int64]
    parameters: list[Tensor]
    memory: NDArray[np.int64]
    skipped: dict[str, str]

    def without_classifier(self) -> Plan:
        """The same without what belongs to the classification layer."""
        optional = np.isin(self.rows, self.slots.optional)
        skipped = {**self.skipped, **{self.slots.names[row]: LEFT_ALONE for row in self.rows[optional].tolist()}}
        kept = np.flatnonzero(~optional)
        parameters = [self.parameters[index] for index in kept.tolist()]
        return Plan(self.members, self.slots, self.rows[kept], parameters, self.memory[kept], skipped)


@dataclass(frozen=True)
class Report:
    """What a prediction did to one model.

    predicted: the names of the parameters that were predicted, in the model's order.
    skipped: {name: reason} of those that kept their values.
    partly: {name: parts} of those that were predicted in part, where layers use them: the parts in Python's notation.
        The rest of them kept its values.
    predicted_elements, elements: how many numbers were predicted, of how many.
    ran_on_numbers: why the forward had to be run on random numbers, or None where shapes were enough.
    """

    predicted: list[str]
    skipped: dict[str, str]
    predicted_elements: int
    elements: int
    ran_on_numbers: str | None = None
    partly: dict[str, list[str]] = field(default_factory=dict)

    @property
    def coverage(self) -> float:
        """The share of the model's numbers that were predicted, 0 to 1; 1 where it has none."""
        return self.predicted_elements / self.elements if self.elements else 1.0


LEFT_ALONE = "it belongs to the classification layer, which was to be left as it is"
# Rows in front of the patches in a position encoding: a class token, and one for distillation.
MAX_TOKENS = 2


# What `slots_of` found, by graph: graphs are used again for many models.
KNOWN_SLOTS: weakref.WeakKeyDictionary[ArchGraph, Slots] = weakref.WeakKeyDictionary()


def slots_of(graph: ArchGraph) -> Slots:
    """The parameters that a graph predicts. One that is used several times is predicted from its first node."""
    known = KNOWN_SLOTS.get(graph)
    if known is not None:
        return known
    names: list[str] = []
    nodes: list[int] = []
    forms: list[Form] = []
    skipped = dict(graph.skipped)
    seen = set(skipped)
    shapes = graph.parameter_shapes
    if not shapes and any(graph.params):
        raise PredictError("the graph does not have the shapes of its parameters; a graph of ghnfast.trace is accepted")
    rows = zip(graph.weights, graph.norm_biases, graph.primitives.tolist(), strict=True)
    for node, (weight, norm_bias, primitive) in enumerate(rows):
        for name, role in ((weight, ROLES[primitive]), (norm_bias, BIAS)):
            if name is None or name in seen:
                continue
            seen.add(name)
            form = form_of(shapes[name], role)
            if form.reason is not None:
                skipped[name] = form.reason
                continue
            names.append(name)
            nodes.append(node)
            forms.append(form)
    last = {graph.classifier_weight, graph.classifier_bias}
    left_alone = {graph.weights[node] for node in classification_nodes(graph)}
    KNOWN_SLOTS[graph] = Slots(
        names,
        nodes,
        forms,
        shapes=[shapes[name] for name in names],
        classifier=[slot for slot, node in enumerate(nodes) if node in last],
        optional=[slot for slot, name in enumerate(names) if name in left_alone],
        skipped=skipped,
        ran_on_numbers=graph.ran_on_numbers,
        slices=graph.slices,
        reparametrized=graph.reparametrized,
    )
    return KNOWN_SLOTS[graph]


def plan_for(model: nn.Module, members: Members, graph: ArchGraph) -> Plan:
    """The parameters of a model with these members that its graph predicts.

    Raises:
        PredictError: the graph is that of another model, or a parameter cannot be written.
    """
    parameters = dict(zip(members.names, members.parameters, strict=True))
    slots = slots_of(graph)
    found: list[Any] = list(map(parameters.get, slots.names))
    if slots.slices or slots.reparametrized:
        found = [part_of(model, slots, name, parameters) for name in slots.names]
    memory = _C.inspect_tensors(found, slots.shapes, PREDICTED_DTYPES)
    rows = np.arange(len(found))
    skipped = {name: reason for name, reason in slots.skipped.items() if name in parameters}
    for row in np.flatnonzero(memory[:, 0] < 0).tolist():
        reason = reason_to_skip(model, slots, row, found[row])
        if reason is None:
            memory[row] = found[row].data_ptr(), -1, extent(found[row]) * found[row].element_size()
        else:
            skipped[slots.names[row]] = reason
            rows[row] = -1
    for row, name in enumerate(slots.names if slots.reparametrized else ()):
        if rows[row] >= 0 and name in slots.reparametrized:
            weight = slots.reparametrized[name]
            reason = reason_to_keep(model.get_submodule(weight.module), weight.tensor, slots.shapes[row])
            if reason is not None:
                skipped.update(dict.fromkeys(weight.originals, reason))
                rows[row] = -1
    exact = not slots.slices and not slots.reparametrized
    if not exact or len(skipped) + len(found) - np.count_nonzero(rows < 0) < len(parameters):
        known = {own for name in slots.names for own in slots.parameters_of(name)} | skipped.keys()
        skipped.update((name, "the graph does not know it") for name in members.names if name not in known)
    for name in skipped.keys() & parameters.keys():
        skipped[name] = dtype_reason(parameters[name]) or skipped[name]
    if rows.size and rows.min() < 0:
        rows = rows[rows >= 0]
        found = [found[row] for row in rows.tolist()]
        memory = memory[rows]
    return Plan(members, slots, rows, found, memory, skipped)


def part_of(model: nn.Module, slots: Slots, name: str, parameters: dict[str, nn.Parameter]) -> Tensor | None:
    """The tensor of a slot: a parameter, a part of one, or a new tensor for a weight that is computed from parameters.

    Raises:
        PredictError: the graph is that of another model.
    """
    if name in slots.slices:
        part = slots.slices[name]
        whole = parameters.get(part.parameter)
        if whole is None or whole.shape != part.parameter_shape:
            raise PredictError(
                f"the graph has a parameter {part.parameter} of shape {part.parameter_shape} that the model "
                f"({type(model).__name__}) has not; the graph of a model with equal names and shapes is accepted"
            )
        return part.of(whole) if whole.layout is torch.strided else whole
    if name in slots.reparametrized:
        main = parameters.get(name)
        missing = [own for own in slots.reparametrized[name].originals if own not in parameters]
        if main is None or missing:
            raise PredictError(f"the graph has parameters {missing} that the model ({type(model).__name__}) has not")
        for own in slots.reparametrized[name].originals:
            if (reason := unwritable(parameters[own])) is not None:
                raise PredictError(f"the parameter {own} {reason}")
        return torch.empty(slots.shapes[slots.names.index(name)], dtype=main.dtype, device=main.device)
    return parameters.get(name)


def reason_to_skip(model: nn.Module, slots: Slots, row: int, parameter: Tensor | None) -> str | None:
    """Why a slot of a graph is not predicted for a model, or None where it is.

    Raises:
        PredictError: see `plan_for`.
    """
    name = slots.names[row]
    if parameter is None:
        raise PredictError(f"the graph has a parameter {name} that the model ({type(model).__name__}) has not")
    if (reason := dtype_reason(parameter)) is not None:
        return reason
    if parameter.layout is not torch.strided:
        return f"its layout is {parameter.layout}; dense parameters are predicted"
    if is_distributed(parameter):
        raise PredictError(f"the parameter {name} is spread over several processes (DTensor); {BEFORE_WRAPPING}")
    if keeps_no_elements(parameter):
        kind = "functional tensor" if torch._is_functional_tensor(parameter) else type(parameter).__name__
        return f"it is a {kind}, which does not keep its elements as numbers in memory"
    if (reason := unwritable(parameter)) is not None:
        raise PredictError(f"the parameter {name} {reason}")
    shape = slots.shapes[row]
    if parameter.shape != shape:
        raise PredictError(
            f"the graph is that of another model: {name} has shape {shape} in the graph and "
            f"{tuple(parameter.shape)} in the model; the graph of a model with equal names and shapes is accepted"
        )
    return None


def dtype_reason(parameter: Tensor) -> str | None:
    if parameter.dtype in PREDICTED_DTYPES:
        return None
    return f"its dtype is {parameter.dtype}; float32, float64, float16 and bfloat16 are predicted"


def classification_nodes(graph: ArchGraph) -> set[int]:
    """The nodes of the classification layer, and of those that are averaged with it (distillation)."""
    last = {node for node in (graph.classifier_weight, graph.classifier_bias) if node is not None}
    if not last:
        return last
    sources, targets = graph.edges.T
    readers = targets[sources == max(last)].tolist()
    ops = graph.ops
    if len(readers) != 1 or ops[readers[0]] != "sum" or readers[0] in sources:
        return last
    heads = set(sources[targets == readers[0]].tolist())
    biases = [head for head in heads if ops[head] == "bias"]
    weights = set(sources[np.isin(targets, biases)].tolist())
    return last | {node for node in heads | weights if ops[node] in ("bias", "conv")}


# By primitive. As numbers, which are found faster than members of an enumeration.
WEIGHT, BIAS = int(Role.WEIGHT), int(Role.BIAS)
ROLES = [
    int({"bn": Role.NORM_WEIGHT, "ln": Role.NORM_WEIGHT, "bias": Role.BIAS, "pos_enc": Role.POSITION}.get(op, WEIGHT))
    for op in PRIMITIVES
]


@functools.lru_cache(maxsize=1 << 16)
def form_of(parameter_shape: tuple[int, ...], role: int) -> Form:
    """How a parameter is decoded. Networks repeat few shapes."""
    shape, reason = decoded_shape(parameter_shape, Role(role))
    return Form(Role(role), shape, parameter_shape, reason)


def decoded_shape(shape: tuple[int, ...], role: Role) -> tuple[tuple[int, ...], str | None]:
    """The shape to decode for a parameter, or the reason why it cannot be decoded."""
    if math.prod(shape) == 0:
        return shape, "it is empty"
    if role in (Role.BIAS, Role.NORM_WEIGHT):
        if sum(size > 1 for size in shape) > 1:
            what = "bias" if role is Role.BIAS else "normalization weight"
            return shape, f"a {what} of shape {shape}; vectors are predicted"
        return (math.prod(shape),), None
    if role is Role.POSITION:
        if len(shape) not in (2, 3, 4):
            return shape, f"a position encoding of shape {shape}; 2 to 4 dimensions are predicted"
        return embedding_shape(shape, position=True), None
    if len(shape) not in (2, 4):
        return shape, f"a weight of shape {shape}; matrices and 4-D kernels are predicted"
    return shape, None


def rows_to_decode(plans: Sequence[Plan]) -> NDArray[np.int64]:
    """The numbers of the rows of all plans that are decoded: not those whose memory is that of a row before them.

    Parameters that share memory without being one object (tied through their data, or in two of the models) are
    predicted once: two threads would write to the same place.

    Raises:
        PredictError: parameters share a part of their memory.
    """
    memory = np.concatenate([plan.memory for plan in plans])
    groups = _C.overlapping(memory)
    if not groups:
        return np.arange(len(memory))
    names = [plan.slots.names[row] for plan in plans for row in plan.rows.tolist()]
    parameters = [parameter for plan in plans for parameter in plan.parameters]
    decoded = np.ones(len(names), dtype=np.bool_)
    for group in groups:
        kept: list[int] = []
        for row in sorted(group):
            if any(is_same_memory(parameters[row], parameters[other]) for other in kept):
                decoded[row] = False
            else:
                kept.append(row)
        if len(kept) > 1 and has_common_elements([parameters[row] for row in kept]):
            raise PredictError(
                f"the parameters {', '.join(names[row] for row in kept[:5])} share a part of their memory; parameters "
                "that share all of it or nothing are accepted"
            )
    return np.flatnonzero(decoded)


def decoded_part(form: Form, parameter: Tensor) -> Tensor:
    """The part of a parameter's memory that is written, with one, two or four dimensions."""
    if form.role is Role.POSITION and parameter.ndim != 4:
        rows = parameter.detach().narrow(parameter.ndim - 2, form.tokens, parameter.shape[-2] - form.tokens)
        return rows if rows.ndim == 2 else rows[0]
    if form.role in (Role.BIAS, Role.NORM_WEIGHT) and parameter.ndim != 1:
        return parameter.detach().squeeze() if parameter.numel() > 1 else parameter.detach().view(1)
    return parameter


def nothing_reason(plans: Sequence[Plan]) -> str:
    """Why nothing is predicted."""
    for plan in plans:
        for name, reason in plan.skipped.items():
            if reason is not LEFT_ALONE:
                return f"{name} is skipped because of this: {reason}"
    return "the models have classification layers only, and classifier=False leaves those as they are"


def make_report(plan: Plan) -> Report:
    slots, sizes = plan.slots, dict(zip(plan.members.names, map(Tensor.numel, plan.members.parameters), strict=True))
    done: dict[str, int] = {}
    partly: dict[str, list[str]] = {}
    for row, parameter in zip(plan.rows.tolist(), plan.parameters, strict=True):
        name = slots.names[row]
        if name in slots.reparametrized:
            done.update((own, sizes[own]) for own in slots.reparametrized[name].originals)
            continue
        count = decoded_part(slots.forms[row], parameter).numel()
        if name in slots.slices:
            name, label = slots.slices[name].parameter, slots.slices[name].label
            partly.setdefault(name, []).append(label)
            count += done.get(name, 0)
        done[name] = count
    names = plan.members.names
    return Report(
        predicted=[name for name in names if name in done],
        skipped={name: plan.skipped[name] for name in names if name in plan.skipped},
        predicted_elements=sum(done.values()),
        elements=sum(sizes.values()),
        ran_on_numbers=slots.ran_on_numbers,
        partly={name: parts for name, parts in partly.items() if done[name] < sizes[name]},
    )
