"""Launching kernels: past Triton's own bookkeeping, which takes longer than a small prediction's arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
from torch import Tensor
from triton.runtime import driver
from triton.runtime.jit import JITFunction

# The compiled kernels, by all that Triton compiles them for: the kernel, its device, and of each argument the dtype and
# whether it is aligned, the constant, or the number where Triton makes a case of it.
COMPILED: dict[tuple[Any, ...], Any] = {}
ALIGNMENT = 16  # bytes
MOST_IN_32_BITS = 2**31 - 1
# What has the hooks.
RUNTIME: Any = triton.knobs.runtime if hasattr(triton, "knobs") else triton.compiler.CompiledKernel


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> Any:
    """`kernel[grid](*arguments, **options)`, on the current device, which is that of the first argument.

    A kernel that has run for such arguments before is launched as it was compiled then.

    Returns:
        What launches it on such arguments again, or None where kernels are interpreted.
    """
    if not isinstance(kernel, JITFunction):  # interpreted
        kernel[grid](*arguments, **options)
        return None
    key = key_of(kernel, arguments, options)
    compiled = COMPILED.get(key)
    if compiled is None:
        compiled = COMPILED[key] = kernel[grid](*arguments, **options)
        return launcher(compiled, (*grid, 1, 1)[:3])
    run = launcher(compiled, (*grid, 1, 1)[:3])
    run(*arguments)
    return run


def launcher(compiled: Any, grid: tuple[int, ...]) -> Callable[..., None]:
    """What launches a compiled kernel on the current device; nothing is built for hooks of Triton's where none are."""
    x, y, z = grid
    run, function, packed = compiled.run, compiled.function, compiled.packed_metadata
    device, stream_of = driver.active.get_current_device(), driver.active.get_current_stream

    def launch_again(*arguments: Any) -> None:
        if has_hooks():
            compiled[grid](*arguments)
        else:
            run(x, y, z, stream_of(device), function, packed, None, None, None, *arguments)

    return launch_again


def has_hooks() -> bool:
    """Whether somebody looks at launches, such as Triton's profiler. A hook is a chain of calls, or, in older versions,
    a function or None."""
    enter, leave = RUNTIME.launch_enter_hook, RUNTIME.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))


class Repeated:
    """`launch` of one kernel and grid for arguments that are alike each time: of the same constants, dtypes and
    device, aligned or not. What Triton compiled for them is looked up once."""

    def __init__(self) -> None:
        self.run: Any = None

    def __call__(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        if self.run is None:
            self.run = launch(kernel, grid, *arguments, **options)
        else:
            self.run(*arguments)


def key_of(kernel: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    parts: list[Any] = [kernel, arguments[0].get_device(), *options.values()]
    for value, parameter in zip(arguments, kernel.params, strict=True):
        if isinstance(value, Tensor):
            parts += value.dtype, value.data_ptr() % ALIGNMENT == 0
        elif parameter.do_not_specialize:
            parts.append(-MOST_IN_32_BITS <= value <= MOST_IN_32_BITS)
        else:
            parts += type(value), value
    return tuple(parts)
