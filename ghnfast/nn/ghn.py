"""The Graph HyperNetwork: from graphs to predicted parameters."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import _C, checkpoints
from ..errors import CheckpointError, ConfigError, DomainWarning, PredictError
from ..graph import PRIMITIVES, ArchGraph, GraphBatch
from ..memory import unreadable
from ..ops.backend import as_arrays, backend_for, is_plain
from ..ops.decode import PRECISIONS, DecodeSource, NotFinite, copy_all, decode, decode_into, decode_to
from ..tracing import trace, trace_members
from ..tracing.members import Members, members_of
from .decoder import ConvDecoder
from .embedding import ShapeEncoder
from .inversion import Inversion
from .layout import NODE, Decoder, Layout, Sizes, lay_out, memory_of, table_of
from .native import Native, WeightState, native_for, state_of
from .slots import (
    Form,
    Plan,
    Report,
    Slots,
    decoded_part,
    make_report,
    nothing_reason,
    plan_for,
    rows_to_decode,
    slots_of,
)
from .sweep import GatedSweep, Mlp, NodeMlp

if TYPE_CHECKING:
    from typing_extensions import Unpack

M = TypeVar("M", bound=nn.Module)
S = TypeVar("S", bound=Sequence[nn.Module])


class Options(TypedDict, total=False):
    """What `predict` takes by keyword, besides `report`, which its result depends on."""

    graph: ArchGraph | Sequence[ArchGraph] | None
    input_shape: Sequence[int] | None
    example_inputs: Sequence[Any] | Mapping[str, Any] | None
    classifier: bool


@dataclass(frozen=True, eq=False)
class Job:
    """A prediction that is ready to run.

    names, forms, parameters: what is decoded, in the order of the layout.
    memory: what C++ writes to, or None where a parameter is not just memory that it can write to.
    inversions: weights among `parameters` that stand for what they are computed from.
    """

    plans: list[Plan]
    layout: Layout
    names: list[str]
    forms: list[Form]
    parameters: list[Tensor]
    memory: NDArray[np.int64] | None
    inversions: list[Inversion]

    @torch.no_grad()
    def write(self, source: DecodeSource, ghn: str, precision: str) -> None:
        """The last step: decode into the parameters, all of them or none."""
        try:
            if self.inversions:
                self.write_inverted(source, precision)
            elif self.memory is not None and backend_for(source.hidden) == "cpp" and is_plain(source):
                decode_to(source, self.layout.targets, self.memory, self.parameters)
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


class GHN(nn.Module):
    """A Graph HyperNetwork: predicts all parameters of networks that nobody has trained.

    Configurations (the arguments are those of the published checkpoints): GHN-2 is the default; GHN-1 is
    `ve=False, layernorm=False, weight_norm=False`; the MLP baseline is `hypernet="mlp"`.
    Source: Parameter Prediction for Unseen Deep Architectures (Knyazev et al., NeurIPS 2021).

    Args:
        max_shape: (out, in, S, S), the largest kernel that is decoded; larger parameters repeat it.
        num_classes: the classes of the data set it is for.
        hypernet: "gatedgnn" for a gated sweep over the graph, "mlp" for none.
        decoder: "conv", the only one there is.
        weight_norm: normalize predicted parameters by their fan-in.
        ve: virtual edges, up to 50 hops.
        layernorm: a layer norm over node states after the sweep.
        hid: the width of node states; a multiple of 4.

    Raises:
        ConfigError: an argument has no meaning; the message says what is accepted.
    """

    def __init__(
        self,
        max_shape: Sequence[int] = (64, 64, 16, 16),
        num_classes: int = 1000,
        hypernet: str = "gatedgnn",
        decoder: str = "conv",
        weight_norm: bool = True,
        ve: bool = True,
        layernorm: bool = True,
        hid: int = 32,
    ) -> None:
        super().__init__()
        check_config(max_shape, num_classes, hypernet, decoder, hid)
        for name, value in (("weight_norm", weight_norm), ("ve", ve), ("layernorm", layernorm)):
            if not isinstance(value, bool):
                raise ConfigError(f"{name} is {value!r}; True and False are accepted")
        rows, columns, height, width = (int(size) for size in max_shape)
        shape = (rows, columns, height, width)
        self.config = {
            "max_shape": shape,
            "num_classes": num_classes,
            "hypernet": hypernet,
            "decoder": decoder,
            "weight_norm": weight_norm,
            "ve": ve,
            "layernorm": layernorm,
            "hid": hid,
        }
        self.weight_norm, self.num_classes = weight_norm, num_classes
        self.name = "GHN"
        self.trained_on: checkpoints.TrainedOn | None = None
        self.epoch: int | None = None
        self.checked: WeightState = None  # the weights that are known to be finite, and their versions
        self.rounding = "float32"
        if layernorm:
            self.ln = nn.LayerNorm(hid)
        # Published checkpoints call this table `embed`, which is the name of a public method here (`PUBLISHED_NAMES`).
        self.primitive_embedding = nn.Embedding(len(PRIMITIVES), hid)
        self.shape_enc = ShapeEncoder(hid, num_classes, height)
        self.gnn = GatedSweep(hid, ve) if hypernet == "gatedgnn" else NodeMlp(hid)
        self.decoder = ConvDecoder(hid, shape, num_classes)
        self.vector_length = max(rows, columns)
        self.decoder_1d = Mlp(hid, 2 * hid, 2 * self.vector_length, last_relu=False)
        self.bias_class = nn.Sequential(nn.ReLU(), nn.Linear(self.vector_length, num_classes))
        self.register_load_state_dict_pre_hook(take_published_names)

    @property
    def precision(self) -> str:
        """How the operands of the decoder's last product may be rounded on a GPU: "float32" (they are not), "tf32" or
        "bfloat16". Sums, and everything else, are float32 in any case.
        """
        return self.rounding

    @precision.setter
    def precision(self, value: str) -> None:
        if value not in PRECISIONS:
            raise ConfigError(f"precision is {value!r}; {', '.join(map(repr, PRECISIONS))} are accepted")
        self.rounding = value

    # Prediction ----------------------------------------------------------------------------------------------------

    @overload
    def predict(self, model: M, *, report: Literal[False] = False, **options: Unpack[Options]) -> M: ...
    @overload
    def predict(self, model: S, *, report: Literal[False] = False, **options: Unpack[Options]) -> S: ...
    @overload
    def predict(self, model: M, *, report: Literal[True], **options: Unpack[Options]) -> tuple[M, Report]: ...
    @overload
    def predict(self, model: S, *, report: Literal[True], **options: Unpack[Options]) -> tuple[S, list[Report]]: ...
    @overload
    def predict(self, model: M, *, report: bool, **options: Unpack[Options]) -> M | tuple[M, Report]: ...
    @overload
    def predict(self, model: S, *, report: bool, **options: Unpack[Options]) -> S | tuple[S, list[Report]]: ...
    def predict(
        self,
        model: nn.Module | Sequence[nn.Module],
        *,
        graph: ArchGraph | Sequence[ArchGraph] | None = None,
        input_shape: Sequence[int] | None = None,
        example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
        classifier: bool = True,
        report: bool = False,
    ) -> Any:
        """Predict a model's parameters and write them into the model.

        Nothing is written before everything that can fail has succeeded. Batch statistics are not predicted:
        `ghnfast.calibrate` sets them from images, before evaluation.

        Args:
            model: the model, on any device, its parameters float32, float64, float16 or bfloat16; or a list of models,
                which is one batch.
            graph: what `ghnfast.trace(model)` returned, for models that were traced before; one per model.
            input_shape, example_inputs: see `ghnfast.trace`.
            classifier: whether the classification layer is predicted too.
            report: also return what was predicted and what was not.

        Returns:
            What was given as `model`; with `report=True` the pair of it and a `Report` (a list of them for a list).

        Raises:
            TraceError: the model cannot be traced.
            PredictError: the prediction failed; no parameter has changed.
        """
        return self.run(model, graph, input_shape, example_inputs, classifier, report, stacklevel=3)

    def other_domain(self, graph: ArchGraph) -> str | None:
        """What is to be said where a model takes other images, or has other classes, than the GHN was trained for.

        None where both are the same, or not known.
        """
        if self.trained_on is None:
            return None
        data, known = self.trained_on
        shape, classes = graph.input_shape or known, graph.num_classes or self.num_classes
        if (shape, classes) == (known, self.num_classes):
            return None
        sizes, sizes_known = ("x".join(map(str, each)) for each in (shape, known))
        return (
            f"{self.name} was trained on {data}, images of {sizes_known} in {self.num_classes} classes, and the model "
            f"is for {sizes} in {classes}: the parameters have the right scale, but know nothing of its images"
        )

    def run(
        self,
        model: nn.Module | Sequence[nn.Module],
        graph: ArchGraph | Sequence[ArchGraph] | None,
        input_shape: Sequence[int] | None,
        example_inputs: Any,
        classifier: bool,
        report: bool,
        stacklevel: int,
    ) -> Any:
        """`predict`, whose warnings are about the caller so many frames up.

        Writing comes last: what is said and returned is ready before it.
        """
        single = isinstance(model, nn.Module)
        models: list[nn.Module] = as_list(nn.Module, model, "model")
        if not models:
            raise PredictError("an empty list of models was given; one model or more is accepted")
        members = [members_of(model) for model in models]
        if graph is None:
            graphs = [trace_members(*each, input_shape, example_inputs) for each in zip(models, members, strict=True)]
        else:
            graphs = graphs_for(models, graph)
        job, source = self.compute(models, members, graphs, classifier)
        notice = None if self.trained_on is None else next(filter(None, map(self.other_domain, graphs)), None)
        if notice is not None:
            hint = (
                "Pass input_shape=(channels, height, width) if it takes others, or another ghn, such as 'ghn2-imagenet'"
            )
            warnings.warn(f"{notice}. {hint}", DomainWarning, stacklevel=stacklevel)
        reports = [make_report(plan) for plan in job.plans] if report else []
        result = (model, reports[0] if single else reports) if report else model
        job.write(source, self.name, self.precision)
        return result

    def forward(self, graphs: ArchGraph | Sequence[ArchGraph]) -> list[dict[str, Tensor]]:
        """The parameters of networks with these graphs, differentiable: for `torch.func.functional_call`, in training.

        Parameters without a path between input and output have no node, and are not predicted. Of position encodings
        that begin with rows for tokens, which are not predicted either, those rows are zero. Parts of parameters, and
        weights that are computed from others, are left out: they are no parameters.

        Returns:
            For each graph {name: float tensor in the parameter's shape}.
        """
        batch = GraphBatch(as_list(ArchGraph, graphs, "graphs"))
        slots = [slots_of(graph) for graph in batch.graphs]
        layout = lay_out(self.table_of_batch(batch, slots, [slice(None)] * len(slots)), self.sizes)
        native = self.native()
        source = self.decode_source(self.node_states(batch, native), layout, native)
        values = decode(source, layout.targets, self.precision)
        owners = [(graph, slot) for graph, own in enumerate(slots) for slot in range(len(own.names))]
        found: list[dict[str, Tensor]] = [{} for _ in slots]
        for index, value in zip(layout.order.tolist(), values, strict=True):
            graph, slot = owners[index]
            if slots[graph].parameters_of(slots[graph].names[slot]) != (slots[graph].names[slot],):
                continue
            found[graph][slots[graph].names[slot]] = shaped(value, slots[graph].forms[slot])
        return found

    @overload
    def embed(
        self,
        model: nn.Module | ArchGraph,
        *,
        input_shape: Sequence[int] | None = None,
        example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    ) -> Tensor: ...
    @overload
    def embed(
        self,
        model: Sequence[nn.Module | ArchGraph] | Sequence[nn.Module] | Sequence[ArchGraph],
        *,
        input_shape: Sequence[int] | None = None,
        example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    ) -> list[Tensor]: ...
    def embed(
        self,
        model: nn.Module | ArchGraph | Sequence[nn.Module | ArchGraph] | Sequence[nn.Module] | Sequence[ArchGraph],
        *,
        input_shape: Sequence[int] | None = None,
        example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    ) -> Tensor | list[Tensor]:
        """What the decoder reads: the final state of every node.

        In training mode the result is differentiable. In evaluation mode, which is that of a GHN from `ghnfast.load`,
        nobody differentiates: nothing is recorded, which is faster and lets `.numpy()` work.

        Args:
            model: a model, its graph, or a list of either, which is one batch.
            input_shape, example_inputs: see `ghnfast.trace`.

        Returns:
            (nodes, hid), in the node order of the graph; for a list, a list of these, one for each graph.
        """
        items: list[nn.Module | ArchGraph] = as_list((nn.Module, ArchGraph), model, "model")
        graphs = [
            item if isinstance(item, ArchGraph) else trace(item, input_shape=input_shape, example_inputs=example_inputs)
            for item in items
        ]
        batch = GraphBatch(graphs)
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            states = self.node_states(batch, self.native())
        return (
            states if isinstance(model, (nn.Module, ArchGraph)) else list(states.split(np.diff(batch.offsets).tolist()))
        )

    def node_states(self, batch: GraphBatch, native: Native | None) -> Tensor:
        """The final states of all nodes of a batch: (nodes, hid)."""
        if native is not None:
            topology = batch.topology(self.gnn.cutoff).native
            threads = torch.get_num_threads()
            return torch.from_numpy(native.node_states(topology, batch.primitives, batch.shape_table, threads))
        states = self.gnn(self.initial_states(batch), batch)
        return self.ln(states) if self.config["layernorm"] else states

    def initial_states(self, batch: GraphBatch) -> Tensor:
        """The embedding of every node by its primitive and shape: (nodes, hid)."""
        primitives = torch.from_numpy(batch.primitives).long().to(next(self.parameters()).device)
        embedded: Tensor = self.primitive_embedding(primitives)
        return embedded + self.shape_enc(batch.shape_table)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and configuration to a .safetensors file, or to a .pt file in the published layout.

        Raises:
            CheckpointError: the suffix is another one, or the file cannot be written.
        """
        weights = with_published_names(self.state_dict())
        content = checkpoints.Checkpoint(dict(self.config), weights, self.name, self.epoch, self.trained_on)
        checkpoints.write(path, content)

    @torch.no_grad()
    def compute(
        self, models: Sequence[nn.Module], members: Sequence[Members], graphs: Sequence[ArchGraph], classifier: bool
    ) -> tuple[Job, DecodeSource]:
        """What is to be written, and everything that it is decoded from."""
        batch = GraphBatch(graphs)
        job = self.prepare(models, members, batch, classifier)
        own = members_of(self)
        state = state_of(own.parameters)
        self.check_weights(own, state)
        native = self.native(own, state)
        with torch.autocast(own.parameters[0].device.type, enabled=False):
            return job, self.decode_source(self.node_states(batch, native), job.layout, native)

    def prepare(
        self, models: Sequence[nn.Module], members: Sequence[Members], batch: GraphBatch, classifier: bool
    ) -> Job:
        """Everything that needs no computation: what is predicted, how, and where it is written."""
        plans = [plan_for(*each) for each in zip(models, members, batch.graphs, strict=True)]
        if not classifier:
            plans = [plan.without_classifier() for plan in plans]
        if not any(plan.parameters for plan in plans):
            raise PredictError("nothing is predicted: " + nothing_reason(plans))
        table = self.table_of_batch(batch, [plan.slots for plan in plans], [plan.rows for plan in plans])
        found = np.concatenate([plan.memory for plan in plans])
        slots = [(plan.slots, row) for plan in plans for row in plan.rows.tolist()]
        parameters = [parameter for plan in plans for parameter in plan.parameters]
        decoded = rows_to_decode(plans)
        table, found = table[decoded], found[decoded]
        layout = lay_out(table, self.sizes)
        order = decoded[layout.order].tolist()
        return Job(
            plans,
            layout,
            [slots[index][0].names[slots[index][1]] for index in order],
            [slots[index][0].forms[slots[index][1]] for index in order],
            [parameters[index] for index in order],
            memory_of(table, found, layout) if found[:, 1].min() >= 0 else None,
            [inversion for model, plan in zip(models, plans, strict=True) for inversion in inversions_of(model, plan)],
        )

    def table_of_batch(
        self, batch: GraphBatch, slots: Sequence[Slots], rows: Sequence[NDArray[np.int64] | slice]
    ) -> NDArray[np.int64]:
        """The rows that are wanted of each graph's slots, as `lay_out` takes them."""
        tables = [table_of(own, self.sizes)[wanted].copy() for own, wanted in zip(slots, rows, strict=True)]
        for table, offset in zip(tables, batch.offsets, strict=False):
            table[:, NODE] += offset
        return np.concatenate(tables)

    @property
    def sizes(self) -> Sizes:
        rows, columns, cells, _ = self.decoder.max_shape
        return Sizes(rows, columns, cells, self.num_classes, self.weight_norm)

    def decode_source(self, states: Tensor, layout: Layout, native: Native | None) -> DecodeSource:
        """Everything but the last step of decoding: the hidden states of products, and the other blocks."""
        if native is None:
            return self.decode_source_by_modules(states, layout)
        arrays = native.decode_inputs(
            states.numpy(), layout.nodes, layout.calls, layout.hidden_rows, layout.elements, torch.get_num_threads()
        )
        hidden, blocks = map(torch.from_numpy, arrays)
        for call in layout.calls:
            if call.decoder == Decoder.WHOLE:
                block = self.decode_blocks(call, states[layout.nodes[call.begin : call.begin + call.count]]).flatten()
                blocks[call.first : call.first + len(block)] = block
        return DecodeSource(hidden, *self.decoder.last, blocks)

    def decode_source_by_modules(self, states: Tensor, layout: Layout) -> DecodeSource:
        """`decode_source` in PyTorch: on any device, and differentiable."""
        nodes = torch.from_numpy(layout.nodes).to(states.device)
        cells, blocks = [], []
        for call in layout.calls:
            chosen = states[nodes[call.begin : call.begin + call.count]]
            if call.decoder == Decoder.KERNEL:
                cells.append(self.decoder.cells(chosen, call.height, call.width))
            else:
                blocks.append(self.decode_blocks(call, chosen).flatten())
        weight, bias = self.decoder.last
        return DecodeSource(
            self.decoder.hidden(torch.cat(cells)) if cells else weight.new_empty(0, weight.shape[2]),
            weight,
            bias,
            torch.cat(blocks) if blocks else weight.new_empty(0),
        )

    def native(self, members: Members | None = None, state: WeightState = None) -> Native | None:
        """See `native_for`; what a subclass changes is its own."""
        if members is None:
            members = members_of(self)
            check_readable(self, members)
        return native_for(self, members, state) if type(self) is GHN else None

    def decode_blocks(self, call: _C.DecoderCall, states: Tensor) -> Tensor:
        """The blocks of one call that are no products, slot by slot."""
        if call.decoder == Decoder.CLASS_WEIGHT:
            return self.decoder.classifier(states, call.columns)
        if call.decoder == Decoder.WHOLE:
            position = call.cells == 1
            rows = 1 if position else call.rows
            kernels: Tensor = self.decoder(states, rows, call.columns, (call.height, call.width))
            # (count, 1, columns, s, s) -> (count, patches, columns)
            return kernels.squeeze(1).flatten(2).transpose(1, 2) if position else kernels
        vectors: Tensor = self.decoder_1d(states)
        if call.decoder != Decoder.CLASS_BIAS:
            return vectors
        biases: Tensor = self.bias_class(vectors.view(len(states), 2, self.vector_length)[:, 1])
        return biases

    def check_weights(self, members: Members, state: WeightState) -> None:
        """Fail where a weight cannot be read or is not finite: gates and normalizations could hide that.

        Once for each state of the weights, for reading them all takes a good part of a small prediction. Torch counts
        writes, but not those through `.data`: after a first prediction, an infinite weight that came that way may hide.

        Args:
            members, state: the GHN's own.
        """
        if state is not None and state == self.checked:
            return
        check_readable(self, members)
        weights = members.parameters
        if backend_for(weights[0]) == "cpp":
            fine = _C.all_finite(as_arrays(*weights), torch.get_num_threads())
        else:
            # A sum is infinite or NaN where any element is, and far cheaper to look at.
            fine = bool(torch.isfinite(torch.stack([weight.sum() for weight in weights])).all())
        named = zip(members.names, weights, strict=True)
        broken = [] if fine else [name for name, weight in named if not torch.isfinite(weight).all()]
        if broken:
            raise PredictError(
                f"these weights of {self.name} are not finite: {', '.join(broken[:3])}; finite weights are accepted. "
                "No parameter was changed."
            )
        self.checked = state


# The names of weights in published checkpoints, which `GHN.save` writes too, where they differ from ours. Both load.
PUBLISHED_NAMES = {"primitive_embedding.weight": "embed.weight"}


def with_published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A GHN's weights by published names, from either; under both where a name is taken, which is an error later."""
    renamed = {own: published for own, published in PUBLISHED_NAMES.items() if published not in state}
    return {renamed.get(name, name): value for name, value in state.items()}


def take_published_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename what `load_state_dict` is about to load; `state` is its own copy."""
    for own, published in PUBLISHED_NAMES.items():
        if prefix + published in state and prefix + own not in state:
            state[prefix + own] = state.pop(prefix + published)


def check_readable(ghn: GHN, members: Members) -> None:
    for name, weight in zip(members.names, members.parameters, strict=True):
        if (reason := unreadable(weight)) is not None:
            raise PredictError(f"the weight {name} of {ghn.name} {reason}")


def inversions_of(model: nn.Module, plan: Plan) -> list[Inversion]:
    """The weights of a plan that stand for what they are computed from."""
    named = [(plan.slots.names[row], values) for row, values in zip(plan.rows.tolist(), plan.parameters, strict=True)]
    weights = plan.slots.reparametrized
    return [
        Inversion(model.get_submodule(weights[name].module), weights[name], values)
        for name, values in (named if weights else ())
        if name in weights
    ]


def shaped(value: Tensor, form: Form) -> Tensor:
    """A decoded value (out, in, cells) as the parameter that it is."""
    if form.tokens:
        value = F.pad(value.flatten(1), (0, 0, form.tokens, 0))
    return value.reshape(form.parameter_shape)


def graphs_for(models: Sequence[nn.Module], given: ArchGraph | Sequence[ArchGraph]) -> list[ArchGraph]:
    graphs: list[ArchGraph] = as_list(ArchGraph, given, "graph")
    if len(graphs) != len(models):
        raise PredictError(f"{len(graphs)} graphs were given for {len(models)} models; one per model is accepted")
    return graphs


def as_list(accepted: Any, given: Any, what: str) -> list[Any]:
    """`given` as a list of instances of `accepted`."""
    kinds = accepted if isinstance(accepted, tuple) else (accepted,)
    if isinstance(given, kinds):
        return [given]
    items = list(given) if isinstance(given, (list, tuple)) else [given]
    wrong = next((item for item in items if not isinstance(item, kinds)), None)
    if wrong is not None or None in items:
        names = " or ".join("torch.nn.Module" if kind is nn.Module else f"ghnfast.{kind.__name__}" for kind in kinds)
        raise PredictError(f"{what} is or has {wrong!r:.80}; a {names}, or a list of them, is accepted")
    return items


MOST_CLASSES = 1 << 22  # there is a row for each number of channels up to it
MOST_ELEMENTS = 1 << 33


def check_config(max_shape: Sequence[int], num_classes: int, hypernet: str, decoder: str, hid: int) -> None:
    sizes = list(max_shape) if isinstance(max_shape, (tuple, list)) else []
    if len(sizes) != 4 or not all(is_count(size) for size in sizes) or sizes[2] != sizes[3]:
        raise ConfigError(f"max_shape is {max_shape}; four positive sizes (out, in, S, S) are accepted")
    if not is_count(num_classes) or num_classes > MOST_CLASSES:
        raise ConfigError(f"num_classes is {num_classes!r}; an integer of 1 to {MOST_CLASSES} is accepted")
    if hypernet not in ("gatedgnn", "mlp"):
        raise ConfigError(f"hypernet is {hypernet!r}; 'gatedgnn' and 'mlp' are accepted")
    if decoder != "conv":
        raise ConfigError(f"decoder is {decoder!r}; 'conv' is accepted")
    if not is_count(hid) or hid % 4:
        raise ConfigError(f"hid is {hid!r}; a positive multiple of 4 is accepted")
    # The two largest layers: the first of the decoder of kernels, and its last.
    if (elements := 4 * hid * hid * sizes[2] ** 2 + 8 * hid * sizes[0] * sizes[1]) > MOST_ELEMENTS:
        raise ConfigError(
            f"max_shape is {tuple(sizes)} and hid is {hid}, which is {elements} weights; at most {MOST_ELEMENTS} are "
            "accepted"
        )


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_plausible(read: checkpoints.Checkpoint) -> None:
    """Every number of a configuration is at most how many weights there are: there is a bias of this length.

    Even without memory for weights, making a GHN takes time and memory that grow with these numbers.

    Raises:
        CheckpointError: a number is larger.
    """
    elements = sum(weight.numel() for weight in read.state_dict.values() if isinstance(weight, Tensor))
    for name, value in read.config.items():
        sizes = [size for size in (value if isinstance(value, tuple) else (value,)) if is_count(size)]
        if math.prod(sizes[:2]) > elements or math.prod(sizes[2:]) > elements:
            raise CheckpointError(
                f"config['{name}'] in {read.source} is {value!r:.80}, and its weights have {elements} elements in all; "
                "the configuration of these weights is accepted"
            )


def from_checkpoint(read: checkpoints.Checkpoint) -> GHN:
    """A GHN with the configuration and weights of a checkpoint.

    Raises:
        CheckpointError: the configuration has no meaning, or the weights do not fit it.
    """
    known = ("max_shape", "num_classes", "hypernet", "decoder", "weight_norm", "ve", "layernorm", "hid")
    unknown = sorted(set(read.config) - set(known))
    if unknown:
        raise CheckpointError(
            f"the configuration in {read.source} has {', '.join(unknown)}; accepted are {', '.join(known)}"
        )
    check_plausible(read)
    try:
        # Nothing is allocated before the weights are known to fit: a broken configuration could ask for any amount.
        with torch.device("meta"):
            ghn = GHN(**read.config)
    except (TypeError, ValueError, RuntimeError, MemoryError, OverflowError) as error:
        raise CheckpointError(f"the configuration in {read.source} has no meaning: {error}") from error
    weights = checkpoints.fitted_weights(ghn, read, with_published_names)
    ghn = ghn.to_empty(device="cpu")
    ghn.load_state_dict(weights)
    ghn.name, ghn.epoch, ghn.trained_on = read.source, read.epoch, read.trained_on
    return ghn.eval()
