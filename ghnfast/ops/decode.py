"""The last step of decoding: a product, its normalization, and the parameters that repeat the result.

A block holds what is decoded for one parameter, at most as large as the decoder's own shape; the parameter repeats it.
`decode` and `decode_into` are the operation; `naive_blocks`, `tile` and `store` define it, in plain PyTorch;
csrc/decode.cpp is what runs on a CPU, kernels/decode.py on a GPU. Source: Parameter Prediction for Unseen Deep
Architectures (NeurIPS 2021), section 3.3 and appendix B.2.
"""

from __future__ import annotations

import functools
import itertools
import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .. import _C
from ..errors import BackendError, ConfigError, PredictError
from ..graph import PREDICTED_DTYPES
from .backend import as_arrays, autocasts, backend_for, is_capturing, is_plain, kept_for_capture, uploaded

# How the operands of a product may be rounded where that is faster, with sums in float32: not at all, to the 10 bits of
# TensorFloat-32, or to bfloat16. Kernels of several cells are faster with either on a GPU; nothing else rounds.
PRECISIONS = ("float32", "tf32", "bfloat16")


class Role(IntEnum):
    """What a predicted parameter is for; it decides how it is normalized."""

    WEIGHT = 0
    POSITION = 1
    NORM_WEIGHT = 2
    BIAS = 3


class TargetKind(IntEnum):
    """Where a target's block comes from, and how it is normalized; the numbers are those in csrc/bindings.cpp."""

    PRODUCT = 0  # a product of hidden states and the decoder's last weight, times the scale
    SCALED = 1  # a given block, times the scale
    NORM_WEIGHT = 2  # a given block, 2 sigmoid(x / 2)
    BIAS = 3  # a given block, tanh(x / 5)


def normalization(shape: Sequence[int], role: Role) -> tuple[TargetKind, float]:
    """How the block of a parameter of `shape` is normalized: the kind of a given block, and the scale.

    Weights: times sqrt(beta / fan_in), fan_in = elements per output; beta is 1 for a kernel with one input channel or
    with k_h < k_w (which no ReLU follows), else 2. Position encodings: as they are. Normalization weights:
    2 sigmoid(x / 2), biases: tanh(x / 5).
    """
    if role is Role.WEIGHT:
        kernel = len(shape) == 4
        beta = 1.0 if kernel and (shape[1] == 1 or shape[2] < shape[3]) else 2.0
        return TargetKind.SCALED, math.sqrt(beta / math.prod(shape[1:]))
    if role is Role.POSITION:
        return TargetKind.SCALED, 1.0
    return (TargetKind.NORM_WEIGHT if role is Role.NORM_WEIGHT else TargetKind.BIAS), 1.0


class Target(NamedTuple):
    """A parameter, seen as (out, in, cells), that repeats a block (rows, columns, cells) in its first two dimensions.

    first: the first row of the hidden states of a product, or the first element of a given block.
    kind: a `TargetKind`.
    """

    first: int
    rows: int
    columns: int
    cells: int
    out: int
    in_: int
    kind: int


@dataclass(frozen=True, eq=False)
class DecodeTargets:
    """What is decoded: table (targets, 7) int64, a `Target` a row; scales (targets,) float64."""

    table: NDArray[np.int64]
    scales: NDArray[np.float64]

    @property
    def tensors(self) -> list[Tensor]:
        return [torch.from_numpy(self.table), torch.from_numpy(self.scales)]

    def __iter__(self) -> Iterator[Target]:
        return (Target(*row) for row in self.table.tolist())


class DecodeSource(NamedTuple):
    """What targets are decoded from.

    A product's block is weight[i, j] . hidden[first + cell] + bias[i, j]; a given block lies in `blocks`, row-major.
    """

    hidden: Tensor  # (hidden rows, width)
    weight: Tensor  # (max rows, max columns, width)
    bias: Tensor  # (max rows, max columns)
    blocks: Tensor  # (elements,)


