"""Modules whose parameters have no memory: what their constructors would fill them with is not computed.

On the meta device, too, that takes time, and where torch has no compiled kernel for that device, it has one in Python,
which imports sympy and torch's compiler first: a second or two, once in a process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.tensor, torch.arange}
DRAWING_FACTORIES = {torch.rand, torch.randn}
# Those of torch are called with their tensor by name.
INITIALIZERS = {
    *(getattr(nn.init, name) for name in ("uniform_", "normal_", "constant_", "kaiming_uniform_", "kaiming_normal_")),
    *(getattr(Tensor, name) for name in ("uniform_", "normal_", "fill_", "zero_", "copy_", "add_", "mul_", "div_")),
    *(getattr(Tensor, name) for name in ("clamp_", "erfinv_")),
}


class Uninitialized(TorchFunctionMode):
    """Within it, tensors on the meta device are not filled."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in INITIALIZERS:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **(kwargs or {}))


class WithoutMemory(Uninitialized):
    """Within it, new tensors are on the meta device, and are not filled."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FACTORIES or func in DRAWING_FACTORIES:
            kwargs = dict(kwargs or {})
            if kwargs.get("device") is None:
                kwargs["device"] = "meta"
                if func in DRAWING_FACTORIES:
                    kwargs.pop("generator", None)
                    func = torch.empty
        return super().__torch_function__(func, types, args, kwargs)
