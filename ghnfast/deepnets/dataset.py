"""DeepNets-1M as a data set: index in, network out.

Source: Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", NeurIPS 2021, Section 3 and Appendix A.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import index as as_index
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.utils.data import Dataset, Sampler

from .. import _C
from ..errors import ConfigError, NetworkIndexError
from ..graph import ArchGraph
from ..optional import import_optional
from ..plain import with_plain_numbers
from ..randomness import drawing_from
from ..tracing import trace
from ..weightless import WithoutMemory
from .checks import MOST
from .files import DRAWN, PublishedFile
from .genotype import GENOTYPES, Genotype
from .network import Network
from .space import args_of, genotype_of, graph_from, settings_of

# The splits that are sampled, in the order of `Split` in csrc/deepnets/sampling.hpp, and how many networks they have:
# as many as published; for `search` no publication says it.
SIZES = {
    "train": 1_000_000,
    "val": 500,
    "test": 500,
    "search": 100_000,
    "wide": 100,
    "deep": 100,
    "dense": 100,
    "bnfree": 100,
}
SPLITS = (*SIZES, "predefined")
PREDEFINED = ("resnet50", "ViT")
CHANNEL_STEP, FC_STEP = 16, 64


@dataclass(frozen=True, eq=False)
class DeepNet:
    """A network of DeepNets-1M that nobody has built yet.

    Attributes:
        split, index: where it is from.
        genotype: its cells; None for a predefined network that has none (ResNet-50).
        args: the other arguments of `Network` that the published data set has: C, n_cells, ks, stem_pool, stem_type,
            norm, preproc, C_mult, fc_layers, fc_dim, glob_avg.
        num_classes: the classes that `graph` is for.
        large_images: whether it is for 224 x 224 images, else for 32 x 32.
        num_params: how many numbers its parameters have with 32 channels and ten classes, for either size of images,
            as the published files count: {"cifar10": ..., "imagenet": ...}; empty for predefined networks.
    """

    split: str
    index: int
    genotype: Genotype | None
    args: dict[str, Any]
    num_classes: int
    large_images: bool
    num_params: dict[str, int]
    published: PublishedFile | None = None

    @cached_property
    def graph(self) -> ArchGraph:
        """The architecture graph, in evaluation mode; from the published file where the data set was given one."""
        if self.published is not None:
            return self.published.graph(self.index, self.settings)
        if self.split == "predefined":
            return trace(self.build(light=True).eval(), input_shape=self.input_shape)
        return graph_from(self.settings)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (3, 224, 224) if self.large_images else (3, 32, 32)

    @property
    def settings(self) -> _C.NetworkSettings:
        """All settings as C++ takes them."""
        if self.genotype is None:
            raise ConfigError(f"{self!r} has no genotype")
        return settings_of(
            genotype=self.genotype, num_classes=self.num_classes, is_imagenet_input=self.large_images, **self.args
        )

    def build(self, num_classes: int | None = None, *, light: bool = False, **options: Any) -> nn.Module:
        """The network.

        Args:
            num_classes: `self.num_classes` by default.
            light: leave the parameters on the meta device: without memory, for `torch.func.functional_call` with
                predicted tensors. Buffers are real.
            options: further arguments of `Network` that stand in for its own, such as `auxiliary=True`.
        """
        classes = self.num_classes if num_classes is None else num_classes
        make = partial(self.make, classes, options)
        return light_build(make) if light else make()

    def make(self, num_classes: int, options: dict[str, Any]) -> nn.Module:
        if self.genotype is None:
            return make_resnet50(num_classes, self.large_images, options)
        settings = {"is_imagenet_input": self.large_images, **self.args, **options}
        return Network(genotype=self.genotype, num_classes=num_classes, **settings)


def light_build(make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` makes, its parameters on the meta device: without memory. Buffers are real."""
    with WithoutMemory():
        network = make()
    others = False
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = torch.empty_like(buffer, device="cpu")
            module.reset_running_stats()
        else:
            others = others or bool(module._buffers)
    if others:  # such as tables of positions: what they hold is known only once they were made with memory
        with drawing_from(0):
            whole = make()
        for module, real in zip(network.modules(), whole.modules(), strict=True):
            if not isinstance(module, nn.BatchNorm2d):
                module._buffers.update(real._buffers)
    return network