def decode(source: DecodeSource, targets: DecodeTargets, precision: str = "float32") -> list[Tensor]:
    """The values of all targets, each (out, in, cells); differentiable once with respect to `source`.

    Under autocast, they are computed and returned in the dtype of the weight all the same.

    Args:
        precision: one of `PRECISIONS`.

    Raises:
        BackendError: see `GHNFAST_BACKEND`.
    """
    if autocasts(source.hidden):
        with torch.autocast(source.hidden.device.type, enabled=False):
            return decode(DecodeSource(*(tensor.to(source.weight.dtype) for tensor in source)), targets, precision)
    backend = backend_for(source.hidden)
    if backend == "torch":
        blocks = naive_blocks(source, targets)
        return [
            tile(block, (target.out, target.in_, target.cells)) for block, target in zip(blocks, targets, strict=True)
        ]
    shapes = [(target.out, target.in_, target.cells) for target in targets]
    sizes = [math.prod(shape) for shape in shapes]
    if backend == "cpp" and is_plain(source):
        flat = native_decode(source, targets, sum(sizes))
    else:
        tables = targets.tensors if backend == "cpp" else triton_tables(targets, None, source.hidden)
        flat = decode_op(*source, tables, sum(sizes), product_runs(targets.table), precision)
    parts = flat.split(sizes)
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class NotFinite(PredictError):
    """The values of target number `index` are not finite."""

    def __init__(self, index: int) -> None:
        super().__init__(f"the values of target {index} are not finite")
        self.index = index


def decode_into(
    source: DecodeSource, targets: DecodeTargets, outputs: Sequence[Tensor], precision: str = "float32"
) -> None:
    """Write the values of all targets into tensors, in their dtype, on their device, without gradients.

    What can fail comes before the first write, and the writes are one call: whatever is raised, an interrupt from the
    keyboard included, either all outputs are written or none is.

    On a GPU, this waits for the device once, to know whether the values were finite. While a CUDA graph is captured it
    does not: then nobody is told, and when the graph is replayed, nothing is written where a value is not finite. A
    call with the same outputs must have come before, all of them on the GPU, the cells of kernels evenly spaced.

    Args:
        outputs: one per target, with one dimension (in), two (out, in) or four (out, in, height, width); no element
            of memory belongs to them twice.
        precision: one of `PRECISIONS`.

    Raises:
        NotFinite: a value is not finite; nothing is written.
        BackendError: see `GHNFAST_BACKEND`; or a CUDA graph is being captured, and cannot hold this call.
    """
    backend = backend_for(source.hidden)
    if backend == "torch":
        naive_decode_into(source, targets, outputs)
        return
    device = source.hidden.device
    direct = outputs
    if not all(is_reachable(output, device) for output in outputs):
        if is_capturing(device):
            raise BackendError(
                "a CUDA graph is being captured; outputs on the GPU with evenly spaced cells are accepted"
            )
        # One that cannot be written to in place takes a copy, and then all do: there is one moment of writing.
        direct = [output.new_empty(output.shape, device=device) for output in outputs]
    check_sizes(direct, targets.table)
    memory = memory_table(direct, targets.table)
    if backend == "cpp" and is_plain([*source, *direct]):
        decode_to(source, targets, memory, direct)
    else:
        arrays = targets.table, targets.scales, memory
        tables = [*map(torch.from_numpy, arrays)] if backend == "cpp" else triton_tables(targets, memory, source.hidden)
        status = decode_into_op(*source, tables, list(direct), precision)
        if not is_capturing(device) and int(status) != FINE:
            raise NotFinite(int(status))
    if direct is not outputs:
        copy_all(outputs, direct)


def is_reachable(output: Tensor, device: torch.device) -> bool:
    """Whether a tensor is in the memory of a device, its kernels' cells evenly spaced."""
    if output.is_neg() or output.device != device or output.is_contiguous() or output.ndim < 4:
        return output.device == device and not output.is_neg()
    return output.shape[2] == 1 or output.stride(2) == output.shape[3] * output.stride(3)


