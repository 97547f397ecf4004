"""What a layer reads, computes and writes, and the weights of all."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# GPUs that the kernels are for have 40 MB of cache and more. Elements of a part of a weight that is fetched into it.
FETCHED_BYTES, PART = 32 << 20, 1 << 15
VECTOR_BYTES = 16


class Activation(IntEnum):
    """What a layer ends with; the numbers are those of kernels/layer_tables.py."""

    NONE = 0
    RELU = 1
    GELU = 2


class Layer(NamedTuple):
    """y[i, n] = activation(weight[n] . norm(x[gather[i]]) + bias[n]) + residual[i, n], for all rows i and outputs n.

    Places and strides are numbers of elements. What is read and written lies in one memory, `scratch`, or is read from
    the `states` of nodes.

    from_states: whether x lies in the states, else in scratch.
    x, x_row, x_in: the first element of x, and its strides along rows and inputs.
    gather: where the entries of `Stages.rows` begin that say which row of x each row reads; -1 for the row itself.
    weight: its number, or -1 for `Stages.constants`.
    weight_first, weight_outer, weight_out, weight_in: its first element, and the strides along n // inner, n % inner
        and inputs.
    bias: its number, or -1 for none. bias_first, bias_outer, bias_out: likewise.
    y, y_row, y_out: the first element of y, and its strides along rows and outputs.
    residual: the first element of what is added at last, with the strides of y; -1 for nothing.
    norm: the number of the weight of a layer norm over x, whose bias has the next number; -1 for none.
    epsilon: of the layer norm.
    """

    x: int
    weight: int
    bias: int
    rows: int
    outputs: int
    inputs: int
    y: int
    activation: Activation = Activation.NONE
    from_states: bool = False
    x_row: int = -1
    x_in: int = 1
    gather: int = -1
    weight_first: int = 0
    weight_outer: int = 0
    weight_out: int = -1
    weight_in: int = 1
    bias_first: int = 0
    bias_outer: int = 0
    bias_out: int = 1
    inner: int = -1
    y_row: int = -1
    y_out: int = 1
    residual: int = -1
    norm: int = -1
    epsilon: float = 0.0

    def filled(self) -> Layer:
        """With strides of matrices that lie there row by row, where none are given."""
        return self._replace(
            x_row=self.inputs if self.x_row < 0 else self.x_row,
            weight_out=self.inputs if self.weight_out < 0 else self.weight_out,
            inner=self.outputs if self.inner < 0 else self.inner,
            y_row=self.outputs if self.y_row < 0 else self.y_row,
        )


@dataclass(frozen=True, eq=False)
class Stages:
    """Layers that read what those of the stages before them have written, and no others.

    stages: of the layers. rows: (entries,) int32. constants: (elements,) float32. See `Layer`.
    elements: how many of scratch they use.
    known: what operations have made of it, by device.
    """

    stages: Sequence[Sequence[Layer]]
    rows: NDArray[np.int32]
    constants: NDArray[np.float32]
    elements: int
    known: dict[torch.device, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights that layers name by number, float32 and contiguous.

    addresses: (weights, 2) int64 on their device: where each is, and how many elements it has.
    parts: (parts, 2) int64 on their device: likewise, of parts of theirs that are brought into a GPU's cache ahead.
    """

    tensors: Sequence[Tensor]
    addresses: Tensor
    parts: Tensor

    @functools.cached_property
    def are_aligned(self) -> bool:
        """Whether four numbers of each may be read at once: they may be parts of other tensors."""
        return all(tensor.data_ptr() % VECTOR_BYTES == 0 for tensor in self.tensors)


def addresses_of(tensors: Sequence[Tensor]) -> NDArray[np.int64]:
    """`Weights.addresses`, before they are uploaded."""
    return np.array([(tensor.data_ptr(), tensor.numel()) for tensor in tensors], dtype=np.int64)


def parts_of(tensors: Sequence[Tensor]) -> NDArray[np.int64]:
    """`Weights.parts`, before they are uploaded: none where weights would leave little of the cache to others."""
    fit = sum(tensor.nbytes for tensor in tensors) <= FETCHED_BYTES
    parts = [
        (tensor.data_ptr() + start * tensor.element_size(), min(PART, tensor.numel() - start))
        for tensor in tensors
        for start in range(0, tensor.numel() if fit else 0, PART)
    ]
    return np.array(parts, dtype=np.int64).reshape(-1, 2)
