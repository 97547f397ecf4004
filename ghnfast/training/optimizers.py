"""Torch's optimizers, without its compiler.

They import it, which takes two seconds of each process that trains, to tell it that it is to leave some of their
methods alone; nothing here is compiled.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeVar, cast

import torch

Kind = TypeVar("Kind", bound=type[torch.optim.Optimizer])
METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def uncompiled(kind: Kind) -> Kind:
    """A kind of optimizer whose methods are those that torch wrapped; no update is differentiated."""
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in METHODS}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return cast(Kind, type(kind.__name__, (kind,), methods))


Adam, AdamW, SGD = uncompiled(torch.optim.Adam), uncompiled(torch.optim.AdamW), uncompiled(torch.optim.SGD)
