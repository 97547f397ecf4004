"""The operation as operators of torch: in C++ on a CPU (csrc/decode), in Triton on a GPU (kernels/decode.py).

The schemas are spelled out, for torch 2.6 cannot infer them from `list[Tensor]`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import _C
from ..backend import as_arrays, backend_for, is_plain, operator
from ..uploads import Wanted, in_use, upload
from .targets import (
    BFLOAT16,
    ELEMENTS,
    FINE,
    FLOAT32,
    MEMORY,
    TARGET,
    DecodeSource,
    DecodeTargets,
    NotFinite,
    Table,
    Uploaded,
    as_table,
    contiguous_memory,
    product_runs,
    sizes_of,
)

# In C++ ---------------------------------------------------------------------------------------------------------------


def decode_to(
    source: DecodeSource,
    targets: DecodeTargets,
    memory: Table,
    outputs: Sequence[Tensor] = (),
    precision: str = FLOAT32,
) -> None:
    """`decode_into`, in C++, where the memory of the outputs is known (`memory_table`); nobody checks it.

    Args:
        outputs: the tensors whose memory it is, for torch to know that they are written; none where it knows.
        precision: one of `PRECISIONS`.
    """
    hidden, weight, bias, blocks = as_arrays(*source)
    threads = torch.get_num_threads()
    rounds = precision == BFLOAT16
    check_finite(
        _C.decode(hidden, weight, bias, blocks, targets.table, memory, True, threads, counting(outputs), rounds=rounds)
    )


def counting(outputs: Sequence[Tensor]) -> Callable[[], None] | None:
    """What tells torch that these are written."""
    return functools.partial(torch.autograd.graph.increment_version, list(outputs)) if outputs else None


def check_finite(broken: int) -> None:
    """Raises where there is a target whose values are not finite: its number, else one below 0."""
    if broken >= 0:
        raise NotFinite(broken)


def native_decode(source: DecodeSource, targets: DecodeTargets, elements: int, precision: str) -> Tensor:
    table = targets.table
    flat = source.hidden.new_empty(elements)
    sizes = sizes_of(table)
    addresses = flat.data_ptr() + (np.cumsum(sizes) - sizes) * flat.element_size()
    memory = contiguous_memory(table, addresses, ELEMENTS[flat.dtype])
    hidden, weight, bias, blocks = as_arrays(*source)
    threads, rounds = torch.get_num_threads(), precision == BFLOAT16
    _C.decode(hidden, weight, bias, blocks, table, memory, False, threads, rounds=rounds)
    return flat


# On a GPU -------------------------------------------------------------------------------------------------------------


def triton_tables(targets: DecodeTargets, memory: Table | None, hidden: Tensor) -> list[Tensor]:
    """`Tables` of kernels/decode_tables.py on the device of hidden states; `memory` None for targets side by side."""
    found: list[Uploaded] = []
    upload([wanted_tables(targets, memory, hidden.device, found)], hidden.device)
    return tables_in_use(found[0])


@torch.inference_mode(False)  # it is used again, where gradients are asked for
def of_number(number: int) -> Tensor:
    """() int64 on the CPU, whatever torch's default device is."""
    return torch.from_numpy(np.array(number, dtype=np.int64))


def tables_in_use(known: Uploaded) -> list[Tensor]:
    """`triton_tables` that are there."""
    in_use([known.rows], known.items)
    return [known.rows, *known.items]


def wanted_tables(
    targets: DecodeTargets, memory: Table | None, device: torch.device, found: list[Uploaded]
) -> Wanted | None:
    """What a device has not yet of `triton_tables`.

    Args:
        found: is given the tables, once they are there: another thread may ask for those of other memory meanwhile.
    """
    from ...kernels import decode_tables, products

    known, key = targets.uploaded.get(device), b"" if memory is None else memory.tobytes()
    if known is not None and known.memory == key:
        found.append(known)
        return None
    rows = decode_tables.target_table(targets.table, memory)
    items: list[NDArray[Any]] = []
    counts: list[Tensor] = []
    if known is None:
        runs = product_runs(targets.table).numpy()
        items = [*decode_tables.item_tables(targets.table), *products.run_tables(runs)]
        items += decode_tables.check_tables(targets.table)
        counts.append(of_number(products.count_of(runs)))

    def keep(there: list[Tensor]) -> None:
        found.append(Uploaded(key, there[0], [*there[1:], *counts] if known is None else known.items))
        targets.uploaded[device] = found[-1]

    return Wanted([rows, *items], keep)


