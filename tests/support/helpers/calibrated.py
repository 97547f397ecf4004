"""A network and images to calibrate it on, and what may not change."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def images_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5),
            nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10),
        )  # fmt: skip


class Snapshot:
    """Everything of a model that calibration might change, but the statistics."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = {name: (value, value.clone(), value._version, value.requires_grad, value.grad)
                           for name, value in model.named_parameters()}  # fmt: skip
        self.buffers = dict(model.named_buffers())
        self.values = {name: value.clone() for name, value in self.buffers.items()}
        self.modes = {name: module.training for name, module in model.named_modules()}
        self.attributes = {
            name: {key: value for key, value in vars(module).items() if not isinstance(value, dict)}
            for name, module in model.named_modules()
        }
        self.hooks = {name: list(module._forward_hooks.items()) for name, module in model.named_modules()}
        self.states = torch.get_rng_state()

    def check(self, model: nn.Module, *, statistics: bool) -> None:
        """All is as it was; the statistics, too, where `statistics` says so."""
        now = Snapshot(model)
        assert now.modes == self.modes
        assert now.attributes == self.attributes
        assert now.hooks == self.hooks
        assert torch.equal(now.states, self.states)
        for name, (value, kept, version, requires_grad, grad) in self.parameters.items():
            current = now.parameters[name]
            assert current[0] is value
            assert torch.equal(value, kept)
            assert current[2:4] == (version, requires_grad)
            assert current[4] is grad
        assert now.buffers.keys() == self.buffers.keys()
        for name, buffer in self.buffers.items():
            assert now.buffers[name] is buffer
            assert not statistics or torch.equal(buffer, self.values[name])


IMAGES, TARGETS = images_of(8, 3, 12, 12), torch.arange(8)
PAIRS = [(IMAGES[:4], TARGETS[:4]), (IMAGES[4:], TARGETS[4:])]
