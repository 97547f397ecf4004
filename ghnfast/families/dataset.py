"""Families as a data set: index in, network and graph out."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import index as as_index

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..deepnets.dataset import check_seed, is_whole, light_build
from ..errors import ConfigError, NetworkIndexError
from ..graph import ArchGraph
from ..plain import with_plain_numbers
from ..randomness import drawing_from
from ..tracing import trace
from . import convolutional, mobile, patches
from .settings import Draw, Settings

Drawn = Callable[[Draw], Settings]
Built = Callable[[Settings, int, int], nn.Module]

TRAINED = (
    "resnet", "preactivation", "vgg", "vgg_bn", "densenet", "squeezenet", "mobilenet_v2", "mobilenet_v3",
    "efficientnet", "shufflenet", "convnext", "vit", "mixer",
)  # fmt: skip
# Families that no GHN of ours is trained on: what it reaches there it has not seen anything like.
HELD_OUT = ("regnet", "mnasnet", "swin")
KINDS: dict[str, tuple[Drawn, Built]] = {
    "resnet": (convolutional.draw_resnet, convolutional.build_resnet),
    "preactivation": (convolutional.draw_preactivation, convolutional.build_preactivation),
    "vgg": (convolutional.draw_vgg, convolutional.build_vgg),
    "vgg_bn": (convolutional.draw_vgg, convolutional.build_vgg_bn),
    "densenet": (convolutional.draw_densenet, convolutional.build_densenet),
    "squeezenet": (convolutional.draw_squeezenet, convolutional.build_squeezenet),
    "regnet": (convolutional.draw_regnet, convolutional.build_regnet),
    "mobilenet_v2": (mobile.draw_mobilenet_v2, mobile.build_mobilenet_v2),
    "mobilenet_v3": (mobile.draw_mobilenet_v3, mobile.build_mobilenet_v3),
    "efficientnet": (mobile.draw_efficientnet, mobile.build_efficientnet),
    "shufflenet": (mobile.draw_shufflenet, mobile.build_shufflenet),
    "mnasnet": (mobile.draw_mnasnet, mobile.build_mnasnet),
    "convnext": (patches.draw_convnext, patches.build_convnext),
    "vit": (patches.draw_vit, patches.build_vit),
    "mixer": (patches.draw_mixer, patches.build_mixer),
    "swin": (patches.draw_swin, patches.build_swin),
}
SPLITS = ("train", "test")
HELD_OUT_SHARE = 8  # one of so many settings belongs to the test split
SIZES = {"train": 4096, "test": 500}
LEAST_SIZE = 32


@dataclass(frozen=True, eq=False)
class FamilyNet:
    """A member of a family that nobody has built yet.

    Attributes:
        split, index: where it is from.
        family: one of `TRAINED` or `HELD_OUT`.
        settings: its widths, depths and so on.
        num_classes: the classes that `graph` is for.
        image_size: it is for images of (3, image_size, image_size).
    """

    split: str
    index: int
    family: str
    settings: Settings
    num_classes: int
    image_size: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (3, self.image_size, self.image_size)

    @property
    def graph(self) -> ArchGraph:
        """The architecture graph, in evaluation mode; traced once and kept, also for others with these settings."""
        return traced(self.family, json.dumps(self.settings), self.num_classes, self.image_size)

    def build(self, num_classes: int | None = None, *, light: bool = False) -> nn.Module:
        """The network.

        Args:
            num_classes: `self.num_classes` by default.
            light: leave the parameters that GHNs predict on the meta device: without memory, for
                `torch.func.functional_call` with predicted tensors. Others, which keep their initialization, are real,
                and so are buffers.

        Raises:
            ConfigError: `num_classes` is no positive number.
            MissingPackageError: torchvision is not installed.
        """
        classes = self.num_classes if num_classes is None else num_classes
        check_from(1, num_classes=classes)
        make = functools.partial(KINDS[self.family][1], self.settings, classes, self.image_size)
        if not light:
            return make()
        network = light_build(make)
        known = kept(self.family, json.dumps(self.settings), classes, self.image_size, torch.get_default_dtype())
        for name, value in known.items():
            module, _, own = name.rpartition(".")
            setattr(network.get_submodule(module), own, nn.Parameter(value))
        return network


@functools.lru_cache(maxsize=2 * SIZES["train"])
def traced(family: str, settings: str, num_classes: int, image_size: int) -> ArchGraph:
    make = functools.partial(KINDS[family][1], json.loads(settings), num_classes, image_size)
    return trace(light_build(make).eval(), input_shape=(3, image_size, image_size))


@functools.lru_cache(maxsize=2 * SIZES["train"])
def kept(family: str, settings: str, num_classes: int, image_size: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """The initial values of what is not predicted, such as the scales of a ConvNeXt's layers, in torch's default dtype.

    Args:
        dtype: this one; what is kept of another would have its precision.
    """
    skipped = traced(family, settings, num_classes, image_size).skipped
    if not skipped:
        return {}
    with drawing_from(0):
        network = KINDS[family][1](json.loads(settings), num_classes, image_size)
    return {name: value.detach() for name, value in network.named_parameters() if name in skipped}


def check_from(least: int, **given: object) -> None:
    """Fail where something given is no integer, too small, or none that a machine counts with."""
    for name, value in given.items():
        if not is_whole(value) or not least <= value <= sys.maxsize:
            raise ConfigError(f"{name} is {value!r:.80}; an integer from {least} on is accepted")


class Families(Dataset[FamilyNet]):
    """Small members of families of networks: residual, mobile, patches and others, with torchvision's modules.

    Network `index` of a seed is the same on every machine, in any order, in any process. Families take turns. No
    settings of the split "test" are in "train", whatever the seed.

    Args:
        split: train or test.
        size: how many networks; 4,096 and 500 by default. Graphs of so many are kept.
        seed: another seed gives other networks.
        families: which; `TRAINED` by default.
        num_classes: of the networks.
        image_size: they are for images of (3, image_size, image_size), 32 or more.

    Raises:
        ConfigError: an argument out of range.
    """

    @with_plain_numbers
    def __init__(
        self,
        split: str = "train",
        *,
        size: int | None = None,
        seed: int = 0,
        families: Sequence[str] = TRAINED,
        num_classes: int = 10,
        image_size: int = 32,
    ) -> None:
        if not isinstance(split, str) or split not in SPLITS:
            raise ConfigError(f"split is {split!r}; {', '.join(SPLITS)} are accepted")
        check_seed(seed)
        check_from(1, num_classes=num_classes)
        check_from(LEAST_SIZE, image_size=image_size)
        check_from(1, size=SIZES[split] if size is None else size)
        names = [] if isinstance(families, str) or not isinstance(families, Iterable) else list(families)
        if not names:
            raise ConfigError(f"families is {families!r:.80}; a list of {', '.join(KINDS)} is accepted")
        unknown = [name for name in names if not isinstance(name, str) or name not in KINDS]
        if unknown:
            raise ConfigError(f"families has {unknown[0]!r:.80}; a list of {', '.join(KINDS)} is accepted")
        self.split, self.seed, self.families = split, seed, tuple(names)
        self.num_classes, self.image_size = num_classes, image_size
        self.size = SIZES[split] if size is None else size

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[FamilyNet]:
        return (self[index] for index in range(self.size))

    def __getitem__(self, index: int) -> FamilyNet:
        number = as_index(index)
        if not -self.size <= number < self.size:
            raise NetworkIndexError(f"network {number} of the split {self.split} was asked for, which has {self.size}")
        number %= self.size
        family = self.families[number % len(self.families)]
        return FamilyNet(
            self.split, number, family, self.settings_of(family, number), self.num_classes, self.image_size
        )

    def settings_of(self, family: str, number: int) -> Settings:
        """The first settings drawn for this number that belong to the split."""
        draw = Draw(f"{self.seed} {self.split} {family} {number}")
        while True:
            settings = KINDS[family][0](draw)
            if is_held_out(family, settings) == (self.split == "test"):
                return settings

    def num_nodes(self, index: int) -> int:
        """How many nodes the graph of a network has."""
        return len(self[index].graph)


def is_held_out(family: str, settings: Settings) -> bool:
    """Whether settings belong to the test split: that hangs on them alone."""
    text = json.dumps([family, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()[0] % HELD_OUT_SHARE == 0
