"""`PredictedAccuracy`: what networks recognize with predicted parameters."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..deepnets import DeepNet, Genotype, Network
from ..errors import ConfigError, GhnfastError, PropertyError
from ..graph import ArchGraph
from ..nn import GHN
from ..optional import import_optional
from ..predict import predict
from ..randomness import SEED, drawing_from
from ..spaces import network_of
from ..training.accuracy import accuracies, check_images
from ..training.data import Images, check_count
from .embedding import OF_GENOTYPES, Architecture, OfNetworks, check_network, checked, loaded_ghn, named

validation: Any = import_optional("sklearn.utils.validation", "ghnfast.properties needs")


class PredictedAccuracy(OfNetworks):
    """A scikit-learn transformer from networks to the share of images that they get right with predicted parameters.

    It ranks networks without any label, and says what their graphs do not; with a GHN of random weights it says
    nothing. The GHN must have been trained on such images, and with networks of such widths. A network is predicted,
    and run once, with the statistics of the batch of all images in its batch normalization. Networks may be given in
    every form that `ArchitectureEmbedding` takes, but as graphs, which cannot be run; modules are copied, and stay as
    they are.

    Source: Zhang et al., "Graph HyperNetworks for Neural Architecture Search", ICLR 2019.

    Args:
        images: such as `val` and `test` of what `ghnfast.training.load_data` gives.
        ghn: a GHN, or what `ghnfast.load` takes; by default `ghn2-fashion`, which comes with the package.
        limit: how many of the images, which are the same for each network.

    Attributes:
        ghn_: the GHN, after `fit`.
    """

    def __init__(self, images: Images, ghn: GHN | str | os.PathLike[str] | None = None, limit: int = 256) -> None:
        self.images = images
        self.ghn = ghn
        self.limit = limit

    def fit(self, X: Iterable[Architecture] | None = None, y: object = None) -> PredictedAccuracy:
        """Load the GHN; nothing is learned of the networks.

        Raises:
            ConfigError: `ghn` is something else.
            CheckpointError: the GHN cannot be loaded.
            TrainingError: `images` or `limit` are something else.
        """
        check_images("images", self.images)
        check_count("limit", self.limit)
        self.ghn_ = loaded_ghn(self.ghn)
        return self

    def transform(self, X: Iterable[Architecture]) -> NDArray[np.float64]:
        """(networks, 1): from 0 to 1.

        Raises:
            ConfigError: something is no network, or a graph; the message says which, and what is accepted.
            PropertyError: a network cannot be predicted, or run; the message says which.
        """
        validation.check_is_fitted(self, "ghn_")
        found = np.array(list(self.shares(checked(X))), dtype=np.float64)
        if not len(found):
            raise ConfigError("an empty list of networks was given; one network or more is accepted")
        return found[:, None]

    def shares(self, networks: Iterable[Architecture]) -> Iterator[float]:
        shape = tuple(self.images.batch([0], 0)[0].shape[1:])
        of_all = f" of {len(networks)}" if isinstance(networks, Sized) else ""
        for position, item in enumerate(networks):
            check_network(position, item)
            with drawing_from(SEED):  # what cannot be predicted is as it was initialized
                network = self.network(position, item)
            try:
                predict(network, self.ghn_, input_shape=shape)
                top1, _ = accuracies(network, self.images, self.images, batch_size=self.limit, limit=self.limit)
            except GhnfastError as error:
                raise PropertyError(f"network {position}{of_all}: {error}") from error
            yield top1 / 100

    def network(self, position: int, item: Architecture) -> nn.Module:
        """A network of its own for each form that can be run."""
        if isinstance(item, str):
            item = named(item)
        if isinstance(item, str):
            return network_of(item)
        if isinstance(item, DeepNet):
            return item.build()
        if isinstance(item, Genotype):
            return Network(genotype=item, **{**OF_GENOTYPES, "num_classes": self.ghn_.num_classes})
        if isinstance(item, ArchGraph):
            raise ConfigError(
                f"network {position} is an ArchGraph, which cannot be run; modules, ghnfast.deepnets.Genotypes and "
                "DeepNets, and texts are accepted"
            )
        return copy.deepcopy(item)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """What the number is."""
        return np.array(["predicted_accuracy"], dtype=object)
