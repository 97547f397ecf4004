"""A prediction that is ready to run: what is decoded, how, and where it is written."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import PredictError
from ..graph import GraphBatch
from ..ops.backend import backend_for, is_plain
from ..ops.decode import DecodeSource, DecodeTargets, NotFinite, Table, copy_all, decode_into, decode_to, joined
from ..tracing.members import Members
from .inversion import Inversion, inversions_for
from .layout import Layout, Memory, Request, lay_out_slots, memory_of
from .plan import Plan, decoded_part, nothing_reason, plan_for, rows_to_decode
from .slots import Form


class LastStep(Protocol):
    """The last step of a prediction where it is numbers in and numbers out, on what a GHN left for it."""

    def write(
        self, source: DecodeSource, targets: DecodeTargets, memory: Table, outputs: Sequence[Tensor], precision: str
    ) -> None:
        """See `ghnfast.ops.decode.decode_to`; `precision` as of `decode_into`."""
        ...

    def complete(self, source: DecodeSource) -> None:
        """Fill the blocks that the source lacks, in place."""
        ...


@dataclass(frozen=True, eq=False)
class Job:
    """A prediction that is ready to run.

    names, forms, parameters: what is decoded, in the order of the layout.
    memory: what is written to, or None where a parameter is not just memory that can be written to.
    inversions: weights among `parameters` that stand for what they are computed from.
    """

    plans: list[Plan]
    layout: Layout
    names: list[str]
    forms: list[Form]
    parameters: list[Tensor]
    memory: Memory | None
    inversions: list[Inversion]

    @property
    def direct_memory(self) -> Memory | None:
        """What can be written to in one step; None where there is more to do."""
        return None if self.inversions else self.memory

    # A `with` of our own could be left, by an interrupt, without an end.
    @torch.no_grad()
    def write(self, source: DecodeSource, ghn: str, precision: str, last: LastStep | None = None) -> None:
        """The last step: decode into the parameters, all of them or none.

        Args:
            ghn: its name, for messages.
            last: where the GHN has it, what takes the place of `decode_to`; then the source lacks blocks.
        """
        memory = self.direct_memory
        # Without a last step of its own, C++ has one.
        direct = memory is not None and memory.device == source.hidden.device and is_plain(source)
        direct = direct and (last is not None or backend_for(source.hidden) == "cpp")
        try:
            if last is not None and not direct:
                last.complete(source)
            if self.inversions:
                self.write_inverted(source, precision)
            elif memory is not None and direct:
                targets = self.layout.targets
                if last is None:
                    decode_to(source, targets, memory.table, self.parameters, precision)
                else:
                    last.write(source, targets, memory.table, self.parameters, precision)
            else:
                outputs = list(map(decoded_part, self.forms, self.parameters))
                with torch.autocast(source.hidden.device.type, enabled=False):
                    decode_into(source, self.layout.targets, outputs, precision)
        except NotFinite as error:
            name, dtype = self.names[error.index], self.parameters[error.index].dtype
            raise PredictError(
                f"the values predicted for {name} are not finite in {dtype}: the weights of {ghn} are too large. "
                "No parameter was changed."
            ) from error

    def write_inverted(self, source: DecodeSource, precision: str) -> None:
        """`write`, where some weights have to be known before anything can be written: all are predicted aside."""
        places = list(map(decoded_part, self.forms, self.parameters))
        values = [torch.empty_like(place, memory_format=torch.contiguous_format) for place in places]
        with torch.autocast(source.hidden.device.type, enabled=False):
            decode_into(source, self.layout.targets, values, precision)
        own = {id(inversion.values) for inversion in self.inversions}
        pairs = []
        for parameter, place, value in zip(self.parameters, places, values, strict=True):
            if id(parameter) in own:
                place.copy_(value)  # memory of the prediction
            else:
                pairs.append((place.detach(), value))
        for inversion in self.inversions:
            pairs += inversion.writes()
        copy_all(*zip(*pairs, strict=True))


def prepare(
    models: Sequence[nn.Module],
    members: Sequence[Members],
    batch: GraphBatch,
    classifier: bool,
    request: Request,
) -> Job:
    """Everything that needs no computation.

    Args:
        members: those of each model.
        classifier: whether the classification layer is predicted too.
        request: what slots ask the GHN's decoders for.

    Raises:
        PredictError: nothing is predicted; or see `plan_for`, `rows_to_decode`.
    """
    plans = [plan_for(*each) for each in zip(models, members, batch.graphs, strict=True)]
    if not classifier:
        plans = [plan.without_classifier() for plan in plans]
    if not any(plan.parameters for plan in plans):
        raise PredictError("nothing is predicted: " + nothing_reason(plans))
    decoded = rows_to_decode(plans)
    own = lay_out_slots(batch, [plan.slots for plan in plans], [plan.rows for plan in plans], decoded, request)
    parameters = plans[0].parameters if len(plans) == 1 else list(itertools.chain(*(p.parameters for p in plans)))
    return Job(
        plans,
        own.layout,
        own.names,
        own.forms,
        list(own.choose(parameters)),
        memory_of(joined([plan.memory for plan in plans]), own),
        [inversion for model, plan in zip(models, plans, strict=True) for inversion in inversions_of(model, plan)],
    )


def inversions_of(model: nn.Module, plan: Plan) -> list[Inversion]:
    """The weights of a plan that stand for what they are computed from."""
    weights = plan.slots.reparametrized
    if not weights:
        return []
    named = [(plan.slots.names[row], values) for row, values in zip(plan.rows.tolist(), plan.parameters, strict=True)]
    return [
        inversion
        for name, values in named
        if name in weights
        for inversion in inversions_for(model, plan.members, weights[name], values)
    ]
