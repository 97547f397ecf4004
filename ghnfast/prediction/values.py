"""The parameters of graphs as values, differentiable: what a GHN is trained with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..graph import GraphBatch
from ..ops.decode import DecodeSource, decode
from .layout import Layout, Request, lay_out, table_of_batch
from .slots import Form, chosen, slots_of


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
    choose = chosen(layout.order.tolist())
    forms = choose([form for own in slots for form in own.forms])
    values = decode(source(layout), layout.targets, precision, list(map(decoded_shape_of, forms)))
    found: list[dict[str, Tensor]] = [{} for _ in slots]
    owners = choose([(own, name) for own, of_graph in zip(found, slots, strict=True) for name in of_graph.whole])
    for (own, name), form, value in zip(owners, forms, values, strict=True):
        if name is not None:
            own[name] = with_token_rows(value, form) if form.tokens else value
    return found


def decoded_shape_of(form: Form) -> tuple[int, ...]:
    """A parameter's shape without its rows for tokens."""
    if not form.tokens:
        return form.parameter_shape
    *first, rows, width = form.parameter_shape
    return (*first, rows - form.tokens, width)


def with_token_rows(value: Tensor, form: Form) -> Tensor:
    """Zeros in front of the patches of a position encoding."""
    return F.pad(value, (0, 0, form.tokens, 0))
