"""What a GHN can be made of: names, and the classes that they stand for.

    HYPERNETS["mine"] = MyHypernet
    ghnfast.GHN(hypernet="mine")

A class is called with the `GHNConfig`, and its instances become submodules of the GHN. What an instance has to offer is
`Hypernet` or `Decoder`; CONTRIBUTING.md has the recipes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..errors import ConfigError

if TYPE_CHECKING:
    from .. import _C
    from ..graph import GraphBatch
    from ..prediction.layout import Request
    from .config import GHNConfig
    from .ghn import GHN
    from .linear import LayerWeights


class Hypernet(nn.Module, ABC):
    """What updates node states. Made of a `GHNConfig`.

    cutoff: up to how many hops apart it reads distances of nodes; 1 for edges alone.
    centred: whether kernels are read from the centre of the decoder's cells (GHN-3), not from their corner.
    attends: whether it reads what the nodes of each pair are to each other (`ghnfast.ops.attention.Relations`).
    settings: the names of those settings of `GHNConfig` that only it has.
    """

    cutoff: int = 1
    centred: bool = False
    attends: bool = False
    settings: tuple[str, ...] = ()

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, states: Tensor, batch: GraphBatch) -> Tensor:
        """(nodes, hid) from (nodes, hid), the nodes of all graphs of a batch, one graph after the other."""

    def initialize(self, ghn: GHN) -> None:
        """Set the weights that a new GHN with it starts from, where torch's own initialization will not do."""

    @property
    def native_weights(self) -> Sequence[Tensor] | None:
        """In the order of the C++ forward pass; None where it has none."""
        return None


def states_of(hypernet: Hypernet, states: Tensor, batch: GraphBatch) -> Tensor:
    """What a hypernet makes of states.

    Raises:
        ConfigError: it is something else than states of as many nodes.
    """
    found: object = hypernet(states, batch)
    if not isinstance(found, Tensor) or found.shape != states.shape:
        what = f"states of the shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ConfigError(
            f"the hypernet {type(hypernet).__name__} gives {what}; a tensor of states {tuple(states.shape)}, as it was "
            "given, is accepted"
        )
    return found


class Decoder(nn.Module, ABC):
    """What makes kernels and matrices of node states; vectors have a decoder of their own. Made of a `GHNConfig`.

    request: what slots ask for: the row that each has in the table of slots says which block it is decoded from, and
        how that is repeated and normalized.
    """

    request: Request

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()

    @property
    @abstractmethod
    def last(self) -> LayerWeights:
        """The layer that the last step multiplies `hidden_rows` with: weight (out, in, width), bias (out, in).

        Its width is a multiple of 4, also where nothing is a product.
        """

    @property
    def last_layers(self) -> tuple[nn.Module, ...]:
        """The layers that parameters come from: a hypernet may have them start small (`Hypernet.initialize`)."""
        return ()

    @abstractmethod
    def hidden_rows(self, calls: Sequence[_C.DecoderCall], states: Sequence[Tensor]) -> Tensor:
        """What the last layer reads for calls of kernels, slot by slot and cell by cell: (rows, width).

        Args:
            calls: runs of slots that ask for the same; none where nothing is a product.
            states: the node states of each, (count, hid).
        """

    @abstractmethod
    def blocks(self, call: _C.DecoderCall, states: Tensor) -> Tensor:
        """The blocks of one call that are no products, (count, ...), row-major."""


HYPERNETS: dict[str, type[Hypernet]] = {}
DECODERS: dict[str, type[Decoder]] = {}
