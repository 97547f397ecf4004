"""A forward pass of a batch in Triton kernels and CUDA C++, ready to be launched (`Forward`), and what it is made of:
what is computed of weights alone (`Prepared`), what is kept with a layout (`Plan`), the memory that it writes (`Room`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..graph import Topology
from ..kernels import driver
from ..ops.decode import DecodeSource
from ..ops.layers import Launches, StageTables, Weights, embed, run_layers
from ..ops.sweep import Sweep, chosen_sweep
from ..ops.sweep import operators as of_sweep
from ..ops.uploads import Made, in_use
from ..prediction.layout import Layout
from .attending import Attending
from .graphormer import Graphormer
from .linear import LayerWeights
from .stages import Places, Widths
from .sweep import GatedSweep

if TYPE_CHECKING:
    from ..kernels.chain import Walk


class Plan(NamedTuple):
    """A forward pass of a batch, on its device: what is kept with the layout. elements: of scratch."""

    places: Places
    elements: int
    tables: StageTables
    indices: Tensor
    launches: WeakKeyDictionary[Weights, Launches]  # for these weights


class Prepared:
    """What is computed of weights alone.

    largest: (weights,) float32, the largest absolute value of each. layers: of a sweep. table: the bias of attention.
    """

    def __init__(self, hypernet: nn.Module, device: torch.device, weights: Weights) -> None:
        from ..kernels import check, decode, decode_tables, launching
        from ..kernels import sweep as kernels

        # Imported here and not in each prediction: even that a module is there takes time to see.
        self.decode, self.tables, self.sweeps = decode, decode_tables.Tables, kernels
        self.has_hooks, self.recorder, self.weights = launching.has_hooks, launching.Recorder, weights
        self.largest = check.Largest(check.largest_of(weights.addresses), len(weights.tensors))
        self.layers: kernels.Layers | None = None
        self.table = self.largest.values
        self.flat: list[Tensor] = []
        if isinstance(hypernet, GatedSweep):
            self.flat = hypernet.weights.flat
            self.layers = kernels.layers_of(self.flat)
        elif isinstance(hypernet, Graphormer):
            with torch.autocast(device.type, enabled=False):
                self.table = hypernet.layers[0].attn.bias_table()
        self.made = Made.now(device) if device.type == "cuda" else None

    def use(self) -> None:
        """On the current stream, which need not be the one that it was computed on."""
        stacked = [] if self.layers is None else self.layers[:4]  # the others are the weights themselves
        in_use(*([tensor] for tensor in (self.largest.values, self.table, *stacked)), made=self.made)

    def sweep(
        self, states: Tensor, topology: Topology, tables: Sequence[Tensor], launches: Mapping[Any, Any]
    ) -> Tensor:
        """Final states, before their normalization, by the kernel in Triton."""
        assert self.layers is not None
        (final,) = self.sweeps.gated_sweep(
            states, self.flat, tables, topology.cutoff, False, self.layers, launches["sweep"]
        )
        return final

    def walk(self, topology: Topology, tables: Sequence[Tensor], launches: Launches) -> Walk | None:
        """What sweeps, where `chosen_sweep` says that CUDA C++ does."""
        assert self.layers is not None
        heads, width, hid = self.layers.weight_1.shape
        if chosen_sweep(Sweep(topology.largest, heads, hid, width, False), self.layers.weight_1.device) != "cuda":
            return None
        known = launches.get("walk")
        if known is None or known.tables is not tables:
            known = launches["walk"] = of_sweep.walk(self.flat, tables, topology, hid)
        walk: Walk = known
        return walk


class Form(NamedTuple):
    """What a forward pass takes of a GHN besides its weights: the kind of its hypernet, the number of the first weight
    of its layers of attention, and the last layer of its decoder."""

    device: torch.device
    kind: str
    widths: Widths
    first: int
    last: LayerWeights


class Room(NamedTuple):
    """The memory that a forward pass writes.

    status: () int32. beside: (2, nodes, hid), what is not in the scratch.
    """

    scratch: Tensor
    status: Tensor
    beside: Tensor


class Forward(NamedTuple):
    """A forward pass of a batch, up to the last step of decoding, which can be launched.

    tables: of the sweep or of attention. walk: of a sweep in CUDA C++. given: see `Device.source`.
    """

    form: Form
    plan: Plan
    prepared: Prepared
    launches: Launches
    topology: Topology | None
    tables: Sequence[Tensor]
    walk: Walk | None
    given: Tensor | None

    def room(self) -> Room:
        there, nodes, hid = self.form.device, len(self.plan.indices), self.form.widths.hid
        scratch = torch.empty(self.plan.elements, device=there)
        return Room(scratch, torch.empty((), dtype=torch.int32, device=there), torch.empty(2, nodes, hid, device=there))

    def recorded(self, room: Room) -> driver.Recording:
        """What `launch` launches, to be launched at once. It was launched one by one before.

        Raises:
            BackendError: it cannot be recorded.
        """
        recorder, walk = self.prepared.recorder(), self.walk
        self.run(room, recorder, None if walk is None else lambda *where: recorder.nodes.append(walk.node(*where)))
        return driver.Recording(self.form.device, recorder.nodes)

    def launch(self, room: Room) -> None:
        """On the current device."""
        self.run(room, self.launches, self.walk)

    def run(self, room: Room, launches: Mapping[Any, Callable[..., Any]], walk: Callable[..., None] | None) -> None:
        """See `launch`; by what is given."""
        form, plan, scratch = self.form, self.plan, room.scratch
        nodes, hid, places = len(plan.indices), form.widths.hid, plan.places
        weights, tables = self.prepared.weights, plan.tables
        states = scratch.as_strided((nodes, hid), (hid, 1), places.initial)
        if form.kind == "attention":
            Attending(
                form.widths, places, weights, form.first, self.prepared.table, self.tables, plan.indices, tables,
                launches, room.beside[0],
            ).run(scratch, room.status)  # fmt: skip
        else:
            embed(states, room.status, plan.indices, weights, launches)
        if self.given is not None:
            states = self.given
        elif walk is not None:
            walk(states, *room.beside)
            states = room.beside[1]
        elif self.topology is not None:
            states = self.prepared.sweep(states, self.topology, self.tables, launches)
        first = 0 if form.kind == "mlp" else places.of_states
        run_layers(scratch, states, weights, tables, first, len(tables.ends) - 1, launches)

    def source(self, room: Room, layout: Layout) -> DecodeSource:
        """What the last step of decoding reads, once this was launched."""
        last, places = self.form.last, self.plan.places
        width = last.weight.shape[2]
        hidden = room.scratch.as_strided((layout.hidden_rows, width), (width, 1), places.hidden)
        return DecodeSource(hidden, *last, room.scratch.as_strided((layout.elements,), (1,), places.blocks))
