"""The definition of the operation, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .layer import Activation, Layer, Stages


def naive_layers(scratch: Tensor, states: Tensor, weights: Sequence[Tensor], stages: Stages) -> None:
    """Compute all stages: `scratch` (elements,), written, and `states` (nodes, hid) are float32."""
    rows = torch.from_numpy(stages.rows).to(scratch.device).long()
    constants = torch.from_numpy(stages.constants).to(scratch.device)
    for stage in stages.stages:
        for layer in stage:
            naive_layer(scratch, states, weights, layer.filled(), rows, constants)


def naive_layer(
    scratch: Tensor, states: Tensor, weights: Sequence[Tensor], layer: Layer, rows: Tensor, constants: Tensor
) -> None:
    of_inputs = torch.arange(layer.inputs, device=scratch.device)
    of_outputs = torch.arange(layer.outputs, device=scratch.device)
    row = torch.arange(layer.rows, device=scratch.device)
    source = row if layer.gather < 0 else rows[layer.gather : layer.gather + layer.rows]
    memory = states.flatten() if layer.from_states else scratch
    x = memory[layer.x + source[:, None] * layer.x_row + of_inputs * layer.x_in]
    if layer.norm >= 0:
        x = F.layer_norm(x, [layer.inputs], weights[layer.norm], weights[layer.norm + 1], layer.epsilon)
    outer, out = of_outputs // layer.inner, of_outputs % layer.inner
    place = layer.weight_first + outer * layer.weight_outer + out * layer.weight_out
    weight = constants if layer.weight < 0 else weights[layer.weight].flatten()
    y = x @ weight[place[:, None] + of_inputs * layer.weight_in].T
    if layer.bias >= 0:
        y = y + weights[layer.bias].flatten()[layer.bias_first + outer * layer.bias_outer + out * layer.bias_out]
    if layer.activation == Activation.RELU:
        y = F.relu(y)
    elif layer.activation == Activation.GELU:
        y = F.gelu(y)
    place = row[:, None] * layer.y_row + of_outputs * layer.y_out
    if layer.residual >= 0:
        y = y + scratch[layer.residual + place]
    scratch[layer.y + place] = y


def naive_embedding(indices: NDArray[np.int32], tables: Sequence[Tensor]) -> Tensor:
    """The initial states of nodes (nodes, hid).

    Args:
        indices: (nodes, 5), or (nodes, 8), rows of the tables: primitives, channels twice, sizes twice, and three more.
        tables: those of primitives, channels and sizes, and, with 8 columns, of those three.
    """
    index = torch.from_numpy(indices).to(tables[0].device).long()
    primitives, channels, sizes, *positions = tables
    shapes = [channels[index[:, 1]], channels[index[:, 2]], sizes[index[:, 3]], sizes[index[:, 4]]]
    states = primitives[index[:, 0]] + torch.cat(shapes, 1)
    added = [table[column] for table, column in zip(positions, index[:, 5:].T, strict=True)]
    return states + (added[0] + added[1] + added[2]) if added else states
