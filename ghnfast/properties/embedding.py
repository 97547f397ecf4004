"""`ArchitectureEmbedding`: architectures as vectors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from ..deepnets import GENOTYPES, DeepNet, Genotype, graph_of
from ..errors import ConfigError, TraceError
from ..graph import ArchGraph, GraphBatch
from ..nn import GHN
from ..optional import import_optional
from ..predict import default_ghn, load
from ..spaces import check_name, is_name, network_of
from ..spaces.nas_bench_201 import EXAMPLE
from ..tracing import trace
from ..weightless import WithoutMemory
from .paths import path_sums
from .pooling import Sizes, check_pool, names_of, pooled, sizes_of

base: Any = import_optional("sklearn.base", "ghnfast.properties needs")
validation: Any = import_optional("sklearn.utils.validation", "ghnfast.properties needs")

# A network in any form.
Architecture: TypeAlias = nn.Module | ArchGraph | DeepNet | Genotype | str

ACCEPTED = (
    "modules, ghnfast.ArchGraphs, ghnfast.deepnets.Genotypes and DeepNets, and texts that name genotypes, or networks "
    "of ghnfast.spaces, are accepted"
)
# The network that stands for a genotype.
OF_GENOTYPES: dict[str, Any] = {"C": 32, "n_cells": 8, "num_classes": 10, "is_imagenet_input": False}
MOST_NODES = 10_000  # of a batch, whose states are in memory at once


class OfNetworks(base.TransformerMixin, base.BaseEstimator):
    """What takes lists of networks, and makes numbers of them."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.requires_fit = True
        return tags


class ArchitectureEmbedding(OfNetworks):
    """A scikit-learn transformer from architectures to vectors: node states of a GHN, pooled.

    It takes lists of networks in any form: modules; their graphs (`ghnfast.trace`); networks of
    `ghnfast.deepnets.DeepNets1M`; genotypes, which stand for networks of 8 cells and 32 channels for 32 x 32 images;
    texts, which name networks of `ghnfast.spaces`, or genotypes (`DARTS`, or as their `repr` is). Networks that are
    given are neither run nor changed. The vector of a network does not depend on what else is in the list. Lists may be
    arrays and columns of data frames; of iterators and data sets, which make networks one at a time, few are kept.

    Source: Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", NeurIPS 2021, Section 5.2.

    Args:
        ghn: a GHN, or what `ghnfast.load` takes; by default `ghn2-fashion`, which comes with the package.
        pool: "stats", or "mean", as published; see `ghnfast.properties.pooling.pooled`. After what that says "stats"
            has what the graph's paths are made of: asinh of `ghnfast.properties.paths.path_sums`.
        input_shape: of one input of the modules, see `ghnfast.trace`; by default what a module says of itself, else
            (3, 224, 224); for texts (3, 32, 32).

    Attributes:
        ghn_: the GHN, after `fit`.
    """

    def __init__(
        self,
        ghn: GHN | str | os.PathLike[str] | None = None,
        pool: str = "stats",
        input_shape: Sequence[int] | None = None,
    ) -> None:
        self.ghn = ghn
        self.pool = pool
        self.input_shape = input_shape

    def fit(self, X: Iterable[Architecture] | None = None, y: object = None) -> ArchitectureEmbedding:
        """Load the GHN; nothing is learned of the networks.

        Raises:
            ConfigError: `pool` or `ghn` is something else.
            CheckpointError: the GHN cannot be loaded.
        """
        check_pool(self.pool)
        self.ghn_ = loaded_ghn(self.ghn)
        return self

    def transform(self, X: Iterable[Architecture]) -> NDArray[np.float64]:
        """(networks, numbers): the vectors of networks.

        Raises:
            ConfigError: something is no network; the message says which, and what is accepted.
            TraceError: a module cannot be traced; the message says which.

        Warns:
            UserWarning: most of a module is in layers that its graph does not have, such as 3-D convolutions.
        """
        validation.check_is_fitted(self, "ghn_")
        check_pool(self.pool)
        parts = [
            embedded(self.ghn_, GraphBatch(graphs), sizes_of(graphs), self.pool)
            for graphs in batches(self.graphs(checked(X)))
        ]
        if not parts:
            raise ConfigError(f"an empty list of networks was given; one network or more is accepted: {ACCEPTED}")
        return np.concatenate(parts)

    def graphs(self, networks: Iterable[Architecture]) -> Iterator[ArchGraph]:
        of_all = f" of {len(networks)}" if isinstance(networks, Sized) else ""
        for position, item in enumerate(networks):
            check_network(position, item)
            try:
                yield self.graph(item)
            except TraceError as error:
                raise TraceError(f"network {position}{of_all}: {error}") from error

    def graph(self, item: Architecture) -> ArchGraph:
        """The graph of a network in any form."""
        if isinstance(item, str):
            item = named(item)
        if isinstance(item, ArchGraph):
            return item
        if isinstance(item, DeepNet):
            return item.graph
        if isinstance(item, Genotype):
            return graph_of(genotype=item, **OF_GENOTYPES)
        if isinstance(item, str):
            with WithoutMemory():
                network = network_of(item)
            return trace(network, input_shape=self.input_shape)
        graph = trace(item, input_shape=self.input_shape)
        warn_of_unknown(item, graph)
        return graph

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """What each number of a vector is."""
        validation.check_is_fitted(self, "ghn_")
        return np.array(names_of(check_pool(self.pool), self.ghn_.settings.hid), dtype=object)


