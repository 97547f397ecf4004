"""The part of a GHN that makes node states aware of the graph: a gated sweep, or nothing but a per-node MLP."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..graph import MAX_DISTANCE, GraphBatch
from ..ops.sweep import GruWeights, MlpWeights, SweepWeights, apply_mlp, gated_sweep
from .config import GHNConfig
from .linear import layer_weights
from .registry import HYPERNETS, Hypernet


class Mlp(nn.Module):
    """Two linear layers with a ReLU after each; `last_relu=False` leaves out the second."""

    def __init__(self, inputs: int, hidden: int, outputs: int, last_relu: bool = True) -> None:
        nn.Module.__init__(self)  # the next class of `NodeMlp` takes a configuration
        self.inputs, self.hidden = inputs, hidden
        layers = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)]
        self.fc = nn.Sequential(*layers, nn.ReLU()) if last_relu else nn.Sequential(*layers)

    @property
    def linear_layers(self) -> tuple[nn.Module, nn.Module]:
        layers: dict[str, Any] = self._modules["fc"]._modules  # type: ignore[union-attr]
        return layers["0"], layers["2"]

    @property
    def weights(self) -> MlpWeights:
        first, second = self.linear_layers
        return MlpWeights(*layer_weights(first, self.inputs), *layer_weights(second, self.hidden))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(x)
        return result


class GatedSweep(Hypernet):
    """A forward and a backward sweep of gated message passing (GHN-1), with virtual edges if `ve` (GHN-2)."""

    def __init__(self, config: GHNConfig) -> None:
        super().__init__(config)
        hid, ve = config.hid, config.ve
        self.ve = ve
        self.cutoff = MAX_DISTANCE if ve else 1  # how many hops messages go at most
        self.mlp = Mlp(hid, hid // 2 if ve else hid, hid)
        if ve:
            self.mlp_ve = Mlp(hid, hid // 2, hid)
        self.gru = nn.GRUCell(hid, hid)
        self.known_weights: SweepWeights | None = None

    def forward(self, states: Tensor, batch: GraphBatch) -> Tensor:
        return gated_sweep(states, batch.topology(self.cutoff), self.weights)

    @property
    def native_weights(self) -> Sequence[Tensor]:
        """In the order of the C++ forward pass."""
        return self.weights.flat

    @property
    def weights(self) -> SweepWeights:
        """The weights of all layers; the same object while they are the same tensors."""
        own_layers: dict[str, Any] = self._modules  # past `__getattr__`, which takes longer than the rest
        far = own_layers["mlp_ve"].linear_layers if self.ve else ()
        layers = (*own_layers["mlp"].linear_layers, own_layers["gru"], *far)
        own = [weight for layer in layers for weight in layer._parameters.values()]
        known = self.known_weights
        if known is None or len(known.flat) != len(own) or not all(map(operator.is_, known.flat, own)):
            gru = GruWeights(self.gru.weight_ih, self.gru.weight_hh, self.gru.bias_ih, self.gru.bias_hh)
            known = SweepWeights(self.mlp.weights, self.mlp_ve.weights if self.ve else None, gru)
            # Tensors that stand in for parameters during one call are not kept.
            self.known_weights = known if all(type(weight) is nn.Parameter for weight in known.flat) else None
        return known


class NodeMlp(Mlp, Hypernet):
    """The baseline without message passing: each node on its own."""

    cutoff = 1

    def __init__(self, config: GHNConfig) -> None:
        Mlp.__init__(self, config.hid, config.hid, config.hid)

    def forward(self, states: Tensor, batch: GraphBatch | None = None) -> Tensor:
        return apply_mlp(states, self.weights)

    @property
    def native_weights(self) -> Sequence[Tensor]:
        """In the order of the C++ forward pass."""
        return self.weights


HYPERNETS["gatedgnn"] = GatedSweep
HYPERNETS["mlp"] = NodeMlp
