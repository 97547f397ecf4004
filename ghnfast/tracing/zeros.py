"""Runs on zeros what torch would run on the meta device in Python.

Where torch has no compiled kernel for the meta device, it has one in Python, whose first call imports sympy and often
torch's compiler: half a second to two. On tensors of a modest size the CPU's own kernel, given zeros, says the same of
shapes, strides and dtypes, in microseconds and with nothing imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import global_decomposition_table

from .chance import TraceRandom
from .tensors import CPU, map_tensors, tensors_in, to_meta

# Numbers read and written by one operator: what an operator that takes each number once does in 20 ms, and what any
# other does in that time, at the cost of a product of matrices.
POINTWISE_LIMIT = 2**24
LIMIT = 2**20
# What the zeros would decide, not the shapes; and what gives its argument another shape, as kernels do to their results
# (`transpose_`), which has to happen to the meta tensor itself.
NOT_ON_ZEROS = torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output, torch.Tag.inplace_view
EACH_NUMBER_ONCE = {tag for name in ("pointwise", "reduction") if (tag := getattr(torch.Tag, name, None)) is not None}
# What torch lists there, and has compiled nonetheless.
COMPILED = "clone", "_to_copy", "copy_", "empty_strided", "constant_pad_nd", "as_strided_scatter"


def in_python(op: Any) -> bool:
    """Whether torch computes shapes of this operator in Python, and a run on zeros says the same."""
    listed = any(op in table for table in global_decomposition_table.values())
    kernel = listed and op.overloadpacket.__name__ not in COMPILED
    return kernel and writes(op) is not None and not any(tag in op.tags for tag in NOT_ON_ZEROS)


def writes(op: Any) -> bool | None:
    """Whether an operator writes to its first argument and returns that; None for other writes and for views."""
    schema = op._schema
    marked = [position for position, argument in enumerate(schema.arguments) if argument.alias_info is not None]
    returned = [value.alias_info is not None for value in schema.returns]
    if not marked:
        return None if any(returned) else False
    first = schema.arguments[0].alias_info
    return True if marked == [0] and first.is_write and returned == [True] else None


# Operators are there as long as torch is.
KNOWN: dict[Any, tuple[bool, bool, int]] = {}


def how_to_run(op: Any) -> tuple[bool, bool, int]:
    """Whether an operator runs on zeros, whether it writes its first argument, and up to how many numbers."""
    if op not in KNOWN:
        limit = POINTWISE_LIMIT if EACH_NUMBER_ONCE & set(op.tags) else LIMIT
        KNOWN[op] = in_python(op), bool(writes(op)), limit
    return KNOWN[op]


class OnZeros(TraceRandom):
    """Runs operators on zeros in place of meta tensors, where torch would run Python on these.

    Those that draw fill them with numbers of a generator of their own.
    """

    def __init__(self) -> None:
        super().__init__(torch.Generator())
        self.needed = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on_zeros, written, limit = how_to_run(func)
        if not on_zeros:
            return func(*args, **kwargs)
        self.needed = True
        tensors = tensors_in(args, kwargs)
        if not tensors or sum(tensor.numel() for tensor in tensors) > limit:
            return func(*args, **kwargs)
        try:
            result = self.call(func, map_tensors(zeros, args), on_cpu(map_tensors(zeros, kwargs)))
        except (RuntimeError, IndexError, TypeError, ValueError):
            return func(*args, **kwargs)  # which may accept it, or says what is wrong
        return args[0] if written else map_tensors(to_meta, result)


def zeros(tensor: Tensor) -> Tensor:
    """A tensor of zeros that lies in memory as a meta tensor would; any other as it is."""
    if not tensor.is_meta:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CPU).zero_()


def on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**kwargs, "device": CPU} if kwargs.get("device") is not None else kwargs


# Functions whose first call ran compiled kernels alone: later calls are not looked into, which takes time. They are
# torch's, and there as long as torch is.
WITHOUT_PYTHON: set[Callable[..., Any]] = set()


def call_on_meta(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """Call a function with meta tensors, without what torch would import for that where zeros can stand for them."""
    if func in WITHOUT_PYTHON:
        return func(*args, **kwargs)
    with OnZeros() as mode:
        result = func(*args, **kwargs)
    if not mode.needed:
        WITHOUT_PYTHON.add(func)
    return result
