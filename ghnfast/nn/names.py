"""The names of weights in published checkpoints, where they differ from ours. Both load; `GHN.save` writes these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

PUBLISHED_NAMES = {"primitive_embedding.weight": "embed.weight"}


def with_published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A GHN's weights by published names, from either; under both where a name is taken, which is an error later."""
    renamed = {own: published for own, published in PUBLISHED_NAMES.items() if published not in state}
    return {renamed.get(name, name): value for name, value in state.items()}


def take_published_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename what `load_state_dict` is about to load; `state` is its own copy."""
    for own, published in PUBLISHED_NAMES.items():
        if prefix + published in state and prefix + own not in state:
            state[prefix + own] = state.pop(prefix + published)
