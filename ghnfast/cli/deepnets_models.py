"""Networks of DeepNets-1M as models of commands: SPLIT:INDEX, and named cells, GENOTYPE:CHANNELS,CELLS."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn

from ..deepnets import DeepNets1M, Network
from ..deepnets.dataset import SPLITS
from ..deepnets.genotype import GENOTYPES

NORM = "bn-track"  # with running statistics, as published where networks are trained
NAMES_HELP = (
    f"a network of DeepNets-1M, SPLIT:INDEX (test:17; splits: {', '.join(SPLITS)}) or GENOTYPE:CHANNELS,CELLS "
    f"(DARTS:48,14; genotypes: {', '.join(GENOTYPES)})"
)


def is_deepnets(name: str) -> bool:
    """Whether a name stands for a network of DeepNets-1M. No function is called so."""
    first, _, rest = name.partition(":")
    is_index = first in SPLITS and re.fullmatch(r"-?[0-9]+", rest) is not None
    return is_index or (first in GENOTYPES and re.fullmatch(r"[0-9]+,[0-9]+", rest) is not None)


def deepnets_builder(name: str, num_classes: int | None, large_images: bool) -> Callable[[], nn.Module]:
    """What builds a network of DeepNets-1M (`is_deepnets`).

    Raises:
        ConfigError, NetworkIndexError: there is no such network.
    """
    first, _, rest = name.partition(":")
    if first in SPLITS:
        item = DeepNets1M(first, large_images=large_images, num_classes=num_classes)[int(rest)]
        if item.args.get("norm"):
            return lambda: item.build(norm=NORM)
        return item.build
    channels, cells = map(int, rest.split(","))
    is_vit = GENOTYPES[first].uses("msa")
    classes = (1000 if large_images else 10) if num_classes is None else num_classes
    return lambda: Network(
        genotype=GENOTYPES[first],
        C=channels,
        n_cells=cells,
        num_classes=classes,
        is_imagenet_input=large_images,
        stem_type=1,
        norm=NORM,
        preproc=not is_vit,
        C_mult=1 if is_vit else 2,
    )
