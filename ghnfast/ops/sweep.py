"""Gated message passing over the levels of architecture graphs.

Source: Graph HyperNetworks (Zhang et al., ICLR 2019), equations 3 and 4, and Parameter Prediction for Unseen Deep
Architectures (NeurIPS 2021), equation 4, for the virtual edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graph import Step


class MlpWeights(NamedTuple):
    """Two linear layers, each followed by a ReLU."""

    weight_1: Tensor  # (hidden, in)
    bias_1: Tensor  # (hidden,)
    weight_2: Tensor  # (out, hidden)
    bias_2: Tensor  # (out,)


class GruWeights(NamedTuple):
    """A gated recurrent unit in the layout of torch.nn.GRUCell: reset, update and new gates stacked."""

    weight_input: Tensor  # (3 hid, hid)
    weight_hidden: Tensor  # (3 hid, hid)
    bias_input: Tensor  # (3 hid,)
    bias_hidden: Tensor  # (3 hid,)


@dataclass(frozen=True)
class SweepWeights:
    """What a sweep computes with. `virtual` is the MLP of the virtual edges, or None where there are none."""

    direct: MlpWeights
    virtual: MlpWeights | None
    gru: GruWeights


def apply_mlp(x: Tensor, weights: MlpWeights) -> Tensor:
    hidden = F.relu(F.linear(x, weights.weight_1, weights.bias_1))
    return F.relu(F.linear(hidden, weights.weight_2, weights.bias_2))


def gated_sweep(states: Tensor, forward: Sequence[Step], backward: Sequence[Step], weights: SweepWeights) -> Tensor:
    """Update every node once in topological order, then once in reverse.

    m_v = sum over u at distance 1 of MLP(h_u) + sum over u at distance d <= 50 of MLP_ve(h_u) / d, from states that
    this sweep has already updated, then h_v = GRU(m_v, h_v). A message depends on its sender alone, so it is
    computed once, when the sender is updated.

    Args:
        states: (nodes, hid), the nodes' initial states.
        forward, backward: the steps of the two sweeps (`GraphBatch.steps`); without virtual edges, those of cutoff 1.

    Returns:
        (nodes, hid), the nodes' final states.
    """
    for steps in (forward, backward):
        states = sweep_once(states, steps, weights)
    return states


def sweep_once(states: Tensor, steps: Sequence[Step], weights: SweepWeights) -> Tensor:
    device = states.device
    states = states.clone()
    direct = torch.zeros_like(states)
    virtual = torch.zeros_like(states)
    for step in steps:
        nodes = torch.from_numpy(step.nodes).to(device)
        sources, targets = torch.from_numpy(step.sources).to(device), torch.from_numpy(step.targets).to(device)
        distances = torch.from_numpy(step.distances).to(states)
        adjacent = distances == 1
        received = states.new_zeros(len(nodes), states.shape[1])
        received = received.index_add(0, targets[adjacent], direct[sources[adjacent]])
        if weights.virtual is not None:
            received = received.index_add(0, targets, virtual[sources] / distances[:, None])
        updated = torch.gru_cell(received, states[nodes], *weights.gru)
        states[nodes] = updated
        direct[nodes] = apply_mlp(updated, weights.direct)
        if weights.virtual is not None:
            virtual[nodes] = apply_mlp(updated, weights.virtual)
    return states
