"""The operation in Triton (kernels/layers.py), on what is on the device already."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..decode import FINE
from .layer import Layer, Stages, Weights


class Launches(dict[Any, Any]):
    """What launches kernels, by names: where they are kept, for arguments that are alike each time."""

    def __missing__(self, name: Any) -> Callable[..., Any]:
        from ...kernels.launching import Repeated

        made = self[name] = Repeated()
        return made


class EachAnew(dict[Any, Any]):
    """The same for arguments of all kinds: nothing is kept."""

    def __missing__(self, name: Any) -> Callable[..., Any]:
        from ...kernels.launching import launch

        return launch


NEW = EachAnew()


@functools.cache
def kernels() -> ModuleType:
    from ...kernels import layers

    return layers


@functools.cache
def attention_kernels() -> ModuleType:
    from ...kernels import graphormer

    return graphormer


class StageTables(NamedTuple):
    """`Stages` on a device.

    tables: `Tables` of kernels/layer_tables.py. ends: the items where stages begin, and the last ends.
    """

    tables: Sequence[Tensor]
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


def run_layers(
    scratch: Tensor,
    states: Tensor,
    weights: Weights,
    tables: StageTables,
    first: int,
    last: int,
    launches: Mapping[Any, Callable[..., Any]] = NEW,
) -> None:
    """Compute the stages first up to last: `scratch` (elements,) is written, `states` (nodes, hid) read.

    Args:
        launches: by stage, what launches it.
    """
    layers, on_device = kernels(), tables.tables
    for stage in range(first, last):
        begin, end = tables.ends[stage], tables.ends[stage + 1]
        if begin < end:
            layers.run_stage(scratch, states, weights.addresses, on_device, begin, end, launches[stage])


def embed(
    states: Tensor,
    status: Tensor,
    indices: Tensor,
    weights: Weights,
    launches: Mapping[Any, Callable[..., Any]] = NEW,
) -> None:
    """Write the initial states of nodes, (nodes, hid), and `FINE` into the status, () int32.

    Args:
        indices: (nodes, 5) or (nodes, 8) int32, rows of the first weights, see `naive_embedding`.
        launches: what launches it, by "embed".
    """
    kernels().embed(states, status, indices, weights.addresses, weights.parts, FINE, launches["embed"])


def begin_attention(
    states: Tensor,
    status: Tensor,
    qkv: Tensor,
    indices: Tensor,
    weights: Weights,
    first: int,
    epsilon: float,
    launches: Mapping[Any, Callable[..., Any]] = NEW,
) -> None:
    """`embed`, and the queries, keys and values of the first layer of attention, by "embed".

    Args:
        qkv: (nodes, 3 hid), which they are written to.
        first: the number of the first layer's first weight, see kernels/graphormer.py.
        epsilon: of its first norm.
    """
    attention_kernels().begin(
        states,
        status,
        qkv,
        indices,
        weights.addresses,
        weights.parts,
        weights.are_aligned,
        FINE,
        first,
        epsilon,
        launches["embed"],
    )


def rest_of_attention(
    states: Tensor,
    attended: Tensor,
    qkv: Tensor,
    weights: Weights,
    first: int,
    number: int,
    epsilon: float,
    following: float | None,
    launches: Mapping[Any, Callable[..., Any]] = NEW,
) -> None:
    """What layer `number` makes of states, in place, after its attention; and the next one's queries, keys and values.

    Args:
        attended: (nodes, hid), the result of attention.
        qkv, first: as of `begin_attention`.
        epsilon, following: of the layer's second norm, and of the first one of the next layer, if there is one.
        launches: by "rest" or, of the last layer, "last".
    """
    kernels = attention_kernels()
    launch = launches["last" if following is None else "rest"]
    own = first + number * kernels.WEIGHTS
    kernels.rest(states, attended, qkv, weights.addresses, weights.are_aligned, own, epsilon, following, launch)
