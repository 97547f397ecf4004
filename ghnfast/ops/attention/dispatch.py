"""`attention`: the implementation that fits where the tensors are."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import ConfigError
from ..backend import autocasts, backend_for, is_eager, is_plain
from .naive import naive_attention
from .operators import RecordedAttention, attention_op, native_attention, triton_attention, triton_tables
from .relations import CODES, Relations


def attention(qkv: Tensor, table: Tensor, relations: Relations) -> Tensor:
    """Every node of a graph attends to every node of it, with an additive bias by the distances between the two.

    softmax over j of (q_i . k_j / sqrt(width) + table[code(i, j)]), times v_j; head by head. Differentiable once with
    respect to `qkv` and `table`. Logits are never all there at once: memory grows with the nodes, but for the codes.

    Under autocast, it is computed and returned in float32 all the same: rounded logits are off by percents.

    Args:
        qkv: (nodes, 3 heads width): queries, keys and values of all nodes, each (heads, width).
        table: (`CODES`, heads), the bias of each code of a pair.
        relations: the codes of all pairs of a batch's graphs.

    Returns:
        (nodes, heads width).

    Raises:
        ConfigError: sizes or dtypes that do not fit each other.
        BackendError: see `GHNFAST_BACKEND`.
    """
    if autocasts(qkv):
        dtype = torch.promote_types(torch.promote_types(qkv.dtype, table.dtype), torch.float32)
        with torch.autocast(qkv.device.type, enabled=False):
            return attention(qkv.to(dtype), table.to(dtype), relations)
    check(qkv, table, relations)
    backend = backend_for(qkv)
    if backend == "torch":
        return naive_attention(qkv, table, relations)
    if is_plain([qkv, table]):
        if backend == "cpp":
            return native_attention(qkv, table, relations.native, False)[0]
        return triton_attention(qkv, table, triton_tables(relations, qkv.device), False)[0]
    differentiated = torch.is_grad_enabled() and (qkv.requires_grad or table.requires_grad)
    if backend == "cpp":
        tables = [torch.from_numpy(relations.graph_offsets), torch.from_numpy(relations.codes)]
    else:
        tables = triton_tables(relations, qkv.device)
    run = RecordedAttention.apply if differentiated and is_eager([qkv, table]) else attention_op
    result: Tensor = run(qkv, table, tables, differentiated)[0]
    return result


def check(qkv: Tensor, table: Tensor, relations: Relations) -> None:
    if table.ndim != 2 or len(table) != CODES or not table.shape[1] or qkv.ndim != 2 or not is_divided(qkv, table):
        raise ConfigError(
            f"qkv has shape {tuple(qkv.shape)} and the table {tuple(table.shape)}; (nodes, 3 heads width) and "
            f"({CODES}, heads) are accepted"
        )
    if len(qkv) != relations.graph_offsets[-1]:
        raise ConfigError(f"qkv has {len(qkv)} nodes and the graphs {relations.graph_offsets[-1]}; equals are accepted")
    if (qkv.dtype, qkv.device) != (table.dtype, table.device):
        raise ConfigError(
            f"qkv is {qkv.dtype} on {qkv.device} and the table {table.dtype} on {table.device}; equals are accepted"
        )


def is_divided(qkv: Tensor, table: Tensor) -> bool:
    """Whether there are queries, keys and values of all heads, a number or more each."""
    return qkv.shape[1] > 0 and qkv.shape[1] % (3 * table.shape[1]) == 0
