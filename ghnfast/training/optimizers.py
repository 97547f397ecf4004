"""Torch's optimizers, without its compiler.

They import it, which takes two seconds of each process that trains, to tell it that it is to leave some of their
methods alone; nothing here is compiled.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def uncompiled(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """A kind of optimizer whose methods are those that torch wrapped; no update is differentiated."""
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in METHODS}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(inspect.unwrap(kind.step))})


Adam, AdamW, SGD = map(uncompiled, (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD))