def loaded_ghn(given: object) -> GHN:
    """The GHN that was given, or that a source stands for; the default for None.

    Raises:
        ConfigError: it is something else.
        CheckpointError: it cannot be loaded.
    """
    if not isinstance(given, (GHN, str, os.PathLike)) and given is not None:
        raise ConfigError(f"ghn is {given!r:.80}; a GHN, a name, a path or None is accepted")
    found = default_ghn() if given is None else given
    return found if isinstance(found, GHN) else load(found)


def named(text: str) -> Genotype | str:
    """The network that a text names; those of spaces stay texts, of which modules are made one at a time.

    Raises:
        ConfigError: nothing is called so.
    """
    text = text.strip()
    if text.startswith("Genotype") or text in GENOTYPES:
        return Genotype.of(text)
    if is_name(text):
        return check_name(text)
    raise ConfigError(
        f"{text!r:.120} names no network; genotypes ({', '.join(GENOTYPES)}, or Genotype(normal=[(operation, state), "
        f"...], normal_concat=[...], reduce=[...], reduce_concat=[...])), a cell of NAS-Bench-201, such as {EXAMPLE}, "
        "and a code of NAS-Bench-Macro, such as 01220211, are accepted"
    )


def warn_of_unknown(model: nn.Module, graph: ArchGraph) -> None:
    """Say where most of a network is in layers that have no node, and that nothing is known of them."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    unknown = [name for name in sizes if name in graph.skipped]
    share = sum(sizes[name] for name in unknown) / max(1, sum(sizes.values()))
    if share > 0.5:
        warnings.warn(
            f"{share:.0%} of the numbers in the parameters of {type(model).__name__} have no node in its graph "
            f"({unknown[0]}: {graph.skipped[unknown[0]]}): its vector says nothing of them",
            stacklevel=2,
        )


def checked(networks: Iterable[Architecture]) -> Iterable[Architecture]:
    """A list of networks, all of which are; or, of an iterator or a data set, what makes them one at a time.

    Raises:
        ConfigError: it is none.
    """
    # Sets have no order that labels could have, too.
    if isinstance(networks, (str, nn.Module, Mapping, set, frozenset)) or not isinstance(networks, Iterable):
        raise ConfigError(f"networks is {networks!r:.80}; a list of them is accepted: {ACCEPTED}")
    if isinstance(networks, np.ndarray) or hasattr(networks, "columns"):  # a data frame's iterator gives their names
        table: NDArray[Any] = np.asarray(networks)
        if table.ndim != 1 and (table.ndim != 2 or table.shape[1] != 1):
            raise ConfigError(f"networks have the shape {table.shape}; a list, or one column, is accepted: {ACCEPTED}")
        networks = table.reshape(-1)
    if isinstance(networks, (Iterator, Dataset)):
        return networks
    found = list(networks)
    for position, item in enumerate(found):
        check_network(position, item)
    return found


def check_network(position: int, item: object) -> None:
    if not isinstance(item, (nn.Module, ArchGraph, DeepNet, Genotype, str)):
        raise ConfigError(f"network {position} is {item!r:.80}; {ACCEPTED}")


def batches(graphs: Iterable[ArchGraph]) -> Iterator[list[ArchGraph]]:
    """Runs of graphs of at most `MOST_NODES` nodes together, or of one graph."""
    batch: list[ArchGraph] = []
    nodes = 0
    for graph in graphs:
        if batch and nodes + len(graph) > MOST_NODES:
            yield batch
            batch, nodes = [], 0
        batch.append(graph)
        nodes += len(graph)
    if batch:
        yield batch


def embedded(ghn: GHN, batch: GraphBatch, sizes: Sizes, pool: str) -> NDArray[np.float64]:
    """The vectors of a batch of graphs."""
    vectors = pooled(ghn.embed_batch(batch).detach().float().cpu().numpy(), sizes, pool)
    if pool == "mean":
        return vectors
    # Like a logarithm on both sides of zero: a deep network's are not far out.
    return np.concatenate([vectors, np.arcsinh(path_sums(batch))], axis=1)
