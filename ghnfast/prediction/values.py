"""The parameters of graphs as values, differentiable: what a GHN is trained with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..graph import GraphBatch
from ..ops.decode import DecodeSource, decode
from .layout import Layout, Request, lay_out, table_of_batch
from .slots import Form, slots_of


def values_of(
    batch: GraphBatch, request: Request, source: Callable[[Layout], DecodeSource], precision: str
) -> list[dict[str, Tensor]]:
    """For each graph of a batch {name: tensor in the parameter's shape}; see `GHN.forward`.

    Args:
        request: what slots ask the GHN's decoders for.
        source: everything but the last step of decoding.
    """
    slots = [slots_of(graph) for graph in batch.graphs]
    rows = [np.arange(len(own.names)) for own in slots]
    layout = lay_out(table_of_batch(batch, slots, rows, request), request)
    values = decode(source(layout), layout.targets, precision)
    owners = [(graph, slot) for graph, own in enumerate(slots) for slot in range(len(own.names))]
    found: list[dict[str, Tensor]] = [{} for _ in slots]
    for index, value in zip(layout.order.tolist(), values, strict=True):
        graph, slot = owners[index]
        name = slots[graph].names[slot]
        if slots[graph].parameters_of(name) == (name,):
            found[graph][name] = shaped(value, slots[graph].forms[slot])
    return found


def shaped(value: Tensor, form: Form) -> Tensor:
    """A decoded value (out, in, cells) as the parameter that it is."""
    if form.tokens:
        value = F.pad(value.flatten(1), (0, 0, form.tokens, 0))
    return value.reshape(form.parameter_shape)
