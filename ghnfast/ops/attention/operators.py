"""The operation as operators of torch: in C++ on a CPU (csrc/attention), in Triton on a GPU (kernels/attention.py)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import _C
from ..backend import as_arrays, backend_for, is_plain, operator
from ..uploads import Wanted, in_use, upload
from .relations import Relations


def native_attention(qkv: Tensor, table: Tensor, relations: _C.Relations, keep: bool) -> tuple[Tensor, Tensor]:
    values, bias = as_arrays(qkv, table)
    result, log_sums = _C.attention(values, bias, relations, keep, torch.get_num_threads())
    return torch.from_numpy(result), torch.from_numpy(log_sums)


def native_relations(relations: list[Tensor]) -> _C.Relations:
    graph_offsets, codes = as_arrays(*relations)
    return _C.Relations(graph_offsets, codes)


def triton_tables(relations: Relations, device: torch.device) -> list[Tensor]:
    """graph_offsets, pair_offsets, codes and the tiles of programs (see kernels/attention.py)."""
    upload([wanted_tables(relations, device)], device)
    in_use(relations.uploaded[device])
    return relations.uploaded[device]


def wanted_tables(relations: Relations, device: torch.device) -> Wanted | None:
    """What a device has not yet of `triton_tables`."""
    if device in relations.uploaded:
        return None
    offsets = relations.graph_offsets
    arrays: list[NDArray[Any]] = [offsets, relations.pair_offsets, relations.codes, kernels().tiles_of(offsets)]
    return Wanted(arrays, functools.partial(relations.uploaded.__setitem__, device))


def device_attention(
    qkv: Tensor, table: Tensor, relations: Sequence[Tensor], launch: Callable[..., Any], result: Tensor
) -> None:
    """Write the result alone, by what launches it, from contiguous tensors on the current device."""
    kernels().attention(qkv, table, relations, False, launch, result)


@functools.cache
def kernels() -> ModuleType:
    from ...kernels import attention

    return attention


def computed_attention(qkv: Tensor, table: Tensor, relations: list[Tensor], keep: bool) -> tuple[Tensor, Tensor]:
    """The result, and the logarithms of the sums of exponentials, (nodes, heads), which the backward pass reads.

    Args:
        relations: graph_offsets and codes of `Relations`; for Triton `triton_tables`.
        keep: whether there will be a backward pass; without, the logarithms are (0, heads).
    """
    if backend_for(qkv) == "triton":
        return triton_attention(qkv, table, relations, keep)
    return native_attention(qkv, table, native_relations(relations), keep)


def triton_attention(qkv: Tensor, table: Tensor, relations: list[Tensor], keep: bool) -> tuple[Tensor, Tensor]:
    return kernels().attention(qkv, table, relations, keep)


attention_op = operator(
    "attention",
    computed_attention,
    triton_attention,
    "(Tensor qkv, Tensor table, Tensor[] relations, bool keep) -> (Tensor, Tensor)",
)


@attention_op.register_fake
def _(qkv: Tensor, table: Tensor, relations: list[Tensor], keep: bool) -> tuple[Tensor, Tensor]:
    nodes, columns = qkv.shape
    return qkv.new_empty(nodes, columns // 3), qkv.new_empty(nodes if keep else 0, table.shape[1])


def computed_gradients(
    grad: Tensor, qkv: Tensor, table: Tensor, relations: list[Tensor], result: Tensor, log_sums: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of qkv and of the table."""
    if backend_for(qkv) == "triton":
        return triton_attention_backward(grad, qkv, table, relations, result, log_sums)
    given, values, bias, final, sums = as_arrays(grad, qkv, table, result, log_sums)
    found = _C.attention_backward(
        given, values, bias, native_relations(relations), final, sums, torch.get_num_threads()
    )
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def triton_attention_backward(
    grad: Tensor, qkv: Tensor, table: Tensor, relations: list[Tensor], result: Tensor, log_sums: Tensor
) -> tuple[Tensor, Tensor]:
    return kernels().attention_backward(grad, qkv, table, relations, result, log_sums)


attention_backward_op = operator(
    "attention_backward",
    computed_gradients,
    triton_attention_backward,
    "(Tensor grad, Tensor qkv, Tensor table, Tensor[] relations, Tensor result, Tensor log_sums) -> (Tensor, Tensor)",
)


@attention_backward_op.register_fake
def _(
    grad: Tensor, qkv: Tensor, table: Tensor, relations: list[Tensor], result: Tensor, log_sums: Tensor
) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(qkv, memory_format=torch.contiguous_format),
        torch.empty_like(table, memory_format=torch.contiguous_format),
    )


def keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, table, relations, _ = inputs
    ctx.save_for_backward(qkv, table, *output, *relations)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def attention_backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    qkv, table, result, log_sums, *relations = ctx.saved_tensors
    nothing = [None] * len(relations)
    if grad is None:
        return None, None, nothing, None
    return *attention_backward_op(grad, qkv, table, relations, result, log_sums), nothing, None


attention_op.register_autograd(attention_backward, setup_context=keep_for_backward)


class RecordedAttention(torch.autograd.Function):
    """The operation, recorded without torch's machinery for operators, which imports torch's compiler."""

    forward = staticmethod(computed_attention)
    setup_context = staticmethod(keep_for_backward)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        qkv, table, result, log_sums, *relations = ctx.saved_tensors
        if grad is None:
            return None, None, None, None
        run = computed_gradients if is_plain([grad, qkv, table]) else attention_backward_op
        return *run(grad, qkv, table, relations, result, log_sums), None, None
