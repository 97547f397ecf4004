"""The mode that gives networks our random numbers is on where something may draw, and there alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import ghnfast.vision  # noqa: F401  (first: it makes torchvision importable beside a CPU torch)
from ghnfast.deepnets import DeepNets1M
from ghnfast.families import HELD_OUT, TRAINED, Families
from ghnfast.randomness import drawing_from
from ghnfast.training.drawing import QUIET, calls_drawing_from, loud_modules

from torchvision.ops import StochasticDepth  # isort: skip


class Noise(nn.Module):
    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = nn.Identity() if inner is None else inner

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x + torch.rand_like(x)) + torch.randn(1)
        return found


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))
    network[1].register_forward_hook(lambda module, inputs, output: output + torch.rand(4))
    return network


def patched() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.Dropout())
    network[1].forward = lambda x: torch.randn(len(x), 4)
    return network


def dropping_paths() -> nn.Module:
    network = DeepNets1M("train")[1].build()
    vars(network)["drop_path_prob"] = 0.5
    return network


def with_dropout(networks: Any, count: int = 12) -> list[nn.Module]:
    built = [networks[index].build() for index in range(count)]
    return [network for network in built if any(isinstance(each, nn.Dropout) for each in network.modules())][:2]


NETWORKS: dict[str, Callable[[], list[nn.Module]]] = {
    "DeepNets-1M": lambda: with_dropout(DeepNets1M("train")),
    "paths": lambda: [dropping_paths()],
    "hook": lambda: [hooked()],
    "own": lambda: [Noise(), nn.Sequential(nn.Conv2d(3, 4, 3), Noise(nn.Dropout()), nn.Dropout(0.3), Noise(Noise()))],
    "instance": lambda: [patched()],
    "attention": lambda: [
        nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(1024, 2, 8, dropout=0.4), nn.RReLU(), nn.Dropout1d())
    ],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_networks_draw_is_what_a_mode_around_them_gives(name: str) -> None:
    networks = NETWORKS[name]()
    assert networks
    for network in networks:
        images, attributes = torch.randn(2, 3, 32, 32), [dict(module.__dict__) for module in network.modules()]
        found = []
        for context in (drawing_from(5), calls_drawing_from(5, network)):
            state = torch.get_rng_state()
            with context:
                output = network.train()(images)
            assert torch.equal(torch.get_rng_state(), state)
            found.append(output[0] if isinstance(output, tuple) else output)
        assert torch.equal(*found)
        assert [module.__dict__.keys() for module in network.modules()] == [own.keys() for own in attributes]
        assert [module.__dict__.get("forward") for module in network.modules()] == [
            own.get("forward") for own in attributes
        ]


def test_networks_are_as_they_were_after_an_error() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Dropout())
    with pytest.raises(RuntimeError), calls_drawing_from(0, network):
        network(torch.ones(2, 5))
    assert all("forward" not in module.__dict__ for module in network.modules())


@pytest.mark.parametrize("family", [*TRAINED, *HELD_OUT, None])
def test_in_networks_of_data_sets_few_layers_are_loud(family: str | None) -> None:
    """They draw what they would; and the mode is not on in most of them, but where torchvision calls functions."""
    networks: Any = Families("train", families=(family,), num_classes=10) if family else DeepNets1M("train")
    network = networks[0].build().train()
    loud = loud_modules(network)
    layers = {nn.Dropout, nn.MultiheadAttention, type(nn.MultiheadAttention(2, 1).out_proj), StochasticDepth}
    assert set(map(type, loud)) <= layers or family in ("densenet", "swin")
    found = []
    for context in (drawing_from(5), calls_drawing_from(5, network)):
        with context:
            found.append(network(torch.ones(2, 3, 32, 32)))
    torch.testing.assert_close(*found, rtol=0, atol=0, equal_nan=True)


class NoDraws(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert torch.Tag.nondeterministic_seeded not in func.tags
        return func(*args, **(kwargs or {}))


CONVOLUTION, NORM, POOL = (3, 3, 3), (3,), (2,)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "Conv": CONVOLUTION, "ConvTranspose": CONVOLUTION, "BatchNorm": NORM, "MaxPool": POOL, "AvgPool": POOL,
    "AdaptiveAvgPool": POOL, "AdaptiveMaxPool": POOL, "Linear": (8, 3), "GroupNorm": (1, 3), "LayerNorm": (8,),
    "LocalResponseNorm": (2,), "Embedding": (9, 4), "Unflatten": (1, (1, 3)), "ZeroPad": (1,), "ConstantPad": (1, 2.0),
    "Softmax": (1,), "Upsample": (None, 2), "GRUCell": (8, 8), "PixelShuffle": (1,), "ChannelShuffle": (3,),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(QUIET - {nn.ModuleList, nn.ModuleDict}, key=str))
def test_quiet_layers_draw_nothing(kind: type[nn.Module]) -> None:
    name, dims = (re.findall(r"(.*)([123])d$", kind.__name__) or [(kind.__name__, "2")])[0]
    layer, x = kind(*ARGUMENTS.get(name, ())), torch.randn(2, 3, *[8] * int(dims))
    given = torch.tensor([1, 2]) if kind is nn.Embedding else x[0, :, 0] if kind is nn.GRUCell else x
    with NoDraws():
        layer.train()(given)
