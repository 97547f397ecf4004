"""Which parameters of a model are predicted from which node, in what shape, and where they are written."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import PredictError
from ..graph import PREDICTED_DTYPES, PRIMITIVES, ArchGraph, embedding_shape
from ..ops.decode import Role
from ..tracing.members import members_of


class Slot(NamedTuple):
    """A parameter of a graph and what it is predicted from.

    node: the node of the graph that it is decoded from.
    classifier: whether that node is the classification layer's, which has a decoder of its own.
    optional: whether `classifier=False` leaves the parameter alone: it is the classification layer's, or tied to it.
    shape: the shape to decode for; it differs from the parameter's only by dimensions of size 1.
    parameter_shape: the parameter's own shape.
    """

    name: str
    node: int
    role: Role
    shape: tuple[int, ...]
    parameter_shape: tuple[int, ...]
    classifier: bool
    optional: bool


@dataclass(frozen=True)
class Plan:
    """What is predicted of one model, and what is not, and why.

    rows: which of the graph's slots these are (`slots_of`).
    parameters: the model's parameters, one per slot.
    """

    model: nn.Module
    slots: list[Slot]
    rows: list[int]
    parameters: list[Tensor]
    skipped: dict[str, str]


@dataclass(frozen=True)
class Report:
    """What a prediction did to one model.

    predicted: the names of the parameters that were predicted, in the model's order.
    skipped: {name: reason} of those that kept their values.
    predicted_elements, elements: how many numbers were predicted, of how many.
    """

    predicted: list[str]
    skipped: dict[str, str]
    predicted_elements: int
    elements: int

    @property
    def coverage(self) -> float:
        """The share of the model's numbers that were predicted, 0 to 1."""
        return self.predicted_elements / self.elements


# Rows in front of the patches in a position encoding: a class token, and one for distillation.
MAX_TOKENS = 2


# What `slots_of` found, by graph: graphs are used again for many models.
KNOWN_SLOTS: weakref.WeakKeyDictionary[ArchGraph, tuple[list[Slot], dict[str, str]]] = weakref.WeakKeyDictionary()


def slots_of(graph: ArchGraph) -> tuple[list[Slot], dict[str, str]]:
    """The parameters that a graph predicts, and why others cannot be decoded."""
    known = KNOWN_SLOTS.get(graph)
    if known is not None:
        return known
    last = [node for node in (graph.classifier_weight, graph.classifier_bias) if node is not None]
    optional = {graph.weights[node] for node in classification_nodes(graph)}
    slots: dict[str, Slot] = {}
    skipped = dict(graph.skipped)
    shapes = graph.parameter_shapes
    nodes = zip(graph.weights, graph.norm_biases, graph.primitives.tolist(), strict=True)
    named = [
        (name, node, role)
        for node, (weight, norm_bias, primitive) in enumerate(nodes)
        for name, role in ((weight, ROLES[primitive]), (norm_bias, Role.BIAS))
        if name is not None
    ]
    for name, node, role in named:
        if name in slots or name in skipped:
            continue
        shape, reason = decoded_shape(shapes[name], role)
        if reason is not None:
            skipped[name] = reason
        else:
            slots[name] = Slot(name, node, role, shape, shapes[name], node in last, name in optional)
    KNOWN_SLOTS[graph] = list(slots.values()), skipped
    return KNOWN_SLOTS[graph]


