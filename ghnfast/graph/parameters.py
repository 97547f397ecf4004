"""What is predicted: parameters, parts of parameters, and weights that are computed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

# Parameters of other types are kept as they are.
PREDICTED_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class ParameterSlice(NamedTuple):
    """A part of a parameter that is predicted as a parameter of its own.

    parameter, parameter_shape: the name and shape of the whole.
    bounds: start, stop and step along each of its dimensions.
    shape: that of the part.
    dimensions: which dimension of the whole each dimension of the part is; -1 for one of size 1 that is none.
    """

    parameter: str
    parameter_shape: tuple[int, ...]
    bounds: tuple[tuple[int, int, int], ...]
    shape: tuple[int, ...]
    dimensions: tuple[int, ...]

    @property
    def label(self) -> str:
        """The part in Python's notation: "0:8, 0:16"; transposed parts end in their order of dimensions."""
        labels = [f"{start}:{stop}" + (f":{step}" if step > 1 else "") for start, stop, step in self.bounds]
        moved = [at for at in self.dimensions if at >= 0]
        return ", ".join(labels) + (f" as {moved}" if moved != sorted(moved) else "")

    def is_within(self) -> bool:
        """Whether the part is one: its bounds are in the whole, and give its shape."""
        if len(self.bounds) != len(self.parameter_shape) or len(self.dimensions) != len(self.shape):
            return False
        counts = [len(range(*bounds)) for bounds in self.bounds]
        inside = all(
            0 <= start < stop <= size and step > 0
            for (start, stop, step), size in zip(self.bounds, self.parameter_shape, strict=True)
        )
        sizes = [1 if at == -1 else counts[at] if 0 <= at < len(counts) else 0 for at in self.dimensions]
        return inside and tuple(sizes) == tuple(self.shape) and math.prod(counts) == math.prod(sizes)

    def of(self, whole: torch.Tensor) -> torch.Tensor:
        """The part of a parameter of this shape, in its memory."""
        part = whole.detach()[tuple(slice(*bounds) for bounds in self.bounds)]
        strides = [1 if at < 0 else part.stride(at) for at in self.dimensions]
        return part.as_strided(self.shape, strides, part.storage_offset())

    def overlaps(self, other: ParameterSlice) -> bool:
        """Whether two parts of one parameter have an element in common."""
        pairs = zip(self.bounds, other.bounds, strict=True)
        return all(not set(range(*one)).isdisjoint(range(*two)) for one, two in pairs)


class Reparametrization(NamedTuple):
    """A weight that a model computes from parameters, which can be computed from it: by its right inverse.

    module, tensor: the path of the module, and the name of its weight.
    originals: the names of the parameters.
    """

    module: str
    tensor: str
    originals: tuple[str, ...]


def unpredicted_weight(shape: Sequence[int]) -> str | None:
    """Why no weight of this shape is predicted; None where one may be."""
    return None if len(shape) in (2, 4) else f"a weight of shape {tuple(shape)}; matrices and 4-D kernels are predicted"
