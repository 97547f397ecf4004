"""The settings of a GHN: the only list of them. Checkpoints, training runs and the constructor take theirs from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..plain import make_plain
from .registry import DECODERS, HYPERNETS, Decoder, Hypernet

MOST_CLASSES = 1 << 22  # there is a row for each number of channels up to it
MOST_ELEMENTS = 1 << 33
MOST_LAYERS = 1 << 10


@dataclass(frozen=True, kw_only=True)
class GHNSettings:
    """What a GHN is made of, whatever data set it is for; see `ghnfast.GHN`."""

    max_shape: tuple[int, int, int, int] = (64, 64, 16, 16)
    hypernet: str = "gatedgnn"
    decoder: str = "conv"
    weight_norm: bool = True
    ve: bool = True
    layernorm: bool = True
    hid: int = 32
    layers: int = 3
    heads: int = 8


@dataclass(frozen=True)
class GHNConfig(GHNSettings):
    """The arguments of `ghnfast.GHN`, checked.

    Raises:
        ConfigError: one has no meaning; the message says what is accepted.
    """

    max_shape: tuple[int, int, int, int] = (64, 64, 16, 16)
    num_classes: int = 1000

    def __post_init__(self) -> None:
        make_plain(self)
        sizes = list(self.max_shape) if isinstance(self.max_shape, (tuple, list)) else []
        if len(sizes) != 4 or not all(map(is_count, sizes)) or sizes[2] != sizes[3]:
            raise ConfigError(f"max_shape is {self.max_shape}; four positive sizes (out, in, S, S) are accepted")
        if not is_count(self.num_classes) or self.num_classes > MOST_CLASSES:
            raise ConfigError(f"num_classes is {self.num_classes!r}; an integer of 1 to {MOST_CLASSES} is accepted")
        check_kind("hypernet", self.hypernet, HYPERNETS, Hypernet)
        check_kind("decoder", self.decoder, DECODERS, Decoder)
        if not is_count(self.hid) or self.hid % 4:
            raise ConfigError(f"hid is {self.hid!r}; a positive multiple of 4 is accepted")
        for name in ("layers", "heads"):
            if not is_count(value := getattr(self, name)) or value > MOST_LAYERS:
                raise ConfigError(f"{name} is {value!r}; an integer of 1 to {MOST_LAYERS} is accepted")
        # The two largest layers: the first of the decoder of kernels, and its last.
        if (elements := 4 * self.hid**2 * sizes[2] ** 2 + 8 * self.hid * sizes[0] * sizes[1]) > MOST_ELEMENTS:
            raise ConfigError(
                f"max_shape is {tuple(sizes)} and hid is {self.hid}, which is {elements} weights; at most "
                f"{MOST_ELEMENTS} are accepted"
            )
        for name in ("weight_norm", "ve", "layernorm"):
            if not isinstance(value := getattr(self, name), bool):
                raise ConfigError(f"{name} is {value!r}; True and False are accepted")
        object.__setattr__(self, "max_shape", tuple(map(int, sizes)))

    def as_dict(self) -> dict[str, Any]:
        """As checkpoints have it: without what only other hypernets have."""
        of_others = {name for kind in HYPERNETS.values() for name in kind.settings}
        of_others -= set(HYPERNETS[self.hypernet].settings)
        return {name: getattr(self, name) for name in names(GHNConfig) if name not in of_others}


def names(settings: type[GHNSettings]) -> tuple[str, ...]:
    """The names of the settings of a class."""
    return tuple(field.name for field in dataclasses.fields(settings))


def config_of(settings: GHNSettings, num_classes: int) -> GHNConfig:
    """The settings among those of a subclass, for a data set of so many classes."""
    return GHNConfig(num_classes=num_classes, **{name: getattr(settings, name) for name in names(GHNSettings)})


def check_kind(setting: str, name: Any, known: Mapping[str, object], base: type) -> None:
    """Fail where a name stands for nothing in a registry, or for something that it is not made for."""
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"{setting} is {name!r}; {accepted_names(list(known))} accepted")
    kind = known[name]
    if not isinstance(kind, type) or not issubclass(kind, base):
        raise ConfigError(f"{setting} {name!r} is {kind!r:.80}; a subclass of ghnfast.nn.{base.__name__} is accepted")


def accepted_names(known: list[str]) -> str:
    """The names in a message: "'a', 'b' and 'c' are"."""
    *others, last = map(repr, known)
    return f"{', '.join(others)} and {last} are" if others else f"{last} is"


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
