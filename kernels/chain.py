"""The gated sweep by a warp that walks the chain of nodes: CUDA C++ (chain.cu), compiled where it runs.

It computes what `ghnfast.kernels.sweep` does and leaves the same for a backward pass (here in `chain_backward`), for
what a warp holds and what fits into shared memory (see `refusal`). What that takes, blocks of threads with barriers of
their own, warps that do different things and messages that stay in shared memory, Triton's language has no words for.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BackendError
from . import driver, nvrtc

LANES, THREADS = 32, 256
# Bytes of shared memory beside messages; messages beside those of nodes (kTogether); bytes of weights, before the first
# step in the place of messages (Staged).
FIXED, MORE_MESSAGES, STAGED = 6144, 8, 8 * 32 * 33 * 4


class Mlp(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("weight_1", "bias_1", "weight_2", "bias_2")]


class Weights(ctypes.Structure):
    """As chain_common.cu has them."""

    _fields_ = [
        ("mlps", Mlp * 2),
        *((name, ctypes.c_void_p) for name in ("weight_input", "weight_hidden", "bias_input", "bias_hidden")),
    ]


class Bands(ctypes.Structure):
    """As chain_common.cu has them."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("graph_offsets", "band_starts", "band_offsets", "closeness")),
        ("nodes", ctypes.c_longlong),
        ("cutoff", ctypes.c_int),
    ]