# Operators ------------------------------------------------------------------------------------------------------------


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
        tables: targets and the memory of the outputs (`memory_table`), which must be theirs, `as_tensor`; for Triton
            `triton_tables`.

    Returns:
        () int32, `FINE` or the number of the first target with a value that is not finite.
    """
    if backend_for(hidden) == "triton":
        return triton_decode_into(hidden, weight, bias, blocks, tables, outputs, precision)
    targets, memory = DecodeTargets(as_table(tables[0], TARGET)), as_table(tables[1], MEMORY)
    status = FINE
    try:
        decode_to(DecodeSource(hidden, weight, bias, blocks), targets, memory, precision=precision)
    except NotFinite as error:
        status = error.index
    return torch.tensor(status, dtype=torch.int32, device=hidden.device)


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
    from ...kernels import decode as kernels
    from ...kernels.decode_tables import Tables

    return kernels.decode_into(hidden, weight, bias, blocks, Tables(*tables), precision)


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


def computed_decode(
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
        tables: targets, `as_tensor`; for Triton `triton_tables`.
        runs: `product_runs`, on the CPU, for the backward pass.
    """
    if backend_for(hidden) == "triton":
        return triton_decode(hidden, weight, bias, blocks, tables, elements, runs, precision)
    targets = DecodeTargets(as_table(tables[0], TARGET))
    return native_decode(DecodeSource(hidden, weight, bias, blocks), targets, elements, precision)


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
    from ...kernels import decode as kernels
    from ...kernels.decode_tables import Tables

    return kernels.decode(hidden, weight, bias, blocks, Tables(*tables), elements, precision)


decode_op = operator(
    "decode",
    computed_decode,
    triton_decode,
    "(Tensor hidden, Tensor weight, Tensor bias, Tensor blocks, Tensor[] tables, SymInt elements, Tensor runs, "
    "str precision) -> Tensor",
)


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


def computed_gradients(
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
    found = _C.decode_backward(flat, a, b, c, d, as_table(tables[0], TARGET), torch.get_num_threads())
    products, grad_blocks = map(torch.from_numpy, found)
    return [*product_gradients(products, hidden, weight, bias, runs), grad_blocks]


def triton_decode_backward(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    blocks: Tensor,
    tables: list[Tensor],
    runs: Tensor,
) -> list[Tensor]:
    from ...kernels import decode as kernels
    from ...kernels import products as of_products
    from ...kernels.decode_tables import Tables

    own = Tables(*tables)
    known = runs.tolist()
    elements = sum((last - first) * rows * columns for rows, columns, first, last, _ in known)
    products, grad_blocks = kernels.decode_backward(grad, blocks, own, elements)
    if is_read_twice(known):
        with torch.autocast(grad.device.type, enabled=False):
            return [*product_gradients(products, hidden, weight, bias, runs), grad_blocks]
    items = own.backward_items_of_runs
    return [*of_products.product_gradients(products, hidden, weight, bias, own.runs, items), grad_blocks]


decode_backward_op = operator(
    "decode_backward",
    computed_gradients,
    triton_decode_backward,
    "(Tensor grad, Tensor hidden, Tensor weight, Tensor bias, Tensor blocks, Tensor[] tables, Tensor runs) -> Tensor[]",
)


def is_read_twice(runs: list[list[int]]) -> bool:
    """Whether a hidden row is in two runs."""
    ends = sorted((first, last) for _, _, first, last, _ in runs)
    return any(last > first for (_, last), (first, _) in itertools.pairwise(ends))


def product_gradients(products: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, runs: Tensor) -> list[Tensor]:
    """The gradients of hidden, weight and bias from those of products, which follow each other run by run."""
    grad_hidden, grad_weight, grad_bias = (torch.zeros_like(tensor) for tensor in (hidden, weight, bias))
    for rows, columns, first, last, start in runs.tolist():
        size = (last - first) * rows * columns
        part = products[start : start + size].view(last - first, rows * columns)
        grad_hidden[first:last] += part @ weight[:rows, :columns].flatten(0, 1)
        grad_weight[:rows, :columns] += (part.T @ hidden[first:last]).unflatten(0, (rows, columns))
        grad_bias[:rows, :columns] += part.sum(0).unflatten(0, (rows, columns))
    return [grad_hidden, grad_weight, grad_bias]


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
    hidden, weight, bias, blocks, runs, *tables = ctx.saved_tensors  # they can be asked for once
    found = decode_backward_op(grad, hidden, weight, bias, blocks, tables, runs)
    return *found, [None] * len(tables), None, None, None


decode_op.register_autograd(decode_backward, setup_context=keep_for_backward)


class RecordedDecode(torch.autograd.Function):
    """The operation, recorded without torch's machinery for operators, which imports torch's compiler."""

    forward = staticmethod(computed_decode)
    setup_context = staticmethod(keep_for_backward)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, blocks, runs, *tables = ctx.saved_tensors
        run = computed_gradients if is_plain([grad, hidden, weight, bias, blocks]) else decode_backward_op
        return *run(grad, hidden, weight, bias, blocks, tables, runs), None, None, None, None
