"""Batches of graphs of DeepNets-1M, sampled in C++ without an object for each network."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from .. import _C
from ..errors import ConfigError
from ..graph import MAX_DISTANCE, GraphBatch, Topology, topology_of
from .dataset import SPLITS, DeepNets1M


class SampledBatch(GraphBatch):
    """The graphs of networks [begin, end) of a data set, for `GHN.node_states`; each equals `dataset[index].graph`.

    Attributes:
        offsets: (graphs + 1,) int64, the first node of each graph, and their number.
        elements: (graphs,) int64, how many numbers the parameters that have a node have.
        edge_counts, depths: (graphs,) int64, edges and levels of each graph.

    Raises:
        ConfigError: the networks are read from files, or are predefined, or not there.
    """

    def __init__(self, dataset: DeepNets1M, begin: int, end: int) -> None:
        if dataset.published is not None or dataset.split == "predefined":
            raise ConfigError(f"networks of the split {dataset.split} come from files; sampled ones are accepted")
        if not 0 <= begin < end <= len(dataset):
            raise ConfigError(f"networks {begin} to {end} were asked for; the split has {len(dataset)}")
        offsets, self.kinds, self.node_levels, self.shapes, self.edges, self.elements = _C.sample_graphs(
            SPLITS.index(dataset.split), dataset.seed, begin, end, dataset.ranges, dataset.num_classes,
            dataset.large_images, torch.get_num_threads(),
        )  # fmt: skip
        self.offsets = offsets
        self.topologies: dict[int, Topology] = {}

    @property
    def primitives(self) -> NDArray[np.int8]:
        return self.kinds

    @property
    def shape_table(self) -> NDArray[np.int64]:
        return self.shapes

    @cached_property
    def edge_counts(self) -> NDArray[np.int64]:
        graph_of_node = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return np.bincount(graph_of_node[self.edges[:, 1]], minlength=len(self.offsets) - 1)

    @property
    def depths(self) -> NDArray[np.int64]:
        return self.node_levels[self.offsets[1:] - 1].astype(np.int64) + 1

    def topology(self, cutoff: int = MAX_DISTANCE) -> Topology:
        if cutoff not in self.topologies:
            self.topologies[cutoff] = topology_of(self.offsets, self.edges, self.node_levels, cutoff)
        return self.topologies[cutoff]