class Arguments(ctypes.Structure):
    """The kernel's parameter, as chain.cu has it."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("states", "middle", "final", "messages", "gates", "hidden")),
        ("weights", Weights),
        ("bands", Bands),
    ]


def shared_bytes(heads: int, largest: int) -> int:
    """Of a block, for graphs of up to `largest` nodes."""
    return FIXED + max(STAGED, (largest + MORE_MESSAGES) * LANES * heads * 4)


def refusal(heads: int, hid: int, width: int, largest: int, shared: int) -> str:
    """Why the kernel cannot work on a batch; empty where it can.

    Args:
        heads, hid, width: MLPs, and the widths of states and of the MLPs' hidden layers.
        largest: nodes of the largest graph.
        shared: bytes of shared memory that a block may ask for.
    """
    most = (shared - FIXED) // (LANES * heads * 4) - MORE_MESSAGES
    return refusal_for(heads, hid, width, largest, most)


def refusal_for(heads: int, hid: int, width: int, largest: int, most: int) -> str:
    """See `refusal`; most: nodes whose messages, or gradients, fit into shared memory."""
    inner = heads * (-(-width // 4) * 4)
    if hid > LANES or inner > LANES:
        return f"states are {hid} wide and the MLPs' hidden layers {heads} times {width}; {LANES} each are accepted"
    if largest > most:
        return f"a graph has {largest} nodes; {most} are accepted, whose messages fit into shared memory"
    return "" if nvrtc.library() is not None else "NVRTC is not installed; pip install nvidia-cuda-nvrtc"


def macros(heads: int, hid: int, width: int, keep: bool) -> tuple[tuple[str, int], ...]:
    """What chain.cu is compiled for."""
    return ("HID", hid), ("WIDTH", width), ("HEADS", heads), ("KEEP", int(keep)), ("FIXED", FIXED)


def source_of(name: str) -> str:
    return Path(__file__).with_name(name).read_text()


def compiled(name: str, architecture: int, defined: tuple[tuple[str, int], ...]) -> nvrtc.Compiled:
    """A kernel of this folder, from the source that is called as it."""
    included = {"chain_common.cu": source_of("chain_common.cu")}
    return nvrtc.compiled(source_of(f"{name}.cu"), f"{name}.cu", architecture, defined, included)


@functools.cache
def function(device: torch.device, defined: tuple[tuple[str, int], ...], name: str = "chain") -> driver.Function:
    """A kernel on a device, which is the current one; compiled once for each device and form."""
    binary = compiled(name, driver.architecture_of(device), defined).binary
    return driver.Function(binary, name, driver.shared_memory(device), driver.number_of(device))


@functools.cache
def trouble(device: torch.device, defined: tuple[tuple[str, int], ...], name: str = "chain") -> str:
    """Why a kernel cannot be compiled or loaded, where that is so."""
    try:
        with torch.cuda.device(device):
            function(device, defined, name)
    except BackendError as error:
        return str(error)
    return ""


def outputs_for(states: Tensor, heads: int, width: int, keep: bool) -> list[Tensor]:
    """final, middle, messages, gates, hidden: see `sweep_kernel`."""
    nodes, hid = states.shape
    shapes = (2, nodes, heads, hid), (2, nodes, 5, hid), (2, nodes, heads, width)
    kept = [states.new_empty(shape if keep else 0) for shape in shapes]
    return [torch.empty_like(states), torch.empty_like(states), *kept]


def weights_of(weights: Sequence[Tensor]) -> Weights:
    """The addresses of contiguous ones."""
    addresses = [weight.data_ptr() for weight in weights]
    direct, gru, virtual = addresses[:4], addresses[4:8], addresses[8:]
    return Weights((Mlp * 2)(Mlp(*direct), Mlp(*virtual)), *gru)


def bands_of(topology: Sequence[Tensor], nodes: int, cutoff: int) -> Bands:
    return Bands(*(table.data_ptr() for table in topology), nodes, cutoff)


def arguments_for(
    states: Tensor, weights: Sequence[Tensor], topology: Sequence[Tensor], cutoff: int, outputs: Sequence[Tensor]
) -> Arguments:
    """Of contiguous tensors: see `gated_sweep`. The addresses are theirs, which have to live until after the launch."""
    final, middle, *kept = (tensor.data_ptr() for tensor in outputs)
    bands = bands_of(topology, len(states), cutoff)
    return Arguments(states.data_ptr(), middle, final, *kept, weights_of(weights), bands)


class Walk:
    """The sweep without a backward pass, for one batch and the same weights each time: what does not change is looked
    up once.

    tables: the topology. Weights are others' to keep.
    """

    def __init__(
        self, weights: Sequence[Tensor], topology: Sequence[Tensor], cutoff: int, largest: int, hid: int
    ) -> None:
        """Of contiguous weights; largest: nodes of the largest graph."""
        heads, width, device = 2 if len(weights) == 12 else 1, len(weights[1]), weights[0].device
        nothing, self.tables = weights[0].new_empty(0), topology
        self.arguments = bytes(arguments_for(nothing, weights, topology, cutoff, [nothing] * 5))
        self.device, self.blocks, self.shared = (
            weights[0].get_device(),
            len(topology[0]) - 1,
            shared_bytes(heads, largest),
        )
        self.kernel = function(device, macros(heads, hid, width, False))

    def __call__(self, states: Tensor, middle: Tensor, final: Tensor) -> None:
        """Write the final states of contiguous ones, and those between the sweeps, on the current device."""
        self.kernel.launch(self.blocks, THREADS, self.shared, self.filled(states, middle, final), self.device)

    def node(self, states: Tensor, middle: Tensor, final: Tensor) -> driver.Node:
        """What a call would launch."""
        return self.kernel.node(self.blocks, THREADS, self.shared, self.filled(states, middle, final))

    def filled(self, states: Tensor, middle: Tensor, final: Tensor) -> Arguments:
        arguments = Arguments.from_buffer_copy(self.arguments)
        arguments.states, arguments.middle, arguments.final = states.data_ptr(), middle.data_ptr(), final.data_ptr()
        arguments.bands.nodes = len(states)
        return arguments


def gated_sweep(
    states: Tensor, weights: Sequence[Tensor], topology: Sequence[Tensor], cutoff: int, keep: bool, largest: int
) -> list[Tensor]:
    """See `ghnfast.kernels.sweep.gated_sweep`.

    Args:
        largest: nodes of the largest graph.

    Raises:
        BackendError: NVRTC or the driver fails.
    """
    states, weights = states.contiguous(), [weight.contiguous() for weight in weights]
    heads, width = 2 if len(weights) == 12 else 1, len(weights[1])
    outputs = outputs_for(states, heads, width, keep)
    arguments = arguments_for(states, weights, topology, cutoff, outputs)
    with torch.cuda.device(states.device):
        defined = macros(heads, states.shape[1], width, keep)
        kernel = function(states.device, defined)
        kernel.launch(len(topology[0]) - 1, THREADS, shared_bytes(heads, largest), arguments, states.get_device())
    return outputs if keep else outputs[:1]
