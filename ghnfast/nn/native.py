"""The forward pass of a GHN in C++, up to what the last step of decoding reads.

It stands for a decoder, and for a hypernet that has weights for it; it takes their weights, and knows no GHN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from .. import _C
from ..ops.backend import HALVES, as_arrays, backend_for, is_plain
from ..ops.decode import BFLOAT16, DecodeSource, DecodeTargets, Table
from ..ops.decode.operators import check_finite, counting
from ..tracing.members import Members, has_global_hooks
from .decoder import ConvDecoder
from .embedding import ShapeEncoder
from .graphormer import Attention, EdgeEmbedding, FeedForward, Graphormer, GraphormerLayer
from .linear import own_weights
from .registry import Decoder, Hypernet
from .sweep import GatedSweep, Mlp, NodeMlp

# What changes when weights do, as far as torch counts writes: addresses and versions; None where it does not.
WeightState: TypeAlias = "list[tuple[int, int]] | None"

# The modules whose calls it stands for, of the hypernet and of all else.
NATIVE = (GatedSweep, NodeMlp, Graphormer)
MODULES = {*NATIVE, Mlp, ConvDecoder, ShapeEncoder, nn.Linear, nn.ReLU, nn.Sequential, nn.Conv2d}
MODULES |= {nn.Embedding, nn.LayerNorm, nn.GRUCell, nn.GELU, nn.Identity}
MODULES |= {Attention, EdgeEmbedding, FeedForward, GraphormerLayer}


class Native(NamedTuple):
    """The C++ forward pass. states: whether it computes node states, too, and not only what is decoded from them."""

    core: _C.Ghn[Any]
    states: bool


class NativeLast(NamedTuple):
    """The last step of decoding in C++, which makes the weights of classification layers along with products.

    core: of the GHN. calls: of the decoders. largest_weight: the largest absolute value of the products' weight, where
    it is known.
    """

    core: _C.Ghn[Any]
    calls: Sequence[_C.DecoderCall]
    largest_weight: float | None

    def write(
        self, source: DecodeSource, targets: DecodeTargets, memory: Table, outputs: Sequence[Tensor], precision: str
    ) -> None:
        """See `ghnfast.prediction.job.LastStep`."""
        hidden, blocks = as_arrays(source.hidden, source.blocks)
        threads, counted, rounds = torch.get_num_threads(), counting(outputs), precision == BFLOAT16
        written = self.core.decode(
            self.calls, hidden, blocks, targets.table, memory, threads, counted, self.largest_weight, rounds
        )
        check_finite(written)

    def complete(self, source: DecodeSource) -> None:
        """See `ghnfast.prediction.job.LastStep`."""
        hidden, blocks = as_arrays(source.hidden, source.blocks)
        self.core.class_weights(self.calls, hidden, blocks, torch.get_num_threads())


class Parts(NamedTuple):
    """The submodules of a GHN. vectors: the decoder of vectors; class_bias: what it makes biases of classes with."""

    primitives: nn.Embedding
    shapes: ShapeEncoder
    hypernet: Hypernet
    norm: nn.LayerNorm | None
    decoder: Decoder
    vectors: Mlp
    class_bias: nn.Sequential


class NativeForm:
    """The C++ forward pass of one GHN, which reads the weights in place, and the state of the weights it was made for.

    A copy of a GHN begins without.
    """

    def __init__(self) -> None:
        self.known: tuple[WeightState, Native] | None = None

    def __reduce__(self) -> tuple[type[NativeForm], tuple[()]]:
        return NativeForm, ()

    def of(self, parts: Parts, members: Members, state: WeightState = None) -> Native | None:
        """The C++ forward pass, where it does what the modules do: for numbers in and numbers out on the CPU.

        Args:
            members, state: those of the GHN with these parts; the state where it is known.
        """
        if type(parts.decoder) is not ConvDecoder or weights_backend(members) != "cpp" or has_global_hooks():
            return None
        states = type(parts.hypernet) in NATIVE
        modules = members.modules[1:]
        if not states:
            modules = [module for part in (parts.decoder, parts.vectors, parts.class_bias) for module in part.modules()]
        if not are_untouched(modules) or not is_plain(members.parameters):
            return None
        state = state_of(members.parameters) if state is None else state
        known = self.known
        if known is None or state is None or known[0] != state:
            known = state, Native(make_native(parts, states), states)
            # What was made of half-precision weights would not follow writes that torch does not count.
            self.known = None if has_halves(members) else known
        return known[1]


def has_halves(members: Members) -> bool:
    return any(weight.dtype in HALVES for weight in members.parameters)


def weights_backend(members: Members) -> str:
    """The implementation for a GHN: with weights of half precision on the CPU, it computes in float32."""
    first = members.parameters[0]
    return backend_for(torch.empty(0) if first.is_cpu and first.dtype in HALVES else first)


def state_of(weights: Sequence[Tensor]) -> WeightState:
    return _C.versions(list(weights))


def are_untouched(modules: list[nn.Module]) -> bool:
    """Whether calling any of the modules does what its class says and nothing else."""
    return _C.are_untouched(modules, MODULES)


def make_native(parts: Parts, states: bool) -> _C.Ghn[Any]:
    """Of the parts; without the weights of the hypernet unless it is to compute `states`."""
    encoder, decoder = parts.shapes, parts.decoder
    assert isinstance(decoder, ConvDecoder)
    tables = [parts.primitives.weight, encoder.embed_channel.weight, encoder.embed_spatial.weight]
    norm = [] if parts.norm is None else [parts.norm.weight, parts.norm.bias]
    layers = [decoder.fc[0], decoder.conv[0], decoder.conv[2], decoder.class_layer_predictor[1]]
    layers += [*parts.vectors.linear_layers, parts.class_bias[1]]
    weights = [tensor for layer in layers for tensor in own_weights(layer)]  # of `are_untouched` layers
    kind = _C.GhnDouble if parts.primitives.weight.dtype == torch.float64 else _C.GhnFloat
    rows, columns = decoder.max_shape[:2]
    return kind(
        as_arrays(*tables),
        encoder.channel_rows,
        encoder.spatial_rows,
        as_arrays(*(parts.hypernet.native_weights or ())) if states else [],
        as_arrays(*norm),
        0.0 if parts.norm is None else parts.norm.eps,
        as_arrays(*weights),
        rows,
        columns,
        decoder.centred,
    )
