"""Node states of a GHN on a GPU, from a copy of it on the CPU.

A small batch's states are computed there, in C++, and uploaded (nodes x hid floats): where `GHNFAST_SWEEP` asks for it,
for a GPU of one's own may walk a chain of nodes more slowly than an H100.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..graph import GraphBatch
from ..ops.backend import backend_asked_for, is_plain
from ..ops.sweep import Sweep, chosen_sweep, sweep_asked_for
from ..ops.uploads import is_capturing
from ..tracing.members import Members, has_global_hooks
from .native import WeightState, are_untouched, state_of, weights_backend
from .sweep import GatedSweep

if TYPE_CHECKING:
    from .ghn import GHN


class HostForm:
    """A copy of one GHN on the CPU, and the state of the weights that it was made for.

    A copy of a GHN begins without.
    """

    def __init__(self) -> None:
        # With the memory that the state names: as long as it is kept, it is no other weight's.
        self.known: tuple[WeightState, GHN, list[Tensor]] | None = None

    def __reduce__(self) -> tuple[type[HostForm], tuple[()]]:
        return HostForm, ()

    def node_states(self, ghn: GHN, own: Members, batch: GraphBatch) -> Tensor | None:
        """`ghn.node_states` on the device of `ghn`, whose members are given, where the CPU computes them; else None."""
        if sweep_asked_for() != "cpp":
            return None
        gnn = ghn.gnn
        first = own.parameters[0]
        if not isinstance(gnn, GatedSweep) or weights_backend(own) != "triton" or backend_asked_for():
            return None
        if not is_plain(own.parameters) or is_capturing(first.device):
            return None
        if has_global_hooks() or not are_untouched(own.modules[1:]):
            return None
        topology = batch.topology(gnn.cutoff)
        heads, width, hid = 2 if gnn.ve else 1, gnn.weights.direct.weight_1.shape[0], ghn.settings.hid
        sweep = Sweep(topology.largest, heads, hid, width, False)
        if chosen_sweep(sweep, first.device, on_host=True) != "cpp":
            return None
        there = self.copy_of(ghn, own)
        native = None if there is None else there.native()
        if there is None or native is None or not native.states:
            return None
        states = there.node_states(batch, native)
        return states.pin_memory().to(first.device, non_blocking=True) if first.is_cuda else states

    def copy_of(self, ghn: GHN, members: Members) -> GHN | None:
        """None where nobody counts writes to the weights: it would be copied again and again."""
        state = state_of(members.parameters)
        if state is None:
            return None
        if self.known is None or self.known[0] != state:
            there: dict[int, object] = {id(weight): on_cpu(weight) for weight in members.parameters}
            self.known = state, copy.deepcopy(ghn, there), [weight.detach() for weight in members.parameters]
        return self.known[1]


def on_cpu(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().cpu(), requires_grad=False)
