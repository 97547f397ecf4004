"""The Graph HyperNetwork: from graphs to predicted parameters."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, overload

import numpy as np
import torch
from torch import Tensor, nn

from .. import _C, checkpoints
from ..errors import ConfigError, PredictError
from ..graph import PRIMITIVES, ArchGraph, GraphBatch, batch_of
from ..ops.attention import relations_of
from ..ops.backend import HALVES, are_recorded, as_arrays, is_plain
from ..ops.decode import PRECISIONS, DecodeSource
from ..prediction import DecoderKind, LastStep, Layout, Memory, Options, Report, Request, run, values_of
from ..prediction.predictor import as_list
from ..tracing import trace
from ..tracing.members import Members, members_of
from .config import GHNConfig
from .device import Begun, DeviceForm
from .embedding import ShapeEncoder
from .host import HostForm
from .hub import Pretrained
from .loading import check_readable, made_of
from .names import take_published_names, with_published_names
from .native import Native, NativeForm, NativeLast, Parts, WeightState, state_of, weights_backend
from .registry import DECODERS, HYPERNETS, states_of
from .sweep import Mlp

if TYPE_CHECKING:
    from typing_extensions import Unpack

M = TypeVar("M", bound=nn.Module)
S = TypeVar("S", bound=Sequence[nn.Module])
P = ParamSpec("P")


def with_settings(
    config: Callable[P, GHNConfig],
) -> Callable[[Callable[[GHN, GHNConfig], None]], Callable[Concatenate[GHN, P], None]]:
    """Makes a constructor that takes a configuration one that takes its settings."""

    def decorate(construct: Callable[[GHN, GHNConfig], None]) -> Callable[Concatenate[GHN, P], None]:
        def init(self: GHN, /, *args: P.args, **kwargs: P.kwargs) -> None:
            construct(self, config(*args, **kwargs))

        own = inspect.signature(config)
        self = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        signature = own.replace(parameters=[self, *own.parameters.values()], return_annotation=None)
        functools.update_wrapper(init, construct)
        init.__signature__ = signature  # type: ignore[attr-defined]
        return init

    return decorate


class GHN(Pretrained):
    """A Graph HyperNetwork: predicts all parameters of networks that nobody has trained.

    Configurations (the arguments are those of the published checkpoints): GHN-2 is the default; GHN-1 is
    `ve=False, layernorm=False, weight_norm=False`; the MLP baseline is `hypernet="mlp"`; GHN-3-T is
    `hypernet="graphormer", hid=64, layers=3, heads=8`.
    Sources: Parameter Prediction for Unseen Deep Architectures (Knyazev et al., NeurIPS 2021); Can We Scale
    Transformers to Predict Parameters of Diverse ImageNet Models? (Knyazev et al., ICML 2023).

    Args:
        max_shape: (out, in, S, S), the largest kernel that is decoded; larger parameters repeat it.
        num_classes: the classes of the data set it is for.
        hypernet: what updates node states: "gatedgnn", a gated sweep over the graph; "mlp", nothing but an MLP a node;
            "graphormer", layers of attention; or a name in `ghnfast.nn.HYPERNETS`.
        decoder: "conv", or a name in `ghnfast.nn.DECODERS`.
        weight_norm: normalize predicted parameters by their fan-in.
        ve: virtual edges, up to 50 hops.
        layernorm: a layer norm over the final node states.
        hid: the width of node states; a multiple of 4.
        layers, heads: of attention, with "graphormer" alone; heads divide hid.

    Raises:
        ConfigError: an argument has no meaning; the message says what is accepted.
    """

    @with_settings(GHNConfig)
    def __init__(self, settings: GHNConfig) -> None:
        super().__init__()
        self.settings = settings
        self.weight_norm, self.num_classes = settings.weight_norm, settings.num_classes
        self.name = "GHN"
        self.trained_on: checkpoints.TrainedOn | None = None
        self.epoch: int | None = None
        # The weights that are known to be finite, and their versions; and the largest of the products'.
        self.checked: tuple[WeightState, float | None] = None, None
        self.native_form, self.device_form, self.host_form = NativeForm(), DeviceForm(), HostForm()
        self.rounding = "float32"
        hid, (rows, columns, height, _) = settings.hid, settings.max_shape
        if settings.layernorm:
            self.ln = nn.LayerNorm(hid)
        # Published checkpoints call this table `embed`, which is the name of a public method here (`PUBLISHED_NAMES`).
        self.primitive_embedding = nn.Embedding(len(PRIMITIVES), hid)
        self.shape_enc = ShapeEncoder(hid, settings.num_classes, height)
        self.gnn = HYPERNETS[settings.hypernet](settings)
        self.decoder = DECODERS[settings.decoder](settings)
        self.vector_length = max(rows, columns)
        self.decoder_1d = Mlp(hid, 2 * hid, 2 * self.vector_length, last_relu=False)
        self.bias_class = nn.Sequential(nn.ReLU(), nn.Linear(self.vector_length, settings.num_classes))
        self.gnn.initialize(self)
        self.register_load_state_dict_pre_hook(take_published_names)

    def __repr__(self) -> str:
        kind = f"{self.settings.hypernet}, hid {self.settings.hid}"
        return f"GHN({self.name}: {kind}, {checkpoints.images_in_words(self.trained_on)}{self.num_classes} classes)"

    @property
    def config(self) -> dict[str, Any]:
        """The settings as checkpoints have them: what makes an equal GHN, `GHN(**ghn.config)`."""
        return self.settings.as_dict()

    @property
    def precision(self) -> str:
        """How the operands of the decoder's last product may be rounded: "float32" (they are not), "tf32" (on a GPU) or
        "bfloat16" (there, and on a CPU with AVX-512 BF16: kernels of several cells). A value, a sum of w x, is wrong by
        (2 u + u^2) sum |w x| at most, u being 2^-11 or 2^-8: up to 1 % of a kernel's largest, of a ResNet-50's 3e-4 and
        3e-3. All else is float32, but for what torch multiplies in training, which is as `torch.backends` says: not
        rounded. On a GPU, tensor cores make a product of float32 of three in TF32, as exactly.
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
        return run(self, model, graph, input_shape, example_inputs, classifier, report, stacklevel=3)

    def forward(self, graphs: ArchGraph | Sequence[ArchGraph]) -> list[dict[str, Tensor]]:
        """The parameters of networks with these graphs, differentiable: for `torch.func.functional_call`, in training.

        Parameters without a path between input and output have no node, and are not predicted. Rows for tokens, in
        front of position encodings, are zero, for they are not predicted either: `ghnfast.training.run_network` puts a
        network's own there. Parts of parameters, and weights computed from others, are left out: they are none.

        Returns:
            For each graph {name: float tensor in the parameter's shape}.
        """
        batch = batch_of(as_list(ArchGraph, graphs, "graphs"))
        if not are_recorded(self.parameters()) and (begun := self.begin(batch, ahead=False)).device is not None:
            return values_of(batch, self.request, lambda laid: self.source(batch, laid, None, begun)[0], self.precision)
        native = self.native()
        if (widened := self.widened(native)) is not None:
            return widened(batch.graphs)
        states = self.node_states(batch, native)
        return values_of(batch, self.request, lambda layout: self.decode_source(states, layout, native), self.precision)

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
        batch = batch_of(graphs)
        states = self.embed_batch(batch)
        return (
            states if isinstance(model, (nn.Module, ArchGraph)) else list(states.split(np.diff(batch.offsets).tolist()))
        )

    def embed_batch(self, batch: GraphBatch) -> Tensor:
        """`embed` for a batch of graphs: (nodes, hid), one graph after the other."""
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            native = self.native()
            return (self.widened(native) or self).node_states(batch, native)

    def node_states(self, batch: GraphBatch, native: Native | None) -> Tensor:
        """The final states of all nodes of a batch: (nodes, hid)."""
        if native is not None and native.states:
            topology, threads = batch.topology(self.gnn.cutoff), torch.get_num_threads()
            pairs = relations_of(topology).native if self.gnn.attends else None
            given = topology.native, batch.primitives, batch.shape_table, threads, pairs
            return torch.from_numpy(native.core.node_states(*given))
        from_host = self.host_form.node_states(self, members_of(self), batch) if type(self) is GHN else None
        if from_host is not None:
            return from_host
        states = states_of(self.gnn, self.initial_states(batch), batch)
        return self.ln(states) if self.settings.layernorm else states

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

    @property
    def request(self) -> Request:
        """What slots ask the decoders for."""
        return self.decoder.request

    @torch.no_grad()
    def begin(self, batch: GraphBatch, ahead: bool = True) -> Begun:
        """What is known of the GHN before a prediction; on a GPU, with `ahead`, the forward pass can be under way."""
        own = members_of(self)
        state = state_of(own.parameters)
        device = self.device_form.of(self, own, state) if type(self) is GHN else None
        return Begun(own, state, device, device.begin(batch) if ahead and device is not None else None)

    @torch.no_grad()
    def source(
        self, batch: GraphBatch, layout: Layout, memory: Memory | None = None, begun: Begun | None = None
    ) -> tuple[DecodeSource, LastStep | None]:
        """Everything but the last step of decoding, for a prediction; and that step, where there is more to do in it.

        Args:
            memory: what that step is to write to, where it is known.
            begun: what `begin` returned for the batch, in this state of the weights.

        Raises:
            PredictError: a weight cannot be read or is not finite.
        """
        own, state, device, use = begun or self.begin(batch)
        if device is not None:
            if not device.finite:
                check_readable(self.name, own)
            from_host = None if use is not None else self.host_form.node_states(self, own, batch)
            return device.source(batch, layout, memory, functools.partial(self.refuse, own), from_host, use)
        largest_weight = self.check_weights(own, state)
        native = self.native(own, state)
        if (widened := self.widened(native)) is not None:
            return widened.source(batch, layout)
        with torch.autocast(own.parameters[0].device.type, enabled=False):
            states = self.node_states(batch, native)
            if native is None or not is_plain([states]):
                return self.decode_source_by_modules(states, layout), None
            return self.inputs(states, layout, native), NativeLast(native.core, layout.calls, largest_weight)

    def decode_source(self, states: Tensor, layout: Layout, native: Native | None) -> DecodeSource:
        """Everything but the last step of decoding: the hidden states of products, and the other blocks."""
        # States from modules, which may have hooks of their own, need not be plain numbers.
        if native is None or not is_plain([states]):
            return self.decode_source_by_modules(states, layout)
        source = self.inputs(states, layout, native)
        NativeLast(native.core, layout.calls, None).complete(source)
        return source._replace(hidden=source.hidden[: layout.hidden_rows])

    def inputs(self, states: Tensor, layout: Layout, native: Native) -> DecodeSource:
        """`decode_source` in C++, without the weights of classification layers: `NativeLast` makes them."""
        arrays = native.core.decode_inputs(
            states.numpy(), layout.nodes, layout.calls, layout.hidden_rows, layout.elements, torch.get_num_threads()
        )
        hidden, blocks = map(torch.from_numpy, arrays)
        for call in layout.calls:
            if call.decoder == DecoderKind.WHOLE:
                block = self.decode_blocks(call, states[layout.nodes[call.begin : call.begin + call.count]]).flatten()
                blocks[call.first : call.first + len(block)] = block
        return DecodeSource(hidden, *self.decoder.last, blocks)

    def decode_source_by_modules(self, states: Tensor, layout: Layout) -> DecodeSource:
        """`decode_source` in PyTorch: on any device, and differentiable."""
        nodes = torch.from_numpy(layout.nodes).to(states.device)
        products: list[tuple[_C.DecoderCall, Tensor]] = []
        blocks: list[Tensor] = []
        for call in layout.calls:
            chosen = states[nodes[call.begin : call.begin + call.count]]
            if call.decoder == DecoderKind.KERNEL:
                products.append((call, chosen))
            else:
                blocks.append(self.decode_blocks(call, chosen).flatten())
        weight, bias = self.decoder.last
        hidden = self.decoder.hidden_rows(*zip(*products, strict=True)) if products else None
        return DecodeSource(
            weight.new_empty(0, weight.shape[2]) if hidden is None else hidden,
            weight,
            bias,
            torch.cat(blocks) if blocks else weight.new_empty(0),
        )

    @property
    def parts(self) -> Parts:
        norm = self.ln if self.settings.layernorm else None
        return Parts(
            self.primitive_embedding, self.shape_enc, self.gnn, norm, self.decoder, self.decoder_1d, self.bias_class
        )

    def native(self, members: Members | None = None, state: WeightState = None) -> Native | None:
        """See `NativeForm.of`; what a subclass changes is its own."""
        if members is None:
            members = members_of(self)
            check_readable(self.name, members)
        return self.native_form.of(self.parts, members, state) if type(self) is GHN else None

    def widened(self, native: Native | None) -> GHN | None:
        """A copy with weights in float32, where half-precision ones are to be computed with by the modules.

        None where they are not, or where gradients are recorded: then the modules compute in half precision.
        """
        weights = list(self.parameters())
        if native is not None or are_recorded(weights) or not any(weight.dtype in HALVES for weight in weights):
            return None
        return copy.deepcopy(self).float()

    def decode_blocks(self, call: _C.DecoderCall, states: Tensor) -> Tensor:
        """The blocks of one call that are no products, slot by slot."""
        if call.decoder in (DecoderKind.CLASS_WEIGHT, DecoderKind.WHOLE):
            return self.decoder.blocks(call, states)
        vectors: Tensor = self.decoder_1d(states)
        if call.decoder != DecoderKind.CLASS_BIAS:
            return vectors
        biases: Tensor = self.bias_class(vectors.view(len(states), 2, self.vector_length)[:, 1])
        return biases

    def check_weights(self, members: Members, state: WeightState) -> float | None:
        """Fail where a weight cannot be read or is not finite: gates and normalizations could hide that.

        Once for each state of the weights, for reading them all takes a good part of a small prediction. Torch counts
        writes, but not those through `.data`: after a first prediction, an infinite weight that came that way may hide.

        Args:
            members, state: the GHN's own.

        Returns:
            The largest absolute value of the weight that the last step multiplies with, where it is known.
        """
        known = self.checked
        if state is not None and state == known[0]:
            return known[1]
        check_readable(self.name, members)
        weights = members.parameters
        largest_weight: float | None = None
        if weights_backend(members) == "cpp":
            largest = _C.largest(as_arrays(*weights), torch.get_num_threads())
            fine = math.isfinite(max(largest))
            last = self.decoder.last.weight
            same = [weight.data_ptr() == last.data_ptr() and weight.numel() == last.numel() for weight in weights]
            largest_weight = next((value for value, found in zip(largest, same, strict=True) if found), None)
        else:
            # A sum is infinite or NaN where any element is, and far cheaper to look at.
            fine = bool(torch.isfinite(torch.stack([weight.sum() for weight in weights])).all())
        if not fine:
            self.refuse(members)
        self.checked = state, largest_weight
        return largest_weight

    def refuse(self, members: Members) -> None:
        """Raises an error where weights are not finite, which names them."""
        named = zip(members.names, members.parameters, strict=True)
        broken = [name for name, weight in named if not torch.isfinite(weight).all()]
        if broken:
            raise PredictError(
                f"these weights of {self.name} are not finite: {', '.join(broken[:3])}; finite weights are accepted. "
                "No parameter was changed."
            )


def from_checkpoint(read: checkpoints.Checkpoint, dtype: torch.dtype | None = None) -> GHN:
    """See `made_of`."""
    return made_of(GHN, read, dtype)