def plan_for(model: nn.Module, graph: ArchGraph) -> Plan:
    """The parameters of a model that its graph predicts.

    Raises:
        PredictError: the graph is that of another model, or a parameter cannot be written.
    """
    members = members_of(model)
    parameters = dict(zip(members.names, members.parameters, strict=True))
    slots, reasons = slots_of(graph)
    skipped = {name: reason for name, reason in reasons.items() if name in parameters}
    for name, parameter in parameters.items():
        if parameter.dtype not in PREDICTED_DTYPES:
            skipped[name] = f"its dtype is {parameter.dtype}; float32, float64, float16 and bfloat16 are predicted"
    rows: list[int] = []
    for row, slot in enumerate(slots):
        name = slot.name
        if name in skipped:
            continue
        if name not in parameters:
            raise PredictError(f"the graph has a parameter {name} that the model ({type(model).__name__}) has not")
        parameter = parameters[name]
        if parameter.layout is not torch.strided:
            skipped[name] = f"its layout is {parameter.layout}; dense parameters are predicted"
            continue
        if parameter.is_meta or not parameter.is_contiguous():
            check_writable(name, parameter)
        if parameter.shape != slot.parameter_shape:
            raise different_shape(slot, parameter)
        rows.append(row)
    taken = slots if len(rows) == len(slots) else [slots[row] for row in rows]
    if len(taken) + len(skipped) < len(parameters):
        known = {slot.name for slot in taken}
        for name in parameters.keys() - known - skipped.keys():
            skipped[name] = "the graph does not know it"
    return Plan(model, taken, rows, [parameters[slot.name] for slot in taken], skipped)


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


# By primitive.
ROLES = [
    {"bn": Role.NORM_WEIGHT, "ln": Role.NORM_WEIGHT, "bias": Role.BIAS, "pos_enc": Role.POSITION}.get(name, Role.WEIGHT)
    for name in PRIMITIVES
]


@functools.lru_cache(maxsize=1 << 16)
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
        return embedding_shape(shape, position=True), None
    if len(shape) not in (2, 4):
        return shape, f"a weight of shape {shape}; matrices and 4-D kernels are predicted"
    return shape, None


def check_writable(name: str, parameter: Tensor) -> None:
    if parameter.is_meta:
        raise PredictError(
            f"the parameter {name} is on the meta device and has no memory to write to; "
            "move the model to a real device first, with model.to_empty(device=...)"
        )
    if any(stride == 0 and size > 1 for size, stride in zip(parameter.shape, parameter.stride(), strict=True)):
        raise PredictError(
            f"the parameter {name} is expanded: several of its elements share memory (strides {parameter.stride()}); "
            "parameters with memory of their own are accepted"
        )


def different_shape(slot: Slot, parameter: Tensor) -> PredictError:
    return PredictError(
        f"the graph is that of another model: {slot.name} has shape {slot.parameter_shape} in the graph and "
        f"{tuple(parameter.shape)} in the model; the graph of a model with equal names and shapes is accepted"
    )


def tokens_of(parameter_shape: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """How many rows in front of the patches of a position encoding (class, distillation) keep their values."""
    count, patches = parameter_shape[-2], shape[2] * shape[3]
    return count - patches if count - patches <= MAX_TOKENS else 0


def decoded_part(slot: Slot, parameter: Tensor) -> Tensor:
    """The part of a parameter's memory that is written, with one, two or four dimensions."""
    if slot.role is Role.POSITION and parameter.ndim != 4:
        tokens = tokens_of(slot.parameter_shape, slot.shape)
        rows = parameter.detach().narrow(parameter.ndim - 2, tokens, parameter.shape[-2] - tokens)
        return rows if rows.ndim == 2 else rows[0]
    if slot.role in (Role.BIAS, Role.NORM_WEIGHT) and parameter.ndim != 1:
        return parameter.detach().squeeze() if parameter.numel() > 1 else parameter.detach().view(1)
    return parameter


def nothing_reason(plans: Sequence[Plan]) -> str:
    for plan in plans:
        for name, reason in plan.skipped.items():
            return f"{name} is skipped because of this: {reason}"
    return "the models have classification layers only, and classifier=False leaves those as they are"


def make_report(plan: Plan, classifier: bool) -> Report:
    done = {
        slot.name: decoded_part(slot, parameter).numel()
        for slot, parameter in zip(plan.slots, plan.parameters, strict=True)
        if classifier or not slot.optional
    }
    reasons = dict(plan.skipped)
    for slot in plan.slots:
        if slot.name not in done:
            reasons[slot.name] = "it belongs to the classification layer, which was to be left as it is"
    parameters = dict(plan.model.named_parameters())
    return Report(
        predicted=[name for name in parameters if name in done],
        skipped={name: reasons[name] for name in parameters if name in reasons},
        predicted_elements=sum(done.values()),
        elements=sum(parameter.numel() for parameter in parameters.values()),
    )
