"""What a sweep computes with."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from numpy.typing import NDArray
from torch import Tensor

from ..backend import as_arrays


class MlpWeights(NamedTuple):
    """Two linear layers, each followed by a ReLU."""

    weight_1: Tensor  # (hidden, in)
    bias_1: Tensor  # (hidden,)
    weight_2: Tensor  # (out, hidden)
    bias_2: Tensor  # (out,)


class GruWeights(NamedTuple):
    """A gated recurrent unit in the layout of torch.nn.GRUCell: reset, update and new gates stacked."""

    weight_input: Tensor  # (3 hid, hid)
    weight_hidden: Tensor  # (3 hid, hid)
    bias_input: Tensor  # (3 hid,)
    bias_hidden: Tensor  # (3 hid,)


@dataclass(frozen=True, eq=False)
class SweepWeights:
    """What a sweep computes with. `virtual` is the MLP of the virtual edges, or None where there are none."""

    direct: MlpWeights
    virtual: MlpWeights | None
    gru: GruWeights
    # The last addresses that `arrays` saw, and what it made of them.
    known_arrays: list[tuple[list[int], list[NDArray[Any]]]] = field(default_factory=list, repr=False)

    @cached_property
    def flat(self) -> list[Tensor]:
        """All weights in the order that C++ takes them: 8, or 12 with virtual edges."""
        return [*self.direct, *self.gru, *(self.virtual or ())]

    def arrays(self) -> list[NDArray[Any]]:
        """`flat` for C++. Arrays in the weights' own memory are kept for as long as it is theirs."""
        addresses = [weight.data_ptr() for weight in self.flat]
        if self.known_arrays and self.known_arrays[-1][0] == addresses:
            return self.known_arrays[-1][1]
        arrays: list[NDArray[Any]] = as_arrays(*self.flat)
        if all(weight.is_contiguous() for weight in self.flat):
            self.known_arrays[:] = [(addresses, arrays)]
        return arrays