def make_resnet50(num_classes: int, large_images: bool, options: dict[str, Any]) -> nn.Module:
    from ..vision import adapt_to_small_images

    models = import_optional("torchvision.models", "the predefined ResNet-50 needs")
    if options:
        raise ConfigError(f"a ResNet-50 takes no {', '.join(options)}")
    if not is_whole(num_classes) or num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes!r:.80}; a positive number is accepted")
    model: nn.Module = models.resnet50(num_classes=num_classes)
    return model if large_images else adapt_to_small_images(model)


def is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def check_seed(seed: object) -> None:
    if not is_whole(seed) or not 0 <= seed < 1 << 64:
        raise ConfigError(f"seed is {seed!r}; 0 to 2^64 - 1 is accepted")


def check_range(name: str, pair: object, most: int) -> None:
    """A range from which channels or widths of training networks are drawn."""
    match pair:
        case [int(first), int(last)] if 8 <= first <= last <= most and first % 2 == 0:
            return
    step = CHANNEL_STEP if name == "num_ch" else FC_STEP
    raise ConfigError(
        f"{name} is {pair!r}; (first, last) with an even first >= 8 and last <= {most}, in steps of {step}, is accepted"
    )


class DeepNets1M(Dataset[DeepNet]):
    """The networks of a split of DeepNets-1M.

    By default they are sampled: network `index` of a seed is the same on every machine, in any order, in any process.
    The evaluation splits have the published ranges of channels, parameters and nodes; the networks themselves are the
    published ones only where `root` has their files.

    Args:
        split: train, val, test, search, wide, deep, dense, bnfree, or predefined (ResNet-50 and a ViT).
        root: the folder of the published HDF5 and JSON files (or of files that `ghnfast generate` wrote), to read
            networks from.
        size: how many networks, the first ones; by default as many as were published, or as the files have.
        seed: another seed gives other networks; and other channels, where training networks are from files.
        large_images: networks for 224 x 224 images, else for 32 x 32.
        num_classes: 1000 for large images, else 10.
        num_ch, fc_dim: (first, last) of the channels, in steps of 16, and of the widths of hidden layers, in steps of
            64, that training networks get; large networks get few of either.
        wider: draw them as GHN-3's training does: fewer networks get few channels, and the stems of small networks for
            large images have a stride of 4 or 2.

    Raises:
        ConfigError: an argument out of range.
        DatasetError: the files are not there, are not those of the data set, or are broken.
    """

    @with_plain_numbers
    def __init__(
        self,
        split: str = "train",
        root: str | os.PathLike[str] | None = None,
        *,
        size: int | None = None,
        seed: int = 0,
        large_images: bool = False,
        num_classes: int | None = None,
        num_ch: tuple[int, int] = (16, 128),
        fc_dim: tuple[int, int] = (64, 512),
        wider: bool = False,
    ) -> None:
        if not isinstance(split, str) or split not in SPLITS:
            raise ConfigError(f"split is {split!r}; {', '.join(SPLITS)} are accepted")
        check_seed(seed)
        for name, pair, most in (("num_ch", num_ch, MOST["C"]), ("fc_dim", fc_dim, MOST["fc_dim"])):
            check_range(name, pair, most)
        if num_classes is not None and not (is_whole(num_classes) and 1 <= num_classes <= MOST["num_classes"]):
            raise ConfigError(f"num_classes is {num_classes!r}; 1 to {MOST['num_classes']} are accepted")
        if root is not None and not isinstance(root, (str, os.PathLike)):
            raise ConfigError(f"root is a {type(root).__name__}; the path of a folder is accepted")
        for name, switch in (("large_images", large_images), ("wider", wider)):
            if not isinstance(switch, bool):
                raise ConfigError(f"{name} is {switch!r:.80}; True or False is accepted")
        self.split, self.seed, self.large_images = split, seed, large_images
        self.num_classes = (1000 if large_images else 10) if num_classes is None else num_classes
        self.ranges = _C.TrainingRanges(*num_ch, *fc_dim, wider)
        self.published = None
        if root is not None and split != "predefined":
            self.published = PublishedFile(root, split)
        there = len(PREDEFINED) if split == "predefined" else SIZES[split]
        if self.published is not None:
            there = len(self.published)
        elif split != "predefined" and is_whole(size):
            there = max(there, size)  # sampling has no end
        if size is not None and not (is_whole(size) and 1 <= size <= min(there, sys.maxsize)):
            raise ConfigError(f"size is {size!r}; the split {split} has {there} networks")
        self.size = there if size is None else size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> DeepNet:
        number = as_index(index)
        if not -self.size <= number < self.size:
            raise NetworkIndexError(f"network {number} of the split {self.split} was asked for, which has {self.size}")
        number %= self.size
        if self.split == "predefined":
            return self.predefined(number)
        if self.published is not None:
            return self.read(number)
        settings, small, large = self.sampled(number)
        return self.item(number, genotype_of(settings), args_of(settings), {"cifar10": small, "imagenet": large})

    def __iter__(self) -> Iterator[DeepNet]:
        return (self[index] for index in range(self.size))

    def num_nodes(self, index: int) -> int:
        """How many nodes the graph of a network has, without making the graph."""
        if self.published is not None:
            return self.published.num_nodes(index)
        if self.split == "predefined":
            return len(self[index].graph)
        return len(self.sampled(index)[0].node_cells())

    def sampled(self, index: int) -> tuple[_C.NetworkSettings, int, int]:
        return _C.sample_network(SPLITS.index(self.split), self.seed, index, self.ranges, self.large_images)

    def item(self, index: int, genotype: Genotype | None, args: dict[str, Any], params: dict[str, int]) -> DeepNet:
        return DeepNet(self.split, index, genotype, args, self.num_classes, self.large_images, params, self.published)

    def read(self, index: int) -> DeepNet:
        assert self.published is not None
        genotype, args, num_params = self.published.network(index)
        if self.split == "train":
            settings = settings_of(genotype=genotype, num_classes=self.num_classes, **{**DRAWN, **args})
            counts = num_params["cifar10"], num_params["imagenet"]
            _C.draw_widths(settings, *counts, self.seed, index, self.ranges, self.large_images)
            args = {**args, **args_of(settings)}
        elif self.split == "search":
            args = {**DRAWN, **args}
        elif self.split == "wide":
            args = {**args, "C": args["C"] * (2 if self.large_images else 4)}
        return self.item(index, genotype, args, num_params)

    def predefined(self, index: int) -> DeepNet:
        if PREDEFINED[index] == "resnet50":
            return self.item(index, None, {}, {})
        args = {"C": 128, "n_cells": 12, "glob_avg": True, "preproc": False, "C_mult": 1}
        return self.item(index, GENOTYPES["ViT"], args, {})


