"""How messages about checkpoints say what was found."""

from __future__ import annotations

from collections.abc import Iterable

import torch

SHOWN = 3  # as many offending keys as a message names, of each kind


def kind_of(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor on {value.device}, {value.layout}, {value.dtype}"
    return f"of type {type(value).__module__}.{type(value).__name__}".replace("builtins.", "")


def listed(keys: Iterable[object]) -> str:
    return some([repr(key) for key in keys], shown=8)


def some(items: list[str], shown: int = SHOWN) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more


def shape_of(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))
