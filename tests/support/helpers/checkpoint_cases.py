"""Small checkpoints, and what is asked of messages about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ghnfast.checkpoints import Checkpoint, fitted_weights
from ghnfast.errors import CheckpointError
from helpers.golden_data import closed_form_weights, golden

SUFFIXES = [".pt", ".pth", ".safetensors"]
CONFIG = {"max_shape": (64, 64, 11, 11), "num_classes": 10, "hypernet": "gatedgnn", "ve": True, "hid": 32}


def load_into(module: nn.Module, checkpoint: Checkpoint) -> None:
    module.load_state_dict(fitted_weights(module, checkpoint))


def golden_checkpoint(name: str) -> Checkpoint:
    """A golden checkpoint with its weights in closed form (golden/README.md)."""
    entry = golden("checkpoints")[name]
    return Checkpoint(entry["config"], closed_form_weights(entry["state_dict"]), name, 299)


def module_of(shapes: dict[str, Any]) -> nn.Module:
    """A module with parameters of these dotted names and shapes, all zero."""
    root = nn.Module()
    for name, shape in shapes.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, nn.Parameter(torch.zeros(shape)))
    return root


def small(**changes: Any) -> Checkpoint:
    parts = {"config": CONFIG, "state_dict": {"w": torch.arange(6.0).view(2, 3)}, "source": "here", "epoch": 7}
    return Checkpoint(**{**parts, **changes})


def message(call: Callable[..., Any], *args: Any) -> str:
    """The text of the CheckpointError that a call must raise."""
    with pytest.raises(CheckpointError) as error:
        call(*args)
    return str(error.value)


def says(text: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in text, f"{part!r} is not in the message: {text}"


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
