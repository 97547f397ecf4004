"""The definition of the operation, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from .relations import Relations


def naive_attention(qkv: Tensor, table: Tensor, relations: Relations) -> Tensor:
    """`attention`, graph by graph."""
    heads = table.shape[1]
    nodes, triple = qkv.shape
    width = triple // 3 // heads
    query, key, value = qkv.view(nodes, 3, heads, width).permute(1, 2, 0, 3)
    sizes = (relations.graph_offsets[1:] - relations.graph_offsets[:-1]).tolist()
    parts = zip(*(each.split(sizes, 1) for each in (query, key, value)), relations.matrices(), strict=True)
    results = []
    for q, k, v, codes in parts:
        bias = table[torch.from_numpy(codes).to(table.device).long()].permute(2, 0, 1)
        share = torch.softmax(q @ k.transpose(1, 2) * width**-0.5 + bias, -1)
        results.append((share @ v).permute(1, 0, 2).flatten(1))
    return torch.cat(results)
