"""What the functions that a forward calls are: by their names, and by what calls them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ..errors import TraceError


class ShapeError(RuntimeError):
    """A layer cannot read an input of this shape: what the forward itself would have failed with."""


def hidden_operation(what: str) -> TraceError:
    return TraceError(
        f"{what} something that cannot be followed (TorchScript, a torch.func transform, another thread); operations "
        "written in Python with torch functions are accepted"
    )


KERNEL_MODULES = ("torch._refs", "torch._prims", "torch._decomp", "torch._meta_registrations", "torch._inductor")


def check_visible() -> None:
    """Fail where a kernel of torch is running: what called it did not come here, and is not in the trace."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("ghnfast.tracing"):
        frame = frame.f_back
    if frame.f_globals.get("__name__", "").startswith(KERNEL_MODULES):
        raise hidden_operation(f"{frame.f_code.co_name} is computed by")


def function_name(func: Callable[..., Any]) -> str:
    """The name to show for a torch function: `gru`, `conv1d`, `mul`."""
    name = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__"):
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name.partition(".")[0].strip("_")


IN_PLACE_OPERATORS = frozenset(
    f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "matmul")
) | {"__setitem__", "__set__"}


@lru_cache(maxsize=1024)  # torch's functions are there as long as torch is
def writes_first_argument(func: Callable[..., Any]) -> bool:
    """Whether torch's naming says that the function changes its first argument."""
    name = getattr(func, "__name__", "").partition(".")[0]  # operators are called "add_.Tensor"
    return name in IN_PLACE_OPERATORS or (name.endswith("_") and not name.endswith("__"))
