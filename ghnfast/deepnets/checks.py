"""What is accepted as the settings of a network."""

from __future__ import annotations

from ..errors import ConfigError
from .genotype import Genotype

# What keeps the number of all parameters below 2^63, and graphs in memory. Published networks have up to 36 cells and
# 1,216 channels.
MOST = {
    "num_classes": 1 << 24,
    "C": 1 << 13,
    "n_cells": 1000,
    "C_mult": 8,
    "ks": 255,
    "stem_type": 1 << 31,
    "fc_layers": 100,
    "fc_dim": 1 << 16,
}


def check_switches(**given: bool | None) -> None:
    """The checks of a `Network`'s arguments that are true or false; `is_vit` may be None, too.

    Raises:
        ConfigError: something else was given.
    """
    for name, value in given.items():
        if not isinstance(value, bool) and not (value is None and name == "is_vit"):
            raise ConfigError(f"{name} must be True or False, given {value!r:.80}")


def check_settings(
    genotype: Genotype,
    num_classes: int,
    C: int,
    n_cells: int,
    ks: int,
    stem_type: int,
    preproc: bool,
    C_mult: int,
    fc_layers: int,
    fc_dim: int,
    imagenet_stride: int,
) -> None:
    """The checks of a `Network`'s arguments.

    Raises:
        ConfigError: settings that are out of range or cannot work together.
    """
    given = {"num_classes": num_classes, "C": C, "n_cells": n_cells, "C_mult": C_mult, "ks": ks}
    for name, value in {**given, "stem_type": stem_type, "fc_layers": fc_layers, "fc_dim": fc_dim}.items():
        least = 0 if name in ("stem_type", "fc_layers", "fc_dim") else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{name} must be {least} or more, given {value!r:.80}")
        if value > MOST[name]:
            raise ConfigError(f"{name} must be {MOST[name]} or less, given {value}")
    if imagenet_stride not in (2, 4) or isinstance(imagenet_stride, bool):
        raise ConfigError(f"imagenet_stride must be 2 or 4, given {imagenet_stride!r:.80}")
    if ks % 2 == 0:
        raise ConfigError(f"ks must be odd and positive, given {ks}")
    if stem_type not in (0, 1):
        raise ConfigError(f"stem_type must be 0 (one convolution) or 1 (the ImageNet stem of DARTS), given {stem_type}")
    if stem_type == 1 and C < 2:
        raise ConfigError(f"C must be 2 or more with stem_type 1, whose first layer has C // 2 channels, given {C}")
    if fc_layers > 1 and fc_dim < 1:
        raise ConfigError(f"fc_dim must be 1 or more where fc_layers is more than 1, given {fc_dim}")
    if not preproc:
        check_constant_channels(genotype, C_mult)


def check_constant_channels(genotype: Genotype, C_mult: int) -> None:
    concatenated = max(len(genotype.normal_concat), len(genotype.reduce_concat))
    if C_mult > 1 or concatenated > 1:
        raise ConfigError(
            "preproc=False needs constant channels, so C_mult=1 and one concatenated state in each cell, "
            f"given C_mult={C_mult} and {concatenated} concatenated states"
        )
