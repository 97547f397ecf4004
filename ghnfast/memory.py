"""Where tensors lie, and whether that can be read and written. Torch does not ask, and the process ends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _C

BEFORE_WRAPPING = "predict before wrapping the model for several processes (FSDP, DDP, tensor parallelism)"


def unreadable(tensor: Tensor) -> str | None:
    """Why a tensor's elements cannot be read, in words that go on from its name; None where they can be."""
    return "is on the meta device and has no memory" if tensor.is_meta else lost_memory(tensor)


def lost_memory(tensor: Tensor) -> str | None:
    """How much less memory a tensor has than elements, in words that go on from its name; None where it has all."""
    if tensor.layout is not torch.strided or keeps_no_elements(tensor):
        return None  # it consists of other tensors
    try:
        there = tensor.untyped_storage().nbytes()
    except RuntimeError:
        return None  # it has another kind of memory, or wraps a tensor
    needed = (int(tensor.storage_offset()) + extent(tensor)) * tensor.element_size()
    if tensor.numel() == 0 or there >= needed:
        return None
    return f"has lost its memory: {there} of {needed} bytes are left. FSDP frees it so; {BEFORE_WRAPPING}"


def unwritable(tensor: Tensor) -> str | None:
    """Why a dense tensor cannot be written to, in words that go on from its name; None where it can be."""
    if (reason := unreadable(tensor)) is not None:
        how = " to write to; move the model to a real device first, with model.to_empty(device=...)"
        return reason + how if tensor.is_meta else reason
    try:
        address = tensor.data_ptr()
    except RuntimeError:
        return f"has no memory that can be reached (on {tensor.device})"
    if has_common_elements([tensor]):
        return (
            f"is expanded or folded: several of its elements share memory (shape {tuple(tensor.shape)}, strides "
            f"{tensor.stride()}); parameters with memory of their own are accepted"
        )
    if tensor.is_cpu and not _C.is_writable(address, extent(tensor) * tensor.element_size()):
        return (
            "lies in memory that cannot be written, as of a file that is mapped for reading; "
            "parameter.data = parameter.data.clone() gives it memory of its own"
        )
    return None


def keeps_no_elements(tensor: Tensor) -> bool:
    """Whether a tensor is of a class whose elements are elsewhere: in shards, in quantized tensors, nowhere."""
    return type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__ or torch._is_functional_tensor(tensor)


def is_distributed(tensor: Tensor) -> bool:
    return any(kind.__name__ == "DTensor" for kind in type(tensor).__mro__)


def extent(tensor: Tensor) -> int:
    """How many elements of memory a tensor spans, with those between its own."""
    if tensor.numel() == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def is_same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have exactly the same elements, in any order."""
    if a.data_ptr() != b.data_ptr() or a.dtype != b.dtype or a.device != b.device or a.numel() != b.numel():
        return False
    dense = extent(a) == a.numel() == extent(b)
    return dense or (a.shape == b.shape and a.stride() == b.stride())


def has_common_elements(tensors: Sequence[Tensor]) -> bool:
    """Whether an element of memory belongs to two of these, or to one of them twice."""
    if sum(tensor.numel() for tensor in tensors) == 0:
        return False
    if len(tensors) == 1 and is_in_order(tensors[0]):
        return False
    if len({(tensor.dtype, tensor.device) for tensor in tensors}) > 1:
        return True
    first = min(tensor.data_ptr() for tensor in tensors)
    size = tensors[0].element_size()
    starts = [(tensor.data_ptr() - first) // size for tensor in tensors]
    span = max(start + extent(tensor) for start, tensor in zip(starts, tensors, strict=True))
    if sum(tensor.numel() for tensor in tensors) > span:
        return True
    numbers = torch.arange(span, dtype=torch.int64, device="cpu")
    elements = [
        numbers.as_strided(tensor.shape, tensor.stride(), start).flatten()
        for start, tensor in zip(starts, tensors, strict=True)
    ]
    counts = torch.bincount(torch.cat(elements), minlength=span)
    return bool((counts > 1).any())


def is_in_order(tensor: Tensor) -> bool:
    """Whether each step along a dimension leads past everything that shorter steps reach: no element comes twice."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return False
            reach += (size - 1) * stride
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; on the CPU torch says so in words only."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)
