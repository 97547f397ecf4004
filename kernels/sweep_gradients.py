"""The gradients of a sweep's weights: products over all nodes of what its backward kernel writes."""

from __future__ import annotations

import torch
from torch import Tensor


def mlp_gradients(senders: Tensor, hidden: Tensor, grad_hidden: Tensor, grad_messages: Tensor) -> list[Tensor]:
    """The gradients of an MLP's four weights, from the messages of both sweeps.

    Args:
        senders: (2 nodes, hid), the states that messages were computed from.
        hidden, grad_hidden, grad_messages: (2 nodes, width or hid), see `sweep_backward_kernel`.
    """
    return [grad_hidden.T @ senders, grad_hidden.sum(0), grad_messages.T @ hidden, grad_messages.sum(0)]


def gru_gradients(before: Tensor, received: Tensor, grad_gates: Tensor) -> list[Tensor]:
    """The gradients of the GRU's four weights.

    Args:
        before, received: (2 nodes, hid), what each update read.
        grad_gates: (2 nodes, 4, hid), see `sweep_backward_kernel`.
    """
    nodes, hid = before.shape
    of_input = grad_gates[:, :3].reshape(nodes, 3 * hid)
    of_hidden = torch.cat([of_input[:, : 2 * hid], grad_gates[:, 3]], 1)
    return [of_input.T @ received, of_hidden.T @ before, of_input.sum(0), of_hidden.sum(0)]
