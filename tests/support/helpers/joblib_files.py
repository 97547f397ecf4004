"""Files in the layout of the published GHN-3s: dumps of joblib of a bare state dict."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import joblib
import torch

from ghnfast import GHN

TABLES = ("centrality_embed_in", "centrality_embed_out", "input_dist_embed")
SMALL: dict[str, Any] = {
    "max_shape": (8, 8, 3, 3), "num_classes": 10, "hypernet": "graphormer", "hid": 8, "layers": 2, "heads": 2
}  # fmt: skip
COMPRESSIONS = ("zlib", "gzip", "bz2", "xz", "lzma")


def small_ghn(**settings: Any) -> GHN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return GHN(**{**SMALL, **settings})


def published_state(ghn: GHN, top: bool = True) -> OrderedDict[str, torch.Tensor]:
    """Weights by published names; top: the tables of the first layer beside the layers, as on the Hub."""
    state = OrderedDict((name.replace("primitive_embedding", "embed"), w) for name, w in ghn.state_dict().items())
    if top:
        state = OrderedDict((moved(name), weight) for name, weight in state.items())
    return state


def moved(name: str) -> str:
    return name.removeprefix("gnn.0.") if any(table in name for table in TABLES) else name


def dump(value: object, path: Path, compression: str | None = None) -> Path:
    joblib.dump(value, path, compress=0 if compression is None else (compression, 1))
    return path


def dumped(value: object) -> bytes:
    file = io.BytesIO()
    joblib.dump(value, file)
    return file.getvalue()


class Called:
    """Is pickled as a call."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def with_names(value: object, protocol: int = 4) -> bytes:
    return pickle.dumps(value, protocol)
