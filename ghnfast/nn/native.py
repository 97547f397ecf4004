"""The forward pass of a GHN in C++, up to what the last step of decoding reads."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from .. import _C
from ..ops.backend import as_arrays, backend_for, is_plain
from ..tracing.members import Members, has_global_hooks, members_of
from .decoder import ConvDecoder
from .embedding import ShapeEncoder
from .linear import own_weights
from .sweep import GatedSweep, Mlp, NodeMlp

if TYPE_CHECKING:
    from .ghn import GHN

Native: TypeAlias = "_C.Ghn[Any]"
# What changes when weights do, as far as torch counts writes: addresses and versions; None where it does not.
WeightState: TypeAlias = "list[tuple[int, int]] | None"

# The modules of a GHN, whose calls the C++ forward pass stands for.
MODULES = {GatedSweep, NodeMlp, Mlp, ConvDecoder, ShapeEncoder, nn.Linear, nn.ReLU, nn.Sequential, nn.Conv2d}
MODULES |= {nn.Embedding, nn.LayerNorm, nn.GRUCell}
# The C++ forward pass of each GHN, which reads the weights in place, and the state of the weights it was made for.
KNOWN: weakref.WeakKeyDictionary[GHN, tuple[WeightState, Native]] = weakref.WeakKeyDictionary()


def state_of(weights: Sequence[Tensor]) -> WeightState:
    if any(weight.is_inference() for weight in weights):
        return None
    return [(weight.data_ptr(), weight._version) for weight in weights]


def native_for(ghn: GHN, members: Members | None = None, state: WeightState = None) -> Native | None:
    """The C++ forward pass, where it does what the modules do: for numbers in and numbers out on the CPU.

    Args:
        members, state: those of the GHN, where they are known.
    """
    members = members_of(ghn) if members is None else members
    if backend_for(members.parameters[0]) != "cpp":
        return None
    if has_global_hooks() or not all(map(is_untouched, members.modules[1:])):
        return None
    if not is_plain(members.parameters):
        return None
    state = state_of(members.parameters) if state is None else state
    known = KNOWN.get(ghn)
    if known is None or state is None or known[0] != state:
        known = KNOWN[ghn] = state, make_native(ghn)
    return known[1]


def is_untouched(module: nn.Module) -> bool:
    """Whether calling a module does what its class says and nothing else."""
    own = module.__dict__
    return type(module) in MODULES and not (own["_forward_hooks"] or own["_forward_pre_hooks"]) and "forward" not in own


def make_native(ghn: GHN) -> Native:
    encoder, decoder = ghn.shape_enc, ghn.decoder
    tables = [ghn.primitive_embedding.weight, encoder.embed_channel.weight, encoder.embed_spatial.weight]
    sweep = ghn.gnn.weights.flat if isinstance(ghn.gnn, GatedSweep) else ghn.gnn.weights
    norm = [ghn.ln.weight, ghn.ln.bias] if ghn.config["layernorm"] else []
    layers = [decoder.fc[0], decoder.conv[0], decoder.conv[2], decoder.class_layer_predictor[1]]
    layers += [*ghn.decoder_1d.linear_layers, ghn.bias_class[1]]
    weights = [tensor for layer in layers for tensor in own_weights(layer)]  # of `is_untouched` layers
    kind = _C.GhnFloat if ghn.primitive_embedding.weight.dtype == torch.float32 else _C.GhnDouble
    rows, columns = decoder.max_shape[:2]
    return kind(
        as_arrays(*tables),
        encoder.channel_rows,
        encoder.spatial_rows,
        as_arrays(*sweep),
        as_arrays(*norm),
        ghn.ln.eps if norm else 0.0,
        as_arrays(*weights),
        rows,
        columns,
    )
