"""Which parameters of a model are written by a prediction, and where they lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import _C
from ..errors import PredictError
from ..graph import PREDICTED_DTYPES, ArchGraph
from ..memory import (
    BEFORE_WRAPPING,
    extent,
    has_common_elements,
    is_distributed,
    is_same_memory,
    keeps_no_elements,
    unwritable,
)
from ..ops.decode import Role, Table, joined
from ..tracing.members import Members
from .inversion import reason_to_keep
from .slots import Form, Slots, slots_of

LEFT_ALONE = "it belongs to the classification layer, which was to be left as it is"


@dataclass(frozen=True, eq=False)
class Plan:
    """What is predicted of one model, and what is not, and why.

    rows: (n,) int64, which of the graph's slots these are.
    parameters: the model's parameters, one per row.
    memory: (n,), where each lies: its `address`; its dtype (`element`, of `ELEMENTS`) where it can be written to as it
        is, or -1; the `bytes` that it spans; and the GPU that it is on (`device`), or -1 on the CPU.
    """

    members: Members
    slots: Slots
    rows: NDArray[np.int64]
    parameters: list[Tensor]
    memory: Table
    skipped: dict[str, str]

    def without_classifier(self) -> Plan:
        """The same without what belongs to the classification layer."""
        optional = np.isin(self.rows, self.slots.optional)
        skipped = {**self.skipped, **{self.slots.names[row]: LEFT_ALONE for row in self.rows[optional].tolist()}}
        kept = np.flatnonzero(~optional)
        parameters = [self.parameters[index] for index in kept.tolist()]
        return Plan(self.members, self.slots, self.rows[kept], parameters, self.memory.take(kept), skipped)


def plan_for(model: nn.Module, members: Members, graph: ArchGraph) -> Plan:
    """The parameters of a model with these members that its graph predicts.

    Raises:
        PredictError: the graph is that of another model, or a parameter cannot be written.
    """
    slots = slots_of(graph)
    exact = not slots.slices and not slots.reparametrized
    if exact and not slots.skipped and (plan := plan_for_all(members, slots)) is not None:
        return plan
    parameters = dict(zip(members.names, members.parameters, strict=True))
    found: list[Any] = list(map(parameters.get, slots.names))
    if not exact:
        found = [part_of(model, slots, name, parameters) for name in slots.names]
    memory = _C.inspect_tensors(found, slots.shapes, PREDICTED_DTYPES)
    rows: NDArray[np.int64] = np.arange(len(found))
    skipped = {name: reason for name, reason in slots.skipped.items() if name in parameters}
    for row in np.flatnonzero(memory["address"] < 0).tolist():
        reason = reason_to_skip(model, slots, row, found[row])
        if reason is None:
            memory[row] = found[row].data_ptr(), -1, extent(found[row]) * found[row].element_size(), -1
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
    if not exact or len(skipped) + len(found) - np.count_nonzero(rows < 0) < len(parameters):
        known = {own for name in slots.names for own in slots.parameters_of(name)} | skipped.keys()
        skipped.update((name, "the graph does not know it") for name in members.names if name not in known)
    for name in skipped.keys() & parameters.keys():
        skipped[name] = dtype_reason(parameters[name]) or skipped[name]
    if rows.size and rows.min() < 0:
        rows = rows[rows >= 0]
        found = [found[row] for row in rows.tolist()]
        memory = memory.take(rows)
    return Plan(members, slots, rows, found, memory, skipped)


def plan_for_all(members: Members, slots: Slots) -> Plan | None:
    """The plan where all parameters are predicted, and each is memory that can be written to as it is; else None."""
    choose = slots.places_in(members.names)
    if choose is None:
        return None
    found = list(choose(members.parameters))
    memory = _C.inspect_tensors(found, slots.shapes, PREDICTED_DTYPES)
    return Plan(members, slots, slots.every, found, memory, {}) if memory["address"].min(initial=0) >= 0 else None


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


def rows_to_decode(plans: Sequence[Plan]) -> NDArray[np.int64]:
    """The numbers of the rows of all plans that are decoded: not those whose memory is that of a row before them.

    Parameters that share memory without being one object (tied through their data, or in two of the models) are
    predicted once: two threads would write to the same place.

    Raises:
        PredictError: parameters share a part of their memory.
    """
    memory = joined([plan.memory for plan in plans])
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
    """Why nothing is predicted: what keeps the most numbers, with the first parameter that it keeps."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for plan in plans:
        sizes = dict(zip(plan.members.names, map(Tensor.numel, plan.members.parameters), strict=True))
        for name, reason in plan.skipped.items():
            if reason is not LEFT_ALONE:
                counts[reason] += sizes[name]
                first.setdefault(reason, name)
    if not counts:
        return "the models have classification layers only, and classifier=False leaves those as they are"
    [(reason, _)] = counts.most_common(1)
    return f"{first[reason]} is skipped because of this: {reason}"