# In plain PyTorch -----------------------------------------------------------------------------------------------------


def naive_blocks(source: DecodeSource, targets: DecodeTargets) -> list[Tensor]:
    """The normalized blocks of all targets, each (rows, columns, cells)."""
    blocks: list[Tensor | None] = [None] * len(targets.table)
    numbered = [(index, target) for index, target in enumerate(targets) if target.kind == TargetKind.PRODUCT]
    for (rows, columns, cells), group in itertools.groupby(numbered, key=lambda item: item[1][1:4]):
        members = list(group)
        at = torch.tensor([target.first for _, target in members], device=source.hidden.device)
        cell = at[:, None] + torch.arange(cells, device=at.device)
        weight = source.weight[:rows, :columns].flatten(0, 1)
        products = F.linear(source.hidden[cell], weight, source.bias[:rows, :columns].flatten())
        for (index, _), product in zip(members, products.transpose(1, 2).unflatten(1, (rows, columns)), strict=True):
            blocks[index] = product
    for index, target in enumerate(targets):
        shape = (target.rows, target.columns, target.cells)
        block = blocks[index]
        if block is None:
            block = source.blocks[target.first : target.first + math.prod(shape)].view(shape)
        blocks[index] = normalize(block, target.kind, float(targets.scales[index]))
    return blocks  # type: ignore[return-value]


def normalize(block: Tensor, kind: int, scale: float) -> Tensor:
    """A block as `normalization` says."""
    if kind == TargetKind.NORM_WEIGHT:
        return 2 * torch.sigmoid(block / 2)
    return torch.tanh(block / 5) if kind == TargetKind.BIAS else block * scale


def naive_decode_into(source: DecodeSource, targets: DecodeTargets, outputs: Sequence[Tensor]) -> None:
    places: list[Tensor] = []
    values: list[Tensor] = []
    for index, (block, output) in enumerate(zip(naive_blocks(source, targets), outputs, strict=True)):
        block = block.to(output.device, output.dtype)
        if not torch.isfinite(block).all():
            raise NotFinite(index)
        block = block.flatten() if output.ndim == 1 else block.flatten(1) if output.ndim == 2 else block
        for place, value in stores(block.unflatten(2, output.shape[2:]) if output.ndim == 4 else block, output):
            places.append(place)
            values.append(value)
    copy_all(places, values)


