"""Graphormer layers (GHN-3): every node of a graph attends to every other one, with a bias by their distances.

Source: Can We Scale Transformers to Predict Parameters of Diverse ImageNet Models? (Knyazev et al., ICML 2023),
section 3. The modules have the names that published weights have.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ConfigError
from ..graph import MAX_DISTANCE, GraphBatch, Topology
from ..ops.attention import CODES, Relations, attention, relations_of
from ..ops.uploads import in_use, uploaded
from .config import GHNConfig
from .registry import HYPERNETS, Hypernet

if TYPE_CHECKING:
    from .ghn import GHN

MOST_DEGREE, MOST_DISTANCE, EDGE_ROWS = 100, 1000, 257
NO_PATH = 2  # the row of the edge table for no path; that of d hops is NO_PATH + d


class EdgeEmbedding(nn.Module):
    """A row for each distance in hops."""

    def __init__(self, hid: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(EDGE_ROWS, hid)


@functools.cache
def rows_of_codes(device: torch.device) -> Tensor:
    """(`CODES`, 2): the rows of the edge table for the two distances of each code of a pair."""
    rows = np.full((CODES, 2), NO_PATH)
    hops = np.arange(1, MAX_DISTANCE + 1)
    rows[1 : MAX_DISTANCE + 1, 0] += hops
    rows[MAX_DISTANCE + 1 :, 1] += hops
    return uploaded([rows], device)[0]


class Attention(nn.Module):
    """Attention of one layer. The first layer's has what the bias of all layers is computed with, too."""

    def __init__(self, config: GHNConfig, first: bool) -> None:
        super().__init__()
        hid = config.hid
        self.to_qkv = nn.Linear(hid, 3 * hid, bias=False)
        self.to_out = nn.Sequential(nn.Linear(hid, hid), nn.Identity())
        if first:
            self.edge_embed = EdgeEmbedding(hid)
            self.proj_e = nn.Sequential(nn.Linear(2 * hid, hid), nn.ReLU(), nn.Linear(hid, config.heads))

    def bias_table(self) -> Tensor:
        """(`CODES`, heads): the bias of each code of a pair."""
        rows = rows_of_codes(self.to_qkv.weight.device)
        in_use([rows])
        table: Tensor = self.proj_e(self.edge_embed.embed.weight[rows].flatten(1))
        return table

    def forward(self, x: Tensor, table: Tensor, relations: Relations) -> Tensor:
        result: Tensor = self.to_out(attention(self.to_qkv(x), table, relations))
        return result


class FeedForward(nn.Module):
    def __init__(self, hid: int) -> None:
        super().__init__()
        layers = [nn.Linear(hid, 4 * hid), nn.GELU(), nn.Identity(), nn.Linear(4 * hid, hid), nn.Identity()]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x)
        return result


def position_rows(topology: Topology) -> list[NDArray[np.int64]]:
    """Each node's rows, (nodes,), in the tables of degrees, to it and from it, and of distances from the input."""
    degree_in, degree_out = topology.degrees
    degrees = np.minimum(degree_in, MOST_DEGREE), np.minimum(degree_out, MOST_DEGREE)
    return [*degrees, topology.distances_from_first]


class GraphormerLayer(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)). The first has the tables of degrees and of input distances, too."""

    def __init__(self, config: GHNConfig, first: bool) -> None:
        super().__init__()
        hid = config.hid
        if first:
            self.centrality_embed_in = nn.Embedding(MOST_DEGREE + 1, hid)
            self.centrality_embed_out = nn.Embedding(MOST_DEGREE + 1, hid)
            self.input_dist_embed = nn.Embedding(MOST_DISTANCE + 1, hid)
        self.ln1, self.ln2 = nn.LayerNorm(hid), nn.LayerNorm(hid)
        self.attn = Attention(config, first)
        self.ff = FeedForward(hid)

    def positions(self, batch: GraphBatch, cutoff: int) -> Tensor:
        """What degrees and the distance from the input add to each node's state: (nodes, hid)."""
        device = self.ln1.weight.device
        tables = (self.centrality_embed_in, self.centrality_embed_out, self.input_dist_embed)
        rows = position_rows(batch.topology(cutoff))
        added = [table(torch.from_numpy(row).to(device)) for table, row in zip(tables, rows, strict=True)]
        return cast(Tensor, added[0] + added[1] + added[2])

    def forward(self, x: Tensor, table: Tensor, relations: Relations) -> Tensor:
        x = x + self.attn(self.ln1(x), table, relations)
        result: Tensor = x + self.ff(self.ln2(x))
        return result


class Graphormer(Hypernet):
    """Layers of attention over all nodes (GHN-3): so many `layers` and `heads`, distances beyond one hop where `ve`.

    Raises:
        ConfigError: heads do not divide the width.
    """

    centred = True
    attends = True
    settings = ("layers", "heads")

    def __init__(self, config: GHNConfig) -> None:
        super().__init__(config)
        if config.hid % config.heads:
            raise ConfigError(f"heads is {config.heads} and hid is {config.hid}; a divisor of hid is accepted")
        self.cutoff = MAX_DISTANCE if config.ve else 1
        for layer in range(config.layers):
            self.add_module(str(layer), GraphormerLayer(config, layer == 0))

    @property
    def layers(self) -> list[GraphormerLayer]:
        return cast("list[GraphormerLayer]", list(self._modules.values()))

    @property
    def native_weights(self) -> Sequence[Tensor]:
        """In the order of the C++ forward pass."""
        first, *_ = layers = self.layers
        tables = first.centrality_embed_in, first.centrality_embed_out, first.input_dist_embed
        own = [*tables, first.attn.edge_embed.embed, first.attn.proj_e[0], first.attn.proj_e[2]]
        for layer in layers:
            own += [layer.ln1, layer.attn.to_qkv, layer.attn.to_out[0], layer.ln2, layer.ff.net[0], layer.ff.net[3]]
        return [weight for module in own for weight in module._parameters.values() if weight is not None]

    def forward(self, states: Tensor, batch: GraphBatch) -> Tensor:
        layers = self.layers
        relations = relations_of(batch.topology(self.cutoff))
        states = states + layers[0].positions(batch, self.cutoff)
        table = layers[0].attn.bias_table()
        for layer in layers:
            states = layer(states, table, relations)
        return states

    def initialize(self, ghn: GHN) -> None:
        """As published: tables normal with variance 1 / width; the decoders' last layers a fifth of torch's default."""
        for module in ghn.modules():
            if isinstance(module, nn.Embedding):
                deviation = module.embedding_dim**-0.5
                nn.init.trunc_normal_(module.weight, std=deviation)
        for layer in cast("list[nn.Linear]", [ghn.decoder_1d.linear_layers[1], *ghn.decoder.last_layers]):
            with torch.no_grad():
                layer.weight.div_(5)
                layer.bias.zero_()


HYPERNETS["graphormer"] = Graphormer
