"""`decode` and `decode_into`: the implementation that fits where the tensors are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import BackendError
from ..backend import autocasts, backend_for, is_eager, is_plain
from ..uploads import is_capturing
from .naive import copy_all, naive_blocks, naive_decode_into, tile
from .operators import (
    RecordedDecode,
    decode_into_op,
    decode_op,
    decode_to,
    native_decode,
    triton_decode,
    triton_decode_into,
    triton_tables,
)
from .parts import parts_of
from .targets import (
    FINE,
    DecodeSource,
    DecodeTargets,
    NotFinite,
    as_tensor,
    check_sizes,
    memory_table,
    product_runs,
    sizes_of,
)


def decode(
    source: DecodeSource,
    targets: DecodeTargets,
    precision: str = "float32",
    shapes: Sequence[tuple[int, ...]] | None = None,
) -> list[Tensor]:
    """The values of all targets, each (out, in, cells); differentiable once with respect to `source`.

    Under autocast, they are computed and returned in the dtype of the weight all the same.

    Args:
        precision: one of `PRECISIONS`.
        shapes: of the values, where they are to have others of as many elements.

    Raises:
        BackendError: see `GHNFAST_BACKEND`.
    """
    if autocasts(source.hidden):
        with torch.autocast(source.hidden.device.type, enabled=False):
            own = DecodeSource(*(tensor.to(source.weight.dtype) for tensor in source))
            return decode(own, targets, precision, shapes)
    backend = backend_for(source.hidden)
    own_shapes = [(target.out, target.in_, target.cells) for target in targets] if shapes is None else shapes
    if backend == "torch":
        values = map(
            tile, naive_blocks(source, targets), [(target.out, target.in_, target.cells) for target in targets]
        )
        return [value.reshape(shape) for value, shape in zip(values, own_shapes, strict=True)]
    sizes: list[int] = sizes_of(targets.table).tolist()
    if backend == "cpp" and is_plain(source):
        flat = native_decode(source, targets, sum(sizes), precision)
    else:
        tables = [as_tensor(targets.table)] if backend == "cpp" else triton_tables(targets, None, source.hidden)
        run = triton_decode if is_plain(source) else RecordedDecode.apply if is_eager(source) else decode_op
        flat = run(*source, tables, sum(sizes), product_runs(targets.table), precision)
    return parts_of(flat, sizes, own_shapes)


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
    plain, native = is_plain([*source, *direct]), backend == "cpp"
    if plain and native:
        decode_to(source, targets, memory, direct, precision)
    else:
        tables = [*map(as_tensor, (targets.table, memory))] if native else triton_tables(targets, memory, source.hidden)
        if plain:
            status = triton_decode_into(*source, tables, list(direct), precision)
            torch.autograd.graph.increment_version(list(direct))
        else:
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
