"""The backward pass of the gated sweep in CUDA C++: a warp that walks the chain of nodes the other way
(chain_backward.cu), then the gradients of all weights in one launch (chain_gradients.cu).

It computes what `ghnfast.kernels.sweep` does, from what either's forward pass kept.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from . import chain
from .chain import LANES, STAGED, THREADS, Bands, Weights, bands_of, weights_of

# Bytes of shared memory beside gradients; gradients beside those of nodes (kTogether).
FIXED, MORE_GRADIENTS = 17 * 1024, 16
# Of chain_gradients.cu: threads of a block, rows that it has, bytes of shared memory.
GRADIENT_THREADS, ROWS, GRADIENT_SHARED = 1024, 4, 1024 * 32
BACKWARD, GRADIENTS = "chain_backward", "chain_gradients"


class Arguments(ctypes.Structure):
    """The parameter of chain_backward.cu."""

    _fields_ = [
        *(
            (f"grad_{name}", ctypes.c_void_p)
            for name in ("final", "middle", "states", "gates", "hidden", "messages")
        ),
        *((name, ctypes.c_void_p) for name in ("states", "middle", "messages", "gates", "hidden")),
        ("weights", Weights),
        ("bands", Bands),
    ]  # fmt: skip


class GradientArguments(ctypes.Structure):
    """The parameter of chain_gradients.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("states", "middle", "final", "gates", "hidden")),
        *((f"grad_{name}", ctypes.c_void_p) for name in ("gates", "hidden", "messages")),
        *((name, ctypes.c_void_p * 2) for name in ("weight_1", "bias_1", "weight_2", "bias_2")),
        *((name, ctypes.c_void_p) for name in ("weight_input", "weight_hidden", "bias_input", "bias_hidden")),
        ("nodes", ctypes.c_longlong),
    ]


def shared_bytes(largest: int) -> int:
    """Of a block, for graphs of up to `largest` nodes."""
    return FIXED + max(STAGED, (largest + MORE_GRADIENTS) * LANES * 4)


def refusal(heads: int, hid: int, width: int, largest: int, shared: int) -> str:
    """See `chain.refusal`."""
    return chain.refusal_for(heads, hid, width, largest, (shared - FIXED) // (LANES * 4) - MORE_GRADIENTS)


def macros(heads: int, hid: int, width: int) -> tuple[tuple[str, int], ...]:
    """What both sources are compiled for."""
    return ("HID", hid), ("WIDTH", width), ("HEADS", heads), ("FIXED", FIXED)


def trouble(device: torch.device, defined: tuple[tuple[str, int], ...]) -> str:
    """See `chain.trouble`."""
    return chain.trouble(device, defined, BACKWARD) or chain.trouble(device, defined, GRADIENTS)


def outputs_for(states: Tensor, kept: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of states between the sweeps and before, of gates, of hidden layers and of messages: see
    chain_backward.cu."""
    _, middle, messages, gates, hidden = kept
    grad_gates = gates.new_empty(*gates.shape[:2], 4, gates.shape[3])
    return [*map(torch.empty_like, (middle, states)), grad_gates, *map(torch.empty_like, (hidden, messages))]


def arguments_for(
    grad: Tensor,
    states: Tensor,
    kept: Sequence[Tensor],
    weights: Sequence[Tensor],
    topology: Sequence[Tensor],
    cutoff: int,
    outputs: Sequence[Tensor],
) -> Arguments:
    """Of contiguous tensors, which have to live until after the launch."""
    addresses = [tensor.data_ptr() for tensor in (grad, *outputs, states, *kept[1:])]
    return Arguments(*addresses, weights_of(weights), bands_of(topology, len(states), cutoff))


def gradient_arguments_for(
    states: Tensor, kept: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor]
) -> GradientArguments:
    """Of contiguous tensors. grads: the gradients of weights, which are written."""
    final, middle, _, gates, hidden = kept
    read = [tensor.data_ptr() for tensor in (states, middle, final, gates, hidden, *outputs[2:])]
    addresses = [grad.data_ptr() for grad in grads]
    direct, gru, virtual = addresses[:4], addresses[4:8], addresses[8:] or [0] * 4
    mlps = [(ctypes.c_void_p * 2)(*pair) for pair in zip(direct, virtual, strict=True)]
    return GradientArguments(*read, *mlps, *gru, len(states))


def gradient_blocks(heads: int, hid: int, width: int) -> int:
    """Of chain_gradients.cu: those of the MLPs' layers, and of the GRU's gates."""
    return sum(-(-rows // ROWS) for rows in (*(width, hid) * heads, 3 * hid, 2 * hid, hid))


def gated_sweep_backward(
    grad: Tensor,
    states: Tensor,
    kept: Sequence[Tensor],
    weights: Sequence[Tensor],
    topology: Sequence[Tensor],
    cutoff: int,
    largest: int,
) -> list[Tensor]:
    """See `ghnfast.kernels.sweep.gated_sweep_backward`.

    Args:
        largest: nodes of the largest graph.

    Raises:
        BackendError: NVRTC or the driver fails.
    """
    grad, states, weights = grad.contiguous(), states.contiguous(), [weight.contiguous() for weight in weights]
    heads, hid, width = 2 if len(weights) == 12 else 1, states.shape[1], len(weights[1])
    outputs, grads = outputs_for(states, kept), [torch.empty_like(weight) for weight in weights]
    arguments = arguments_for(grad, states, kept, weights, topology, cutoff, outputs)
    products = gradient_arguments_for(states, kept, outputs, grads)
    with torch.cuda.device(states.device):
        defined, device = macros(heads, hid, width), states.get_device()
        walk, multiply = (chain.function(states.device, defined, name) for name in (BACKWARD, GRADIENTS))
        walk.launch(len(topology[0]) - 1, THREADS, shared_bytes(largest), arguments, device)
        multiply.launch(gradient_blocks(heads, hid, width), GRADIENT_THREADS, GRADIENT_SHARED, products, device)
    return [outputs[1], *grads]