class NodeBatchSampler(Sampler[list[int]]):
    """Batches of networks of bounded size, for `DataLoader(dataset, batch_sampler=..., collate_fn=list)`.

    Each network of an epoch is in one batch of one rank. A batch ends where one more network would exceed either bound;
    a network that is larger than `max_nodes` is a batch of its own.

    Args:
        batch_size: networks of a batch, at most.
        max_nodes: nodes of a batch, at most.
        shuffle: a new order in each epoch (`set_epoch`), the same on all ranks.
        rank, world_size: which share of the networks this process gets, of how many.
    """

    @with_plain_numbers
    def __init__(
        self,
        dataset: DeepNets1M,
        batch_size: int = 8,
        *,
        max_nodes: int = 2200,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        are_whole = all(map(is_whole, (batch_size, max_nodes, rank, world_size)))
        if not are_whole or batch_size < 1 or max_nodes < 1 or not 0 <= rank < world_size:
            raise ConfigError(
                f"batch_size is {batch_size!r:.80}, max_nodes {max_nodes!r:.80}, rank {rank!r:.80} of "
                f"{world_size!r:.80}; positive sizes and a rank below world_size are accepted"
            )
        check_seed(seed)
        self.dataset, self.batch_size, self.max_nodes, self.shuffle = dataset, batch_size, max_nodes, shuffle
        self.seed, self.rank, self.world_size, self.epoch = seed, rank, world_size, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self) -> Sequence[int]:
        """The networks of this rank in this epoch."""
        if not self.shuffle:
            return range(self.rank, len(self.dataset), self.world_size)
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % (1 << 64))
        shuffled: list[int] = torch.randperm(len(self.dataset), generator=generator)[
            self.rank :: self.world_size
        ].tolist()
        return shuffled

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        nodes = 0
        for index in self.order():
            more = self.dataset.num_nodes(index)
            if batch and (len(batch) == self.batch_size or nodes + more > self.max_nodes):
                yield batch
                batch, nodes = [], 0
            batch.append(index)
            nodes += more
        if batch:
            yield batch