def copy_all(places: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into tensors that they broadcast to, in one call: nothing in Python comes between two copies."""
    if places:
        # Where torch reads memory as its negative, it does not write in one call: the memory itself gets the negative.
        negative = [place.is_neg() for place in places]
        memory = [torch._neg_view(place) if neg else place for place, neg in zip(places, negative, strict=True)]
        values = [-value if neg else value for value, neg in zip(values, negative, strict=True)]
        with torch.inference_mode(any(place.is_inference() for place in places)):
            torch._foreach_copy_([place.detach() for place in memory], values)


def tile(block: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of `shape` that repeats `block`: entry i, j, ... is block[i mod rows, j mod columns, ...].

    Args:
        block: no dimension longer than the same one of `shape`.
    """
    for dim, size in enumerate(shape):
        index = torch.arange(size, device=block.device) % block.shape[dim]
        block = block if block.shape[dim] == size else block.index_select(dim, index)
    return block


def store(block: Tensor, target: Tensor) -> None:
    """Write `tile(block, target.shape)` into `target`, without a temporary of its size."""
    copy_all(*zip(*stores(block, target), strict=True))


def stores(block: Tensor, target: Tensor, dim: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """What `store` copies: parts of the target, and what is broadcast to them.

    Args:
        dim: the dimensions before it are settled: of equal size, or broadcast.
    """
    while dim < target.ndim and block.shape[dim] == target.shape[dim]:
        dim += 1
    if dim == target.ndim:
        yield target, block
        return
    length = block.shape[dim]
    repeats, rest = divmod(target.shape[dim], length)
    if repeats:
        # Splitting a dimension is a view whatever the strides are; the block broadcasts along the repeats.
        whole = target.narrow(dim, 0, repeats * length).unflatten(dim, (repeats, length))
        yield from stores(block.unsqueeze(dim), whole, dim + 2)
    if rest:
        yield from stores(block.narrow(dim, 0, rest), target.narrow(dim, repeats * length, rest), dim + 1)


# As operators of torch ------------------------------------------------------------------------------------------------
# The schemas are spelled out, for torch 2.6 cannot infer them from `list[Tensor]`.

ELEMENTS = {dtype: number for number, dtype in enumerate(PREDICTED_DTYPES)}  # as in csrc/decode.hpp
ELEMENT_BYTES = np.array([dtype.itemsize for dtype in ELEMENTS])


def memory_table(outputs: Sequence[Tensor], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """(targets, 5): address, element type, and the strides of (out, in, cells) in elements."""
    addresses = [output.data_ptr() for output in outputs]
    memory = contiguous_memory(targets, addresses, [ELEMENTS[output.dtype] for output in outputs])
    for index, output in enumerate(outputs):
        if not output.is_contiguous():
            memory[index, 2:] = strides_of(output)
    return memory


def contiguous_memory(targets: NDArray[np.int64], addresses: ArrayLike, elements: ArrayLike) -> NDArray[np.int64]:
    """`memory_table` where every target is contiguous."""
    memory = np.empty((len(targets), 5), dtype=np.int64)
    cells = targets[:, 3]
    memory[:, 0], memory[:, 1] = addresses, elements
    memory[:, 2], memory[:, 3], memory[:, 4] = targets[:, 5] * cells, cells, 1
    return memory


def sizes_of(targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """(targets,): how many elements each target has."""
    sizes: NDArray[np.int64] = targets[:, 3:6].prod(axis=1)
    return sizes


def strides_of(output: Tensor) -> tuple[int, int, int]:
    strides = output.stride()
    if len(strides) == 1:
        return 0, strides[0], 0
    return strides[0], strides[1], (strides[3] if output.shape[3] > 1 else strides[2]) if len(strides) == 4 else 0


# The status of values that are all finite; else it is the number of the first target whose values are not.
FINE = 2**31 - 1

# Tables as the Triton kernels take them, by device; of those with memory, the last alone.
KNOWN_TABLES: weakref.WeakKeyDictionary[DecodeTargets, dict[torch.device, dict[bytes, list[Tensor]]]]
KNOWN_TABLES = weakref.WeakKeyDictionary()


def triton_tables(targets: DecodeTargets, memory: NDArray[np.int64] | None, hidden: Tensor) -> list[Tensor]:
    """`Tables` of kernels/decode.py on the device of hidden states; `memory` None for targets one behind the other."""
    from ..kernels import decode as kernels

    known = KNOWN_TABLES.setdefault(targets, {})
    key = b"" if memory is None else memory.tobytes()
    found = known.get(hidden.device, {})
    if key not in found:
        arrays = kernels.tables(targets.table, targets.scales, memory, hidden.shape[1])
        found = known[hidden.device] = {key: uploaded(arrays, hidden.device)}
    return kept_for_capture(found[key])


@torch.library.custom_op(
    "ghnfast::decode_into",
    mutates_args=("outputs",),
    device_types="cpu",
    schema="(Tensor hidden, Tensor weight, Tensor bias, Tensor blocks, Tensor[] tables, Tensor(a5!)[] outputs, "
    "str precision) -> Tensor",
)
def decode_into_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    blocks: Tensor,
    tables: list[Tensor],
    outputs: list[Tensor],
    precision: str,
) -> Tensor:
    """Write all targets into `outputs`, if they are finite; see `decode_into`.

    Args:
        tables: targets, scales and the memory of the outputs (`memory_table`), which must be theirs; for Triton
            `triton_tables`.

    Returns:
        () int32, `FINE` or the number of the first target with a value that is not finite.
    """
    if backend_for(hidden) == "triton":
        return triton_decode_into(hidden, weight, bias, blocks, tables, outputs, precision)
    table, scales, memory = (tensor.numpy() for tensor in tables)
    status = FINE
    try:
        decode_to(DecodeSource(hidden, weight, bias, blocks), DecodeTargets(table, scales), memory)
    except NotFinite as error:
        status = error.index
    return torch.tensor(status, dtype=torch.int32)


@decode_into_op.register_kernel("cuda")
def triton_decode_into(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    blocks: Tensor,
    tables: list[Tensor],
    outputs: list[Tensor],
    precision: str,
) -> Tensor:
    from ..kernels import decode as kernels

    return kernels.decode_into(hidden, weight, bias, blocks, kernels.Tables(*tables), precision)


def decode_to(
    source: DecodeSource, targets: DecodeTargets, memory: NDArray[np.int64], outputs: Sequence[Tensor] = ()
) -> None:
    """`decode_into`, in C++, where the memory of the outputs is known (`memory_table`); nobody checks it.

    Args:
        outputs: the tensors whose memory it is, for torch to know that they are written; none where it knows.
    """
    hidden, weight, bias, blocks = as_arrays(*source)
    threads = torch.get_num_threads()
    count = functools.partial(torch.autograd.graph.increment_version, list(outputs)) if outputs else None
    broken = _C.decode(hidden, weight, bias, blocks, targets.table, targets.scales, memory, True, threads, count)
    if broken >= 0:
        raise NotFinite(broken)


def check_sizes(outputs: Sequence[Tensor], table: NDArray[np.int64]) -> None:
    """What writes to memory writes what the table says."""
    if [output.numel() for output in outputs] != sizes_of(table).tolist():
        raise ConfigError("the sizes of the outputs differ from those of the targets")


@decode_into_op.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    blocks: Tensor,
    tables: list[Tensor],
    outputs: list[Tensor],
    precision: str,
) -> Tensor:
    return hidden.new_empty((), dtype=torch.int32)


@torch.library.custom_op(
    "ghnfast::decode",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor hidden, Tensor weight, Tensor bias, Tensor blocks, Tensor[] tables, SymInt elements, Tensor runs, "
    "str precision) -> Tensor",
)
def decode_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    blocks: Tensor,
    tables: list[Tensor],
    elements: int,
    runs: Tensor,
    precision: str,
) -> Tensor:
    """The values of all targets one behind the other: (elements,).

    Args:
        tables: targets and scales; for Triton `triton_tables`.
        runs: `product_runs`, on the CPU, for the backward pass.
    """
    if backend_for(hidden) == "triton":
        return triton_decode(hidden, weight, bias, blocks, tables, elements, runs, precision)
    table, scales = (tensor.numpy() for tensor in tables)
    return native_decode(DecodeSource(hidden, weight, bias, blocks), DecodeTargets(table, scales), elements)


@decode_op.register_kernel("cuda")
def triton_decode(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    blocks: Tensor,
    tables: list[Tensor],
    elements: int,
    runs: Tensor,
    precision: str,
) -> Tensor:
    from ..kernels import decode as kernels

    return kernels.decode(hidden, weight, bias, blocks, kernels.Tables(*tables), elements, precision)


def native_decode(source: DecodeSource, targets: DecodeTargets, elements: int) -> Tensor:
    table = targets.table
    flat = source.hidden.new_empty(elements)
    sizes = sizes_of(table)
    addresses = flat.data_ptr() + (np.cumsum(sizes) - sizes) * flat.element_size()
    memory = contiguous_memory(table, addresses, ELEMENTS[flat.dtype])
    hidden, weight, bias, blocks = as_arrays(*source)
    _C.decode(hidden, weight, bias, blocks, table, targets.scales, memory, False, torch.get_num_threads())
    return flat


@decode_op.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    blocks: Tensor,
    tables: list[Tensor],
    elements: int,
    runs: Tensor,
    precision: str,
) -> Tensor:
    return hidden.new_empty(elements)


