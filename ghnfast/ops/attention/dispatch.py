"""`attention`: the implementation that fits where the tensors are."""

from __future__ import annotations

from torch import Tensor

from ...errors import ConfigError
from .naive import naive_attention
from .relations import CODES, Relations


def attention(qkv: Tensor, table: Tensor, relations: Relations) -> Tensor:
    """Every node of a graph attends to every node of it, with an additive bias by the distances between the two.

    softmax over j of (q_i . k_j / sqrt(width) + table[code(i, j)]), times v_j; head by head.

    Args:
        qkv: (nodes, 3 heads width): queries, keys and values of all nodes, each (heads, width).
        table: (`CODES`, heads), the bias of each code of a pair.
        relations: the codes of all pairs of a batch's graphs.

    Returns:
        (nodes, heads width).

    Raises:
        ConfigError: sizes that do not fit each other.
    """
    heads = table.shape[-1]
    if table.ndim != 2 or len(table) != CODES or qkv.ndim != 2 or qkv.shape[1] % (3 * heads):
        raise ConfigError(
            f"qkv has shape {tuple(qkv.shape)} and the table {tuple(table.shape)}; (nodes, 3 heads width) and "
            f"({CODES}, heads) are accepted"
        )
    if len(qkv) != relations.graph_offsets[-1]:
        raise ConfigError(f"qkv has {len(qkv)} nodes and the graphs {relations.graph_offsets[-1]}; equals are accepted")
    return naive_attention(qkv, table, relations)
