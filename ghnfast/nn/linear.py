"""The weights of linear layers, also of modules that tools have put in their place."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn


class LayerWeights(NamedTuple):
    """A linear layer, or a 1x1 convolution as one: weight (out, in), bias (out,)."""

    weight: Tensor
    bias: Tensor


def own_weights(layer: nn.Module) -> LayerWeights:
    weight, bias = (cast(Tensor, layer._parameters[name]) for name in ("weight", "bias"))
    return LayerWeights(weight.flatten(1), bias)


def layer_weights(layer: nn.Module, inputs: int, convolution: bool = False) -> LayerWeights:
    """The weights of a linear layer, or of a 1x1 convolution, with so many inputs; differentiable.

    What stands in a layer's place (adapters such as LoRA, parametrizations, quantized layers) or has hooks need not
    compute with its `weight` alone: it is called, with zero for the bias and with each unit vector for the weight.
    """
    own = layer.__dict__
    if type(layer) in (nn.Linear, nn.Conv2d) and not (
        own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own
    ):
        return own_weights(layer)
    like = next((p for p in layer.parameters() if p.is_floating_point()), torch.empty(0))
    vectors = torch.cat([like.new_zeros(1, inputs), torch.eye(inputs, dtype=like.dtype, device=like.device)])
    with torch.autocast(like.device.type, enabled=False):
        outputs = layer(vectors[..., None, None] if convolution else vectors).flatten(1)
    return LayerWeights((outputs[1:] - outputs[0]).T, outputs[0])