@torch.library.custom_op(
    "ghnfast::decode_backward",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor grad, Tensor hidden, Tensor weight, Tensor bias, Tensor blocks, Tensor[] tables, Tensor runs) "
    "-> Tensor[]",
)
def decode_backward_op(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    blocks: Tensor,
    tables: list[Tensor],
    runs: Tensor,
) -> list[Tensor]:
    """The gradients of hidden, weight, bias and blocks."""
    if backend_for(hidden) == "triton":
        return triton_decode_backward(grad, hidden, weight, bias, blocks, tables, runs)
    flat, a, b, c, d = as_arrays(grad, hidden, weight, bias, blocks)
    table, scales = (tensor.numpy() for tensor in tables)
    products, grad_blocks = map(
        torch.from_numpy, _C.decode_backward(flat, a, b, c, d, table, scales, torch.get_num_threads())
    )
    return [*product_gradients(products, hidden, weight, bias, runs), grad_blocks]


@decode_backward_op.register_kernel("cuda")
def triton_decode_backward(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    blocks: Tensor,
    tables: list[Tensor],
    runs: Tensor,
) -> list[Tensor]:
    from ..kernels import decode as kernels

    elements = sum((last - first) * rows * columns for rows, columns, first, last in runs.tolist())
    products, grad_blocks = kernels.decode_backward(grad, blocks, kernels.Tables(*tables), elements)
    with torch.autocast(grad.device.type, enabled=False):
        return [*product_gradients(products, hidden, weight, bias, runs), grad_blocks]


