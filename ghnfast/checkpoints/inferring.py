"""The configuration of a GHN-3 from the shapes of its weights: its published files have none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import CheckpointError
from .contents import ACCEPTED
from .wording import shape_of, some

HEADS = "gnn.0.attn.proj_e.2.weight"  # no other GHN has it
NEEDED = {
    "embed.weight": 2,
    HEADS: 2,
    "decoder.fc.0.weight": 2,
    "decoder.conv.2.weight": 2,
    "decoder.class_layer_predictor.1.weight": 2,
}


def is_state_of_ghn3(data: object) -> bool:
    return isinstance(data, dict) and HEADS in data


def inferred_config(weights: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The arguments of the GHN-3 that these weights are of; virtual edges and normalization are taken as on.

    Source: the loader of the published code, which guesses heads and the size of kernels; here both are in the shapes.

    Raises:
        CheckpointError: weights that say one of them are missing, or contradict each other. Whether the others fit is
            seen where they are loaded.
    """
    missing = [
        name
        for name, axes in NEEDED.items()
        if not isinstance(weights.get(name), torch.Tensor) or weights[name].ndim != axes
    ]
    if missing:
        raise CheckpointError(
            f"the checkpoint {source} has no configuration, and these weights, which it would follow from, are missing "
            f"or no matrices: {some(missing)}; {ACCEPTED}"
        )
    hid = weights["embed.weight"].shape[1]
    cells = weights["decoder.fc.0.weight"].shape[0]
    products = weights["decoder.conv.2.weight"].shape[0]
    classes, rows = weights["decoder.class_layer_predictor.1.weight"].shape
    size = math.isqrt(cells // (4 * hid)) if hid else 0
    faults = []
    if not size or cells != 4 * hid * size**2:
        faults.append(f"decoder.fc.0.weight {shape_of(weights['decoder.fc.0.weight'])} has not 4 hid S S rows")
    if not rows or not products or products % rows:
        faults.append(f"decoder.conv.2.weight {shape_of(weights['decoder.conv.2.weight'])} has not out in rows")
    if faults:
        raise CheckpointError(
            f"the shapes of the weights in the checkpoint {source} contradict each other, with hid = {hid} of "
            f"embed.weight and out = {rows} of decoder.class_layer_predictor.1.weight: {'; '.join(faults)}. Accepted: "
            "the weights of one GHN-3"
        )
    return {
        "max_shape": (rows, products // rows, size, size),
        "num_classes": classes,
        "hypernet": "graphormer",
        "decoder": "conv",
        "weight_norm": True,
        "ve": True,
        "layernorm": "ln.weight" in weights,
        "hid": hid,
        "layers": sum(str(name).startswith("gnn.") and str(name).endswith(".ln1.weight") for name in weights),
        "heads": weights[HEADS].shape[0],
    }
