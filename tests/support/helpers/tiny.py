"""The configuration of runs that take seconds."""

from __future__ import annotations

from typing import Any

from ghnfast.training import TrainConfig, make_config

TINY = {
    "data": "mnist5k",
    "batch_size": 4,
    "meta_batch": 3,
    "num_ch": (8, 8),
    "fc_dim": (8, 8),
    "max_shape": (8, 8, 3, 3),
    "hid": 8,
    "identity_steps": 3,
    "lr": 1e-4,  # a low one: Adam makes updates of that size also of gradients that are rounding errors
    "steps": 6,
    "schedule": "cosine",
    "log_every": 1,
    "save_every": 2,
}
# Beside it: runs that take a second.
FAST = {"steps": 4, "save_every": 2, "log_every": 1, "identity_steps": 0, "meta_batch": 1}


def tiny_config(**changes: Any) -> TrainConfig:
    return make_config({**TINY, **changes})
