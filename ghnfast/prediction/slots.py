"""Which parameters a graph predicts from which node, and in what shape."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import PredictError
from ..graph import PRIMITIVES, ArchGraph, ParameterSlice, Reparametrization, embedding_shape
from ..graph.parameters import unpredicted_weight
from ..ops.decode import Role, Table

# What takes items of a list, in an order.
Chosen: TypeAlias = Callable[[list[Any]], Sequence[Any]]


def chosen(places: Sequence[int]) -> Chosen:
    """What takes the items at these places: much faster than one after the other."""
    return operator.itemgetter(*places) if len(places) > 1 else lambda items: [items[place] for place in places]


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

    @cached_property
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
    tables, layouts: their tables (`ghnfast.prediction.layout.table_of`) and layouts (`lay_out_slots`) that are known,
        by what these depend on.
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
    tables: dict[Hashable, Table] = field(default_factory=dict, repr=False)
    layouts: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    # The last parameters' names that `places_in` saw, and what it found.
    known_places: list[tuple[list[str], Chosen | None]] = field(default_factory=list, repr=False)

    @cached_property
    def every(self) -> NDArray[np.int64]:
        """(slots,): the numbers of all slots."""
        return np.arange(len(self.names))

    @cached_property
    def whole(self) -> list[str | None]:
        """The parameter that each slot is, or None where it is a part of one, or one computed from others."""
        return [name if self.parameters_of(name) == (name,) else None for name in self.names]

    @cached_property
    def tokens(self) -> dict[str, int]:
        """{name: rows} of the position encodings that begin with rows for tokens, which are not predicted."""
        found = {name: form.tokens for name, form in zip(self.names, self.forms, strict=True)}
        return {name: count for name, count in found.items() if count and self.parameters_of(name) == (name,)}

    def places_in(self, names: list[str]) -> Chosen | None:
        """Which of a model's parameters, by their names, each slot is; None where they are not the same."""
        known = self.known_places
        if known and known[-1][0] == names:
            return known[-1][1]
        places = {name: place for place, name in enumerate(names)}
        same = places.keys() == set(self.names) and len(names) == len(self.names)
        found = chosen([places[name] for name in self.names]) if same else None
        known[:] = [(names, found)]
        return found

    def parameters_of(self, name: str) -> tuple[str, ...]:
        """The parameters that are predicted with a slot of this name."""
        if name in self.slices:
            return (self.slices[name].parameter,)
        return self.reparametrized[name].originals if name in self.reparametrized else (name,)


# Rows in front of the patches in a position encoding: a class token, and one for distillation.
MAX_TOKENS = 2


def slots_of(graph: ArchGraph) -> Slots:
    """The parameters that a graph predicts. One that is used several times is predicted from its first node."""
    known: Slots | None = graph.derived.get(Slots)  # graphs are used again for many models
    if known is None:
        known = graph.derived[Slots] = find_slots(graph)
    return known


def find_slots(graph: ArchGraph) -> Slots:
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
    return Slots(
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
    return shape, unpredicted_weight(shape)
