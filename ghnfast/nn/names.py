"""The names of weights in files, where they differ from ours or from each other. All of them load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

# Ours, and those of published files, which `GHN.save` writes.
PUBLISHED_NAMES = {"primitive_embedding.weight": "embed.weight"}
# Tables of the first layer of GHN-3: published files have them outside it; checkpoints of its training, and `GHN.save`,
# within.
MOVED_NAMES = {
    f"{name}.weight": f"gnn.0.{name}.weight"
    for name in ("centrality_embed_in", "centrality_embed_out", "input_dist_embed")
}


def with_published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A GHN's weights by the names that are saved, from any; under both where a name is taken: an error later."""
    names = {**PUBLISHED_NAMES, **MOVED_NAMES}
    renamed = {given: wanted for given, wanted in names.items() if wanted not in state}
    return {renamed.get(name, name): value for name, value in state.items()}


def take_published_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename what `load_state_dict` is about to load; `state` is its own copy."""
    others = {published: own for own, published in PUBLISHED_NAMES.items()}
    for given, own in {**others, **MOVED_NAMES}.items():
        if prefix + given in state and prefix + own not in state:
            state[prefix + own] = state.pop(prefix + given)
