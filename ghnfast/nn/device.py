"""The forward pass of a GHN in Triton kernels, and the last step of decoding: a few launches that nobody waits for.

Beside `native`, it computes what the modules do. What depends on weights alone is kept while they stay as they are,
what depends on a graph is kept with the graph; a prediction fills in where parameters lie. Weights stay as they are as
far as torch counts writes, which it does not through `.data`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol
from weakref import WeakKeyDictionary

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import PredictError
from ..graph import GraphBatch, Topology
from ..kernels.driver import on_device
from ..ops.attention import operators as of_attention
from ..ops.attention import relations_of
from ..ops.backend import is_plain
from ..ops.decode import FINE, DecodeSource, DecodeTargets, NotFinite, Table
from ..ops.decode import operators as of_decoding
from ..ops.decode.targets import Uploaded
from ..ops.layers import Launches, StageTables, Weights, addresses_of, arrays_of, parts_of
from ..ops.sweep import operators as of_sweep
from ..ops.uploads import Wanted, in_use, is_capturing, upload
from ..prediction.layout import Layout, Memory
from ..tracing.members import Members, has_global_hooks
from .decoder import ConvDecoder
from .forward import Form, Forward, Plan, Prepared
from .graphormer import Graphormer, position_rows
from .linear import own_weights
from .native import NATIVE, Parts, WeightState, are_untouched, weights_backend
from .recordings import Recordings, Use
from .stages import Widths, indices_of, write_stages
from .sweep import GatedSweep, NodeMlp

BROKEN = -1  # the status where a weight is not finite, as in kernels/check.py


class Whole(Protocol):
    """A GHN, by its parts."""

    @property
    def parts(self) -> Parts: ...


class DeviceForm:
    """The forward pass of one GHN in kernels, and the state of the weights it was made for.

    A copy of a GHN begins without.
    """

    def __init__(self) -> None:
        self.known: tuple[WeightState, Device] | None = None

    def __reduce__(self) -> tuple[type[DeviceForm], tuple[()]]:
        return DeviceForm, ()

    def of(self, ghn: Whole, members: Members, state: WeightState) -> Device | None:
        """The forward pass in kernels, where it does what the modules do: for numbers in and numbers out.

        Args:
            members, state: those of the GHN.
        """
        weights, known = members.parameters, self.known
        if weights[0].is_meta:
            return None  # whoever looks at the weights says so
        if weights_backend(members) != "triton" or has_global_hooks() or not is_plain(weights):
            return None
        if not are_untouched(members.modules[1:]):
            return None
        if known is not None and state is not None and known[0] == state:
            return known[1]
        parts = ghn.parts
        if type(parts.decoder) is not ConvDecoder or type(parts.hypernet) not in NATIVE:
            return None
        first = weights[0]
        alike = ((weight.dtype, weight.device) == (first.dtype, first.device) for weight in weights)
        if not all(alike) or not all(map(Tensor.is_contiguous, weights)):
            return None
        found = Device(parts, weights, None if known is None else known[1].weights)
        self.known = state, found
        return found


class Device:
    """The weights of a GHN as kernels take them, in one state of theirs.

    finite: whether they are known to be.
    """

    def __init__(self, parts: Parts, weights: Sequence[Tensor], before: Weights | None) -> None:
        self.parts = parts
        self.device = weights[0].device
        self.last = parts.decoder.last
        self.widths = widths_of(parts)
        self.cutoff = parts.hypernet.cutoff
        self.kind = KINDS[type(parts.hypernet)]
        # What a plan depends on, besides the batch and the layout.
        self.key = "device", self.device, self.widths, self.cutoff, self.kind
        self.key_of_given = "given", *self.key  # where final states are given
        self.finite = False
        named = weights_of(parts)
        self.numbers = {name: number for number, name in enumerate(named)}
        own = {tensor.data_ptr() for tensor in named.values()}
        tensors = [*named.values(), *(weight for weight in weights if weight.data_ptr() not in own)]
        same = before is not None and list(map(Tensor.data_ptr, before.tensors)) == list(map(Tensor.data_ptr, tensors))
        self.weights = before if same else None
        self.tensors = tensors
        self.prepared: Prepared | None = None
        self.recordings = Recordings()
        self.form = Form(self.device, self.kind, self.widths, self.numbers.get("0.ln1", 0), self.last)

    # Tables ---------------------------------------------------------------------------------------------------------

    def wanted(self, batch: GraphBatch, layout: Layout, given: bool) -> list[Wanted | None]:
        """What the device has not yet of the GHN, the batch and the layout.

        Args:
            given: whether final states are given.
        """
        wanted = [self.wanted_weights(), self.wanted_plan(batch, layout, given)]
        if given:
            return wanted
        if self.kind == "sweep":
            wanted.append(of_sweep.wanted_tables(batch.topology(self.cutoff), self.device))
        elif self.kind == "attention":
            wanted.append(of_attention.wanted_tables(relations_of(batch.topology(self.cutoff)), self.device))
        return wanted

    def wanted_weights(self) -> Wanted | None:
        if self.weights is not None:
            return None

        # In the memory that the addresses are of: a weight may be given other memory, through `.data`.
        tensors = [tensor.detach() for tensor in self.tensors]

        def keep(there: list[Tensor]) -> None:
            self.weights = Weights(tensors, *there)

        return Wanted([addresses_of(tensors), parts_of(tensors)], keep)

    def wanted_plan(self, batch: GraphBatch, layout: Layout, given: bool) -> Wanted | None:
        key = self.key_of_given if given else self.key
        if key in layout.known:
            return None
        widths = self.widths._replace(norm=False) if given else self.widths
        stages, places = write_stages(layout, len(batch), widths, self.numbers, self.kind)
        arrays, ends = arrays_of(stages)
        columns: list[NDArray[Any]] = [batch.primitives, self.parts.shapes.indices(batch.shape_table)]
        if self.kind == "attention":
            columns += position_rows(batch.topology(self.cutoff))

        def keep(there: list[Tensor]) -> None:
            layout.known[key] = Plan(
                places, stages.elements, StageTables(there[:-1], ends), there[-1], WeakKeyDictionary()
            )

        return Wanted([*arrays, indices_of(columns)], keep)

    # The forward pass -----------------------------------------------------------------------------------------------

    def begin(self, batch: GraphBatch) -> Use | None:
        """Launch the forward pass of a batch, where it is recorded: nothing in it depends on what is predicted."""
        if not self.finite or is_capturing(self.device):
            return None
        with on_device(self.device):
            return self.recordings.begin(batch, self.prepared)

    def source(
        self,
        batch: GraphBatch,
        layout: Layout,
        memory: Memory | None,
        refuse: Callable[[], None],
        given: Tensor | None,
        begun: Use | None,
    ) -> tuple[DecodeSource, DeviceLast]:
        """Everything but the last step of decoding, and that step.

        Args:
            memory: what that step is to write to, if it is known already.
            refuse: see `DeviceLast`.
            given: the final states, (nodes, hid), of a sweep where the CPU has computed them.
            begun: see `begin`.
        """
        with on_device(self.device):
            begun = begun if begun is not None and begun.recorded.layout is layout else None
            wanted = [] if begun is not None else self.wanted(batch, layout, given is not None)
            written: list[Uploaded] = []
            if memory is not None and memory.device == self.device:
                wanted.append(of_decoding.wanted_tables(layout.targets, memory.table, self.device, written))
            upload(wanted, self.device)
            if begun is None:
                forward = self.forward(batch, layout, given)
                begun = self.recordings.record(forward, batch, layout) if given is None else None
            if begun is None:
                room = forward.room()
                forward.launch(room)
                self.recordings.count(forward, layout)
                source = forward.source(room, layout)
            else:
                forward, room, source = begun.recorded.forward, begun.recorded.room, begun.recorded.source
            last = DeviceLast(self, forward.prepared, room.status, refuse, forward.launches, written, begun)
            return source, last

    def forward(self, batch: GraphBatch, layout: Layout, given: Tensor | None) -> Forward:
        """The forward pass, from what is on the device by now."""
        plan: Plan = layout.known[self.key if given is None else self.key_of_given]
        assert self.weights is not None
        launches = plan.launches.setdefault(self.weights, Launches())
        in_use([self.weights.addresses, self.weights.parts], [plan.indices])
        prepared = self.prepare(self.weights)
        topology: Topology | None = None
        tables: Sequence[Tensor] = ()
        walk = None
        if self.kind == "attention":
            tables = of_attention.triton_tables(relations_of(batch.topology(self.cutoff)), self.device)
        elif self.kind == "sweep" and given is None:
            topology = batch.topology(self.cutoff)
            tables = of_sweep.triton_tables(topology, self.device)
            walk = prepared.walk(topology, tables, launches)
        return Forward(self.form, plan, prepared, launches, topology, tables, walk, given)

    def prepare(self, weights: Weights) -> Prepared:
        """What is computed of weights alone, once for each state of theirs."""
        prepared = self.prepared  # another thread may forget it meanwhile
        if prepared is None:
            prepared = self.prepared = Prepared(self.parts.hypernet, self.device, weights)
        prepared.use()
        return prepared


class Begun(NamedTuple):
    """See `GHN.begin`. own, state: its members, and the state of its weights. use: of a recording."""

    own: Members
    state: WeightState
    device: Device | None
    use: Use | None


class DeviceLast(NamedTuple):
    """The last step of decoding, after everything else, and the verdict on all of it.

    status: () int32, `FINE` so far. refuse: raises an error that names the weights that are not finite. written: the
    tables with the memory that is to be written to, where that was known. begun: the recording whose memory is read,
    which is in use as long as this is there.
    """

    device: Device
    prepared: Prepared
    status: Tensor
    refuse: Callable[[], None]
    launches: Launches
    written: Sequence[Uploaded]
    begun: Use | None

    def write(
        self, source: DecodeSource, targets: DecodeTargets, memory: Table, outputs: Sequence[Tensor], precision: str
    ) -> None:
        """See `ghnfast.prediction.job.LastStep`."""
        device, prepared = self.device, self.prepared
        if self.written:
            tables = prepared.tables(*of_decoding.tables_in_use(self.written[0]))
        else:
            tables = prepared.tables(*of_decoding.triton_tables(targets, memory, source.hidden))
        launches = self.launches[precision], self.launches["store"]
        prepared.decode.decode_into(*source, tables, precision, self.status, prepared.largest, launches)
        torch.autograd.graph.increment_version(outputs)
        if is_capturing(device.device):
            return
        verdict = int(self.status)  # this waits
        if verdict == BROKEN:
            self.refuse_all()
        elif verdict != FINE:
            raise NotFinite(verdict)
        device.finite = True

    def refuse_all(self) -> NoReturn:
        """Nothing was written, for a weight was not finite when weights were last looked at."""
        self.device.prepared = None
        self.refuse()
        raise PredictError(
            "the GHN's weights were not finite when they were last looked at, and are now: something has written to "
            "them that torch does not count, as `.data` does. No parameter was changed; the next prediction looks at "
            "them again."
        )

    def complete(self, source: DecodeSource) -> None:
        """See `ghnfast.prediction.job.LastStep`: nothing is missing but the verdict on the weights."""
        device = self.device
        if not device.finite and not is_capturing(device.device):
            if not torch.isfinite(self.prepared.largest.values).all():
                self.refuse_all()
            device.finite = True


# Weights --------------------------------------------------------------------------------------------------------------

KINDS: dict[type[nn.Module], str] = {GatedSweep: "sweep", NodeMlp: "mlp", Graphormer: "attention"}


def widths_of(parts: Parts) -> Widths:
    decoder, vectors, hypernet = parts.decoder, parts.vectors, parts.hypernet
    assert isinstance(decoder, ConvDecoder)
    rows, columns, size, _ = decoder.max_shape
    layers = hypernet.layers if isinstance(hypernet, Graphormer) else []
    return Widths(
        decoder.hid,
        rows,
        columns,
        size,
        vectors.hidden,
        own_weights(parts.class_bias[1]).weight.shape[1],
        own_weights(parts.class_bias[1]).weight.shape[0],
        decoder.centred,
        parts.norm is not None,
        0.0 if parts.norm is None else parts.norm.eps,
        tuple((each.ln1.eps, each.ln2.eps) for each in layers),
    )


def weights_of(parts: Parts) -> dict[str, Tensor]:
    """The weights that kernels name, in the order of their numbers: tables first; biases follow their weights."""
    decoder, hypernet, shapes = parts.decoder, parts.hypernet, parts.shapes
    assert isinstance(decoder, ConvDecoder)
    found: dict[str, Tensor] = {
        "primitives": parts.primitives.weight,
        "channels": shapes.embed_channel.weight,
        "sizes": shapes.embed_spatial.weight,
    }
    layers: dict[str, nn.Module] = {
        "cells": decoder.fc[0],
        "hidden": decoder.conv[0],
        "last": decoder.conv[2],
        "classes": decoder.class_layer_predictor[1],
        "class_bias": parts.class_bias[1],
    }
    layers |= {f"vectors.{number}": each for number, each in enumerate(parts.vectors.linear_layers)}
    if parts.norm is not None:
        layers["norm"] = parts.norm
    if isinstance(hypernet, NodeMlp):
        layers |= {f"mlp.{number}": each for number, each in enumerate(hypernet.linear_layers)}
    if isinstance(hypernet, Graphormer):
        first, *_ = own = hypernet.layers
        tables = first.centrality_embed_in, first.centrality_embed_out, first.input_dist_embed
        found |= {f"position.{number}": table.weight for number, table in enumerate(tables)}
        for number, each in enumerate(own):
            parts_of_layer = {
                "ln1": each.ln1, "to_qkv": each.attn.to_qkv, "to_out": each.attn.to_out[0], "ln2": each.ln2,
                "ff.0": each.ff.net[0], "ff.1": each.ff.net[3],
            }  # fmt: skip
            layers |= {f"{number}.{name}": module for name, module in parts_of_layer.items()}
    for name, layer in layers.items():
        weight, bias = layer._parameters["weight"], layer._parameters["bias"]
        assert weight is not None
        found[name] = weight
        if bias is not None:
            found[f"{name} bias"] = bias
    return found
