"""What of a network may draw random numbers: a mode that gives it ours takes its time of every function of torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..randomness import drawing_from
from ..tracing.members import has_global_hooks, members_of

# Layers that draw nothing: what is within them may.
QUIET = frozenset([
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.Embedding),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.Mish),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.PReLU, nn.Identity, nn.Flatten, nn.Unflatten),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d),
    *(nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d, nn.ConstantPad2d, nn.Upsample),
    *(nn.GRUCell, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.PixelShuffle, nn.ChannelShuffle),
])  # fmt: skip
OURS = __name__.partition(".")[0] + "."
# Where torchvision has modules that draw nothing; others of its models call functions of dropout.
TORCHVISION = frozenset([
    "torchvision.ops.misc",
    *(f"torchvision.models.{name}" for name in ("resnet", "vgg", "squeezenet", "mobilenetv2", "mobilenetv3")),
    *(f"torchvision.models.{name}" for name in ("efficientnet", "shufflenetv2", "convnext", "vision_transformer")),
    *(f"torchvision.models.{name}" for name in ("regnet", "mnasnet", "alexnet")),
])  # fmt: skip


def loud_modules(root: nn.Module) -> list[nn.Module]:
    """The modules that may draw when they are called; the root alone where it, or a hook of any, may."""
    modules = members_of(root).modules
    hooked = has_global_hooks() or any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    return [root] if hooked or not is_quiet(root) else [module for module in modules if not is_quiet(module)]


def is_quiet(module: nn.Module) -> bool:
    """Whether a module draws nothing but where it calls others."""
    kind, own = type(module), module.__dict__
    if "forward" in own:
        return False
    if kind in QUIET or kind.__module__ in TORCHVISION:
        return True
    # Of our own modules, networks of DeepNets-1M alone draw, where they drop paths.
    return kind.__module__.startswith(OURS) and not own.get("drop_path_prob", 0)


@contextmanager
def calls_drawing_from(seed: int, module: nn.Module) -> Iterator[None]:
    """`drawing_from` for calls of a module, which is on only where something may draw.

    Within it, nothing else is to draw.
    """
    mode, loud = drawing_from(seed), loud_modules(module)
    if loud[:1] == [module]:
        with mode:
            yield
        return
    before = [(each.__dict__, each.__dict__.get("forward")) for each in loud]
    try:
        for each in loud:
            each.__dict__["forward"] = within(mode, each.forward)
        yield
    finally:
        for own, forward in before:
            own.pop("forward", None)
            if forward is not None:
                own["forward"] = forward


def within(mode: drawing_from, forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        with mode:
            return forward(*args, **kwargs)

    return call
