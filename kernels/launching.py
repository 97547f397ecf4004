"""Launching kernels: past Triton's own bookkeeping, which takes longer than a small prediction's arithmetic."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import triton
from torch import Tensor
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from ..errors import BackendError
from .driver import Node, Parameter

# The compiled kernels and which arguments they are launched with (see `taken_by`), by all that Triton compiles them
# for: the kernel, its device, and of each argument the dtype and whether it is aligned, the constant, or the number
# where Triton makes a case of it.
COMPILED: dict[tuple[Any, ...], tuple[Any, list[int] | None]] = {}
ALIGNMENT = 16  # bytes
MOST_IN_32_BITS = 2**31 - 1
# What Triton may launch a kernel with besides a grid, threads and shared memory; ours have none of it.
EXTRAS = "launch_cooperative_grid", "launch_pdl", "global_scratch_size", "profile_scratch_size", "instrumentation_mode"
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
    known = COMPILED.get(key)
    if known is None:
        compiled = kernel[grid](*arguments, **options)
        known = COMPILED[key] = compiled, taken_by(compiled, kernel)
        return launcher(*known, in_three(grid))
    run = launcher(*known, in_three(grid))
    run(*arguments)
    return run


def in_three(grid: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = (*grid, 1, 1)[:3]
    return x, y, z


def taken_by(compiled: Any, kernel: Any) -> list[int] | None:
    """Which of a kernel's arguments its compiled form is launched with: in Triton 3.2 those that are no constants.

    None for all of them.
    """
    taken = [number for number, parameter in enumerate(kernel.params) if parameter.name in compiled.src.signature]
    return None if len(taken) == len(kernel.params) else taken


def launcher(compiled: Any, taken: list[int] | None, grid: tuple[int, int, int]) -> Callable[..., None]:
    """What launches a compiled kernel on the current device; nothing is built for hooks of Triton's where none are."""
    x, y, z = grid
    run, function, packed = compiled.run, compiled.function, compiled.packed_metadata
    device, stream_of = driver.active.get_current_device(), driver.active.get_current_stream

    def launch_again(*arguments: Any) -> None:
        if taken is not None:
            arguments = tuple(arguments[number] for number in taken)
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


class Recorder(dict[Any, Any]):
    """In the place of what launches kernels, by names: it launches nothing.

    nodes: what would have been launched.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []

    def __missing__(self, name: Any) -> Callable[..., None]:
        return self.add

    def add(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        """See `launch`.

        Raises:
            BackendError: such a launch has not been before, or has something to it that is not known here.
        """
        is_interpreted = not isinstance(kernel, JITFunction)
        known = None if is_interpreted else COMPILED.get(key_of(kernel, arguments, options))
        if known is None:
            raise BackendError(f"{kernel.fn.__name__} was not launched for such arguments before")
        compiled, metadata = known[0], known[0].metadata
        if metadata.num_ctas != 1 or any(getattr(metadata, name, None) for name in EXTRAS):
            raise BackendError(f"{kernel.fn.__name__} was compiled for launches of another kind")
        if math.prod(grid):
            parameters = parameters_of(compiled.src, kernel, arguments)
            threads = 32 * metadata.num_warps
            self.nodes.append(Node(compiled.function, in_three(grid), threads, metadata.shared, parameters))


def parameters_of(source: Any, kernel: Any, arguments: Sequence[Any]) -> list[Parameter]:
    """What a kernel that was compiled from a source takes of its arguments, and two null pointers: to memory that
    later versions of Triton have for kernels that ask for it. Earlier ones do not read them."""
    signature: Mapping[str, str] = source.signature
    found: list[Parameter] = []
    for value, parameter in zip(arguments, kernel.params, strict=True):
        kind = signature.get(parameter.name, "constexpr")
        # By its name in Triton 3.2, by where it is in later versions.
        if kind == "constexpr" or parameter.name in source.constants or (parameter.num,) in source.constants:
            continue
        if kind.startswith("*"):
            found.append(ctypes.c_void_p(value.data_ptr()))
        elif kind == "fp32":
            found.append(ctypes.c_float(value))
        elif kind[0] in "iu":  # the driver reads as many of its bytes as there are
            found.append(ctypes.c_longlong(value))
        else:
            raise BackendError(f"{kernel.fn.__name__} has a parameter {parameter.name} of type {kind}")
    return [*found, ctypes.c_void_p(), ctypes.c_void_p()]


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
