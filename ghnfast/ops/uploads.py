"""What is brought to a GPU, once, without waiting, and used there on any stream."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import BackendError
from ..kernels import driver

ALIGNMENT = 16  # bytes


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured on a device's current stream."""
    if device.type != "cuda":
        return False
    if device.index in (None, torch.cuda.current_device()):
        return torch.cuda.is_current_stream_capturing()
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


class Made(NamedTuple):
    """When something is made on a stream of a GPU: what uses it on another one has to wait for it.

    stream: its handle.
    """

    device: torch.device
    stream: int
    event: torch.cuda.Event

    @classmethod
    def now(cls, device: torch.device) -> Made:
        event = torch.cuda.current_stream(device).record_event()
        return cls(device, driver.current_stream(driver.number_of(device)), event)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of what was made is made when it is copied."""
        return Made.now, (self.device,)


# When tensors were uploaded: an attribute of theirs.
MADE = "ghnfast_made"
# The tables that captured CUDA graphs read: nobody tells when such a graph is gone. By the memory they are in, so that
# a loop that captures keeps each of them once.
CAPTURED: dict[int, Sequence[Tensor]] = {}


def in_use(*groups: Sequence[Tensor], made: Made | None = None) -> None:
    """Groups of tensors, each in memory that its members share, are about to be used on their device's current stream.

    This need not be the one they were made on: it waits for them, and their memory is not given to others before what
    it does with them is done. Where a CUDA graph is being captured that will read them, they stay for good.

    Args:
        made: when they were made, where they were computed.
    """
    device = groups[0][0].device
    if device.type != "cuda":
        return
    if is_capturing(device):
        CAPTURED.update((group[0].untyped_storage().data_ptr(), group) for group in groups)
        return
    here = driver.current_stream(driver.number_of(device))
    for first, *_ in groups:
        known = made or getattr(first, MADE)
        if known.stream != here:
            stream = torch.cuda.current_stream(device)
            stream.wait_event(known.event)
            first.record_stream(stream)


@torch.inference_mode(False)  # what is uploaded is used again, where gradients are asked for
def uploaded(arrays: Sequence[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Arrays as tensors on a device, in one copy that nobody waits for; on the CPU in their own memory.

    Raises:
        BackendError: a CUDA graph is being captured, which nothing can be uploaded in.
    """
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    if is_capturing(device):
        raise BackendError("a CUDA graph is being captured; the same call, on the same tensors, must have come before")
    sizes = [array.nbytes for array in arrays]
    starts = list(itertools.accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes), initial=0))
    # Torch gives this memory to nobody else before it is copied.
    here = torch.empty(starts[-1], dtype=torch.uint8, device="cpu", pin_memory=True)
    packed = here.numpy()
    for array, start, size in zip(arrays, starts, sizes, strict=False):
        packed[start : start + size] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there = here.to(device, non_blocking=True)
    parts = [there.narrow(0, start, size) for start, size in zip(starts, sizes, strict=False)]
    dtypes = [torch.from_numpy(array[:0]).dtype for array in arrays]
    found = [part.view(dtype).view(a.shape) for part, dtype, a in zip(parts, dtypes, arrays, strict=True)]
    if device.type == "cuda":
        made = Made.now(there.device)
        for tensor in found:
            setattr(tensor, MADE, made)
    return found


class Wanted(NamedTuple):
    """Arrays that a device has not yet. keep: what remembers them, given where they are there."""

    arrays: Sequence[NDArray[Any]]
    keep: Callable[[list[Tensor]], None]


def upload(wanted: Iterable[Wanted | None], device: torch.device) -> None:
    """Bring what several operations want to a device, in one copy (`uploaded`), and have it remembered."""
    missing = [each for each in wanted if each is not None]
    if missing:
        there = iter(uploaded([array for each in missing for array in each.arrays], device))
        for each in missing:
            each.keep(list(itertools.islice(there, len(each.arrays))))
