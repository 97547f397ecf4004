"""Builds models for tests: quickly, and under the names that the golden files use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn

import ghnfast.vision  # noqa: F401  (makes torchvision importable beside a CPU torch)


@contextmanager
def no_initialization() -> Iterator[None]:
    """Within it, new parameters keep whatever their memory held: building a model costs no random numbers."""

    def keep(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return tensor

    # Also those that others call: transformers keeps the functions from before, and that for a truncated normal
    # distribution draws until all numbers are within it, which memory that nobody draws may never be.
    names = [name for name in vars(nn.init) if name.endswith("_") and not name.endswith("__")]
    patches = [mock.patch.object(nn.init, name, keep) for name in names]
    patches += [mock.patch.object(torch.Tensor, name, keep) for name in ("normal_", "uniform_")]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def torchvision_model(name: str, **settings: Any) -> nn.Module:
    """An uninitialized torchvision classification model in training mode."""
    from torchvision import models

    if name in ("googlenet", "inception_v3"):
        settings["init_weights"] = False
    with no_initialization():
        return models.get_model(name, weights=None, **settings)


def timm_model(name: str) -> nn.Module:
    """An uninitialized timm model in training mode."""
    import timm

    with no_initialization():
        return timm.create_model(name, pretrained=False)


def transformers_model(name: str) -> nn.Module:
    """An uninitialized image classifier of transformers, from its configuration class, in training mode."""
    import transformers

    config = getattr(transformers, f"{name}Config")(num_labels=1000)
    with no_initialization():
        return getattr(transformers, f"{name}ForImageClassification")(config).train()


class Net(nn.Module):
    """A model from its parts and a function `(model, *inputs) -> outputs`.

    Modules and parameters become what they are, tensors become buffers, everything else plain attributes.
    """

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)