def product_gradients(products: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, runs: Tensor) -> list[Tensor]:
    """The gradients of hidden, weight and bias from those of products, which follow each other run by run."""
    grad_hidden, grad_weight, grad_bias = (torch.zeros_like(tensor) for tensor in (hidden, weight, bias))
    at = 0
    for rows, columns, first, last in runs.tolist():
        size = (last - first) * rows * columns
        part = products[at : at + size].view(last - first, rows * columns)
        at += size
        grad_hidden[first:last] += part @ weight[:rows, :columns].flatten(0, 1)
        grad_weight[:rows, :columns] += (part.T @ hidden[first:last]).unflatten(0, (rows, columns))
        grad_bias[:rows, :columns] += part.sum(0).unflatten(0, (rows, columns))
    return [grad_hidden, grad_weight, grad_bias]


def product_runs(table: NDArray[np.int64]) -> Tensor:
    """(runs, 4): rows, columns, first, last of products with blocks of equal size, from hidden states side by side."""
    runs: list[list[int]] = []
    for target in map(Target._make, table[table[:, 6] == TargetKind.PRODUCT].tolist()):
        shape = [target.rows, target.columns]
        if runs and runs[-1][:2] == shape and runs[-1][3] == target.first:
            runs[-1][3] += target.cells
        else:
            runs.append([*shape, target.first, target.first + target.cells])
    return torch.tensor(runs, dtype=torch.int64).view(-1, 4)


@decode_backward_op.register_fake
def _(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    blocks: Tensor,
    tables: list[Tensor],
    runs: Tensor,
) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in (hidden, weight, bias, blocks)]


def keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *source, tables, _, runs, _ = inputs
    ctx.save_for_backward(*source, runs, *tables)


def decode_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *source, runs = ctx.saved_tensors[:5]
    tables = list(ctx.saved_tensors[5:])
    return (*decode_backward_op(grad, *source, tables, runs), [None] * len(tables), None, None, None)


decode_op.register_autograd(decode_backward, setup_context=keep_for_backward)
