"""What a trace is given: a model whose parameters are there, and what its forward takes."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TraceError
from ..graph import PREDICTED_DTYPES
from ..memory import BEFORE_WRAPPING
from .alone import spread
from .members import Members
from .tensors import META

# Two images: a batch of one hides its dimension from code that squeezes.
BATCH_SIZE = 2


def check_parameters(model: nn.Module, members: Members) -> None:
    kind = type(model).__name__
    if (found := spread(model, members)) is not None:
        raise TraceError(f"{found}; {BEFORE_WRAPPING}")
    if not members.parameters:
        raise TraceError(f"{kind} has no parameters; there is nothing to predict")
    if set(map(type, members.parameters)) == {nn.Parameter}:
        return
    for name, parameter in zip(members.names, members.parameters, strict=True):
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise TraceError(f"the parameter {name} is not initialized; run the lazy model once before tracing it")


def make_inputs(
    model: nn.Module, dtype: torch.dtype, input_shape: Sequence[int] | None, example_inputs: Any
) -> tuple[tuple[Any, ...], dict[str, Any], str]:
    """Positional and keyword arguments for the forward, and how to name them in a message.

    Args:
        dtype: of images, where nothing else is given.
    """
    if example_inputs is not None:
        if input_shape is not None:
            raise TraceError("both input_shape and example_inputs are given; one of them is accepted")
        if isinstance(example_inputs, Mapping):
            return (), dict(example_inputs), f"example_inputs with the keys {list(example_inputs)}"
        if not isinstance(example_inputs, (tuple, list)):
            raise TraceError(
                f"example_inputs is a {type(example_inputs).__name__}; a tuple of positional arguments or a dict of "
                "keyword arguments is accepted"
            )
        return tuple(example_inputs), {}, f"{len(example_inputs)} example_inputs"
    shape = default_input_shape(model) if input_shape is None else as_sizes(input_shape)
    try:
        image = torch.empty((BATCH_SIZE, *shape), dtype=dtype, device=META)
    except (RuntimeError, TypeError, OverflowError):  # more bytes than 64 bits count; torch says so in several ways
        raise TraceError(f"input_shape is {shape}; a tensor of fewer elements is accepted") from None
    return (image,), {}, f"an input of shape {(BATCH_SIZE, *shape)}"


def input_dtype(parameters: Iterable[Tensor]) -> torch.dtype:
    """The dtype of images for a model, whose parameters may be of several.

    That of the first parameter of two dimensions or more: weights of convolutions and linear layers take no other, but
    vectors before them (of normalization layers, which are often kept in float32) do. The most frequent dtype would be
    wrong for a stem in float32 whose output the forward converts.
    """
    floating = [parameter for parameter in parameters if parameter.dtype in PREDICTED_DTYPES]
    chosen = next((parameter for parameter in floating if parameter.ndim > 1), floating[0] if floating else None)
    return torch.float32 if chosen is None else chosen.dtype


def input_dtypes(parameters: Iterable[Tensor]) -> list[torch.dtype]:
    """The dtypes that images may have, the likeliest first: a model of several may have its first weight elsewhere."""
    own = [parameter.dtype for parameter in parameters if parameter.dtype in PREDICTED_DTYPES]
    return list(dict.fromkeys([input_dtype(parameters), *own]))


def as_sizes(shape: Any) -> tuple[int, ...]:
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except TypeError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise TraceError(f"input_shape is {shape}; positive sizes (channels, height, width) are accepted")
    return sizes


def default_input_shape(model: nn.Module) -> tuple[int, ...]:
    """What the model says of its input, or the only module that it wraps, and so on; else an ImageNet image."""
    said: tuple[int, ...] | None = None
    inner: nn.Module | None = model
    while said is None and inner is not None:
        said = said_of_input(inner)
        inner = next(inner.children()) if len(inner._modules) == 1 and None not in inner._modules.values() else None
    return said or (3, 224, 224)


def said_of_input(model: nn.Module) -> tuple[int, ...] | None:
    own = getattr(model, "input_shape", None)
    if isinstance(own, (tuple, list)) and all(isinstance(size, int) for size in own):
        return tuple(own)
    settings = getattr(model, "pretrained_cfg", None)  # timm
    if isinstance(settings, Mapping) and settings.get("input_size"):
        return tuple(settings["input_size"])
    config = getattr(model, "config", None)  # transformers
    size = getattr(config, "image_size", None) or getattr(model, "image_size", None)  # torchvision's ViT
    channels = getattr(config, "num_channels", 3)
    if isinstance(size, int):
        return (channels, size, size)
    if isinstance(size, (tuple, list)) and len(size) == 2:
        return (channels, *size)
    inception = any(kind.__name__ == "Inception3" for kind in type(model).__mro__)
    return (3, 299, 299) if inception else None
