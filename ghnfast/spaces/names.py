"""Networks of any space from what its benchmark calls them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..errors import ConfigError
from . import nas_bench_201 as cells
from .nas_bench_201 import nas_bench_201
from .nas_bench_macro import is_code, nas_bench_macro

# What makes a network of a space from the text that names it.
SPACES: dict[str, Callable[..., nn.Module]] = {"nas-bench-201": nas_bench_201, "nas-bench-macro": nas_bench_macro}


def network_of(architecture: str, num_classes: int = 10) -> nn.Module:
    """The network that a text names, in whichever space it does.

    Args:
        architecture: a cell of NAS-Bench-201 (`|nor_conv_3x3~0|+|...|`) or a code of NAS-Bench-Macro (`01220211`).
        num_classes: of its linear layer.

    Raises:
        ConfigError: no space has such a network, or the number of classes is not positive.
    """
    make = nas_bench_macro if is_code(check_name(architecture)) else nas_bench_201
    return make(architecture, num_classes)


def is_name(text: object) -> bool:
    """Whether a text is written as names of networks are: it may have no network all the same."""
    return is_code(text) or cells.looks_like_a_cell(text)


def check_name(architecture: str) -> str:
    """The text, where it names a network of a space.

    Raises:
        ConfigError: no space has such a network.
    """
    if is_code(architecture):
        return architecture
    if cells.looks_like_a_cell(architecture):
        cells.parse_cell(architecture)
        return architecture
    raise ConfigError(
        f"{architecture!r:.120} is no network of a known space; a cell of NAS-Bench-201, such as {cells.EXAMPLE}, and "
        "a code of NAS-Bench-Macro, such as 01220211, are accepted"
    )
