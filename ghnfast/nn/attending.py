"""The layers of a Graphormer in Triton kernels, from its initial states on: a launch for attention, and one for the
rest of a layer; or, where layers are wide, four stages of tiles for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..ops.attention import operators as of_attention
from ..ops.layers import StageTables, Weights, begin_attention, embed, rest_of_attention, run_layers
from .stages import Places, Widths, is_narrow


class Attending(NamedTuple):
    """What is computed with.

    first: the number of the first weight of the first layer. table: the biases of pairs. relations: of the batch, see
    kernels/attention.py. indices: see `embed`. launches: by what is launched. attended: (nodes, hid), what attention
    writes.
    """

    widths: Widths
    places: Places
    weights: Weights
    first: int
    table: Tensor
    relations: Sequence[Tensor]
    indices: Tensor
    stages: StageTables
    launches: Mapping[Any, Callable[..., Any]]
    attended: Tensor

    def run(self, scratch: Tensor, status: Tensor) -> Tensor:
        """The final states, (nodes, hid), which are in scratch; `FINE` is written into the status."""
        nodes, hid, places = len(self.indices), self.widths.hid, self.places
        states, qkv = (
            scratch.as_strided((nodes, each * hid), (each * hid, 1), place)
            for each, place in ((1, places.initial), (3, places.qkv))
        )
        if is_narrow(self.widths):
            self.run_narrow(states, qkv, status)
            return states
        embed(states, status, self.indices, self.weights, self.launches)
        for stage in range(0, places.of_states, 4):
            run_layers(scratch, states, self.weights, self.stages, stage, stage + 1, self.launches)
            self.attention(qkv)
            run_layers(scratch, self.attended, self.weights, self.stages, stage + 1, stage + 4, self.launches)
        return states

    def run_narrow(self, states: Tensor, qkv: Tensor, status: Tensor) -> None:
        epsilons, weights, launches = self.widths.layers, self.weights, self.launches
        begin_attention(states, status, qkv, self.indices, weights, self.first, epsilons[0][0], launches)
        for number, (_, epsilon) in enumerate(epsilons):
            following = epsilons[number + 1][0] if number + 1 < len(epsilons) else None
            self.attention(qkv)
            rest_of_attention(states, self.attended, qkv, weights, self.first, number, epsilon, following, launches)

    def attention(self, qkv: Tensor) -> None:
        of_attention.device_attention(qkv, self.table, self.relations, self.launches["attention"], self.attended)
