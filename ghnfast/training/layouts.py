"""Convolutions whose gradients torch computes beyond its memory, and how they are kept from it.

On a CPU, for images whose channels are last, two kernels of oneDNN (torch 2.13) compute gradients of weights so: those
of 1x1 convolutions with strides, of fewer channels than a vector has numbers, write behind their workspace
(uxlfoundation/oneDNN#6035); those of dilated convolutions in groups, in bfloat16, read what nobody has written. For
images with columns last there are others.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

VECTOR = 16  # numbers of float32 in AVX-512


class whole_gradients(TorchFunctionMode):
    """Within it, convolutions that this thread calls get images in the layout that their gradients are right for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d and len(args) > 1 and is_hurt(*args, **kwargs):
            args = (args[0].contiguous(), *args[1:])
        return func(*args, **kwargs)


def gradients_whole(images: Tensor) -> AbstractContextManager[Any]:
    """`whole_gradients` where it is needed: it takes some time of every function that is called within it."""
    return whole_gradients() if images.is_cpu else nullcontext()


def is_hurt(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    """Whether the gradient of the weight of a convolution would come from one of these kernels."""
    if not images.is_cpu or images.is_contiguous() or not torch.is_grad_enabled():
        return False
    channels, *cells = weight.shape[1:]
    if cells == [1, 1] and channels < VECTOR and stride not in (1, (1, 1)):
        return True
    halves = images.dtype is torch.bfloat16 or torch.is_autocast_enabled("cpu")
    return groups > 1 and dilation not in (1, (1, 1)) and halves
