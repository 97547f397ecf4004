"""From the operations that a trace recorded to the architecture graph: C++ contracts them, and its nodes get names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .. import _C
from ..errors import TraceError
from ..graph import ArchGraph, ParameterSlice, Reparametrization
from .operations import Fate, fate_reason
from .tracer import Tracer


def outputs_of(returned: Any) -> tuple[list[Tensor], list[str]]:
    """The tensors a forward returned, in order, and the types of what was not looked into.

    Tensors are found in containers, dicts and dataclasses, nested.
    """
    tensors, unknown = [], []
    pending = [returned]
    while pending:
        item = pending.pop()
        if isinstance(item, Tensor):
            tensors.append(item)
        elif isinstance(item, Mapping):
            pending.extend(reversed(list(item.values())))
        elif isinstance(item, (tuple, list)):
            pending.extend(reversed(item))
        elif is_dataclass(item) and not isinstance(item, type):
            pending.extend(getattr(item, field.name) for field in reversed(fields(item)))
        elif not isinstance(item, (str, bytes, type(None))):
            unknown.append(f"{type(item).__module__}.{type(item).__qualname__}")
    return tensors, list(dict.fromkeys(unknown))


def build(
    tracer: Tracer, returned: Any, reason: str | None, model_name: str, input_shape: tuple[int, ...] | None
) -> ArchGraph:
    """Hand the traced operations to C++ and name the nodes it returns."""
    tensors, unknown = outputs_of(returned)
    outputs = [value.operation for value in map(tracer.value, tensors) if value.operation >= 0]
    if not outputs:
        what = (
            f". It returned {', '.join(unknown)}; tensors in lists, dicts and dataclasses are found" if unknown else ""
        )
        if tensors:
            what += ". What another thread computes for it cannot be followed"
        raise TraceError(f"no output of {model_name} depends on its input; there is no graph{what}")
    tracer.note_use(tensors, "the forward returns it, or what is computed from it, and no layer uses it")
    operations = tracer.operations
    nodes, primitives, edges, levels, fates, classifier_weight, classifier_bias = _C.build_graph(
        np.asarray(operations.kinds),
        np.asarray(operations.input_offsets),
        np.asarray(operations.inputs),
        np.asarray(outputs, dtype=np.int32),
    )
    chosen = nodes.tolist()
    placed = predicted_once(tracer, [operations.parameters[node] for node in chosen])
    known = dict.fromkeys(index for pair in placed for index in pair if index is not None)
    whole = len(tracer.parameters)
    names = {index: tracer.names[index] for index in known if index < whole}
    shapes = {name: tuple(tracer.parameters[index].shape) for index, name in names.items()}
    parts = {index: tracer.parts[index - whole] for index in known if index >= whole}
    names.update((index, part.name) for index, part in parts.items())
    shapes.update((part.name, part.shape) for part in parts.values())
    meanings = {part.name: part.meaning for part in parts.values()}
    return ArchGraph(
        primitives=primitives,
        edges=edges,
        level_offsets=levels,
        shapes=[operations.shapes[node] for node in chosen],
        weights=[None if weight is None else names[weight] for weight, _ in placed],
        norm_biases=[None if bias is None else names[bias] for _, bias in placed],
        parameter_shapes=shapes,
        classifier_weight=classifier_weight if classifier_weight >= 0 else None,
        classifier_bias=classifier_bias if classifier_bias >= 0 else None,
        skipped={}
        if len(names) == len(tracer.names) and not tracer.parts
        else skip_reasons(tracer, fates, names.keys(), reason is not None or bool(tracer.chance.read)),
        input_shape=input_shape,
        ran_on_numbers=reason,
        slices={name: part for name, part in meanings.items() if isinstance(part, ParameterSlice)},
        reparametrized={name: part for name, part in meanings.items() if isinstance(part, Reparametrization)},
        check=False,
    )


Pair = tuple[int | None, int | None]


def predicted_once(tracer: Tracer, placed: list[Pair]) -> list[Pair]:
    """The parameters and parts of each node, without parts that have elements which are predicted already.

    Whole parameters come first, then parts in the order of the nodes.
    """
    if not tracer.parts:
        return placed
    taken: dict[str, list[ParameterSlice]] = {}
    whole = {
        tracer.names[index] for pair in placed for index in pair if index is not None and not tracer.part_of(index)
    }

    def kept(index: int | None) -> int | None:
        part = None if index is None else tracer.part_of(index)
        if part is None or not isinstance(part.meaning, ParameterSlice):
            return index
        others = taken.setdefault(part.meaning.parameter, [])
        if part.meaning in others:
            return index
        if part.meaning.parameter in whole or any(part.meaning.overlaps(other) for other in others):
            return None
        others.append(part.meaning)
        return index

    return [(kept(weight), kept(bias)) for weight, bias in placed]


def sources_of(tracer: Tracer, number: int) -> tuple[int, ...]:
    """The parameters that a part is in, or is computed from; a parameter itself."""
    part = tracer.part_of(number)
    return (number,) if part is None else part.sources


def skip_reasons(tracer: Tracer, fates: Any, placed: Collection[int], by_chance: bool) -> dict[str, str]:
    """Why each parameter that has no node has none."""
    fate_of = {
        index: fate
        for pair, fate in zip(tracer.operations.parameters, fates.tolist(), strict=True)
        for number in pair
        if number is not None
        for index in sources_of(tracer, number)
    }
    found = {index for number in placed for index in sources_of(tracer, number)}
    reasons = {}
    for index, name in enumerate(tracer.names):
        if index in found:
            continue
        if index not in fate_of and index in tracer.used_by:
            reasons[name] = tracer.used_by[index]
        elif index not in fate_of and index in tracer.read:
            reasons[name] = "the forward reads its values, and no layer uses it"
        else:
            reasons[name] = fate_reason(Fate(fate_of[index]) if index in fate_of else None, by_chance)
    return reasons
