"""The operation in Triton (kernels/layers.py), on what is on the device already."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..decode import FINE
from .layer import Layer, Stages, Weights


class StageTables(NamedTuple):
    """`Stages` on a device. tables: see kernels/layer_tables.py. ends: the items where stages begin, and the last ends."""

    tables: list[Tensor]
    ends: list[int]


def arrays_of(stages: Stages) -> tuple[list[NDArray[Any]], list[int]]:
    """`StageTables`, before they are uploaded."""
    from ...kernels import layer_tables

    in_order = operator.itemgetter(*map(Layer._fields.index, layer_tables.FIELDS))
    rows = [
        np.array([in_order(layer.filled()) for layer in stage], dtype=layer_tables.LAYER) for stage in stages.stages
    ]
    arrays, ends = layer_tables.tables(rows)
    return [*arrays, stages.rows, stages.constants], ends


def run_layers(scratch: Tensor, states: Tensor, weights: Weights, tables: StageTables, first: int, last: int) -> None:
    """Compute the stages first up to last: `scratch` (elements,) is written, `states` (nodes, hid) read."""
    from ...kernels import layer_tables, layers

    on_device = layer_tables.Tables(*tables.tables)
    for stage in range(first, last):
        begin, end = tables.ends[stage], tables.ends[stage + 1]
        if begin < end:
            layers.run_stage(scratch, states, weights.addresses, on_device, begin, end)


def embed(states: Tensor, status: Tensor, indices: Tensor, weights: Weights) -> None:
    """Write the initial states of nodes, (nodes, hid), and `FINE` into the status, () int32.

    Args:
        indices: (nodes, 5) or (nodes, 8) int32, rows of the first weights, see `naive_embedding`.
    """
    from ...kernels import layers

    layers.embed(states, status, indices, weights.addresses, FINE)
