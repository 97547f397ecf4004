"""Small networks for predictions, of every kind that is decoded in a way of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from helpers.models import Net


def conv(inputs: int, outputs: int, kernel: int | tuple[int, int] = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the image's size; without a bias unless asked for."""
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(side // 2 for side in size)
    return nn.Conv2d(inputs, outputs, size, **{"padding": padding, "bias": False, **options})


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.full(shape, 0.25))


def classifier_of(stem: nn.Module, head: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(OrderedDict(stem=stem, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=head))


def small_network() -> nn.Module:
    """One of everything that is common."""
    return nn.Sequential(
        OrderedDict(
            a=conv(3, 8, bias=True),
            bn=nn.BatchNorm2d(8),
            act=nn.ReLU(inplace=True),
            b=conv(8, 12, groups=4),
            gn=nn.GroupNorm(2, 12),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            fc=nn.Linear(12, 5),
        )
    )


def tokens_network(tokens: int, *shape: int) -> nn.Module:
    """16 tokens of width 10, with or without tokens in front, and a position encoding of `shape`."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.patch(x).flatten(2).transpose(1, 2)
        if tokens:
            x = torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1)
        return m.fc(m.ln(x + m.pos).mean(1))

    return Net(
        forward,
        patch=nn.Conv2d(3, 10, 4, 4),
        token=parameter(1, tokens, 10) if tokens else None,
        pos=parameter(*shape),
        ln=nn.LayerNorm(10),
        fc=nn.Linear(10, 5),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "common": small_network,
    "larger than the decoder": lambda: nn.Sequential(conv(3, 16), nn.BatchNorm2d(16), conv(16, 24, bias=True)),
    "no multiples of the decoder": lambda: nn.Sequential(conv(3, 11, bias=True), nn.BatchNorm2d(11), conv(11, 21)),
    "smaller than the decoder": lambda: nn.Sequential(conv(3, 2), conv(2, 7, 1, bias=True), conv(7, 5)),
    "depthwise": lambda: nn.Sequential(conv(3, 20, 1), conv(20, 20, groups=20), conv(20, 20, dilation=2, groups=20)),
    "1 x 7 and 7 x 1": lambda: nn.Sequential(
        conv(3, 9, (1, 7)), conv(9, 4, (7, 1)), conv(4, 4, (1, 3)), conv(4, 4, (3, 1))
    ),
    "larger kernels than the decoder's": lambda: nn.Sequential(conv(3, 10, 5), conv(10, 4, 7), conv(4, 4, (2, 5))),
    "even kernels": lambda: nn.Sequential(conv(3, 4, 2), conv(4, 4, 4)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 19), nn.Tanh(), nn.Linear(19, 3), nn.Linear(3, 5)),
    "fewer classes": lambda: classifier_of(conv(3, 10), nn.Linear(10, 3), 10),
    "more classes": lambda: classifier_of(conv(3, 10), nn.Linear(10, 13), 10),
    "classes without bias": lambda: classifier_of(conv(3, 6), nn.Linear(6, 7, bias=False), 6),
    "1x1 convolution as classifier": lambda: nn.Sequential(
        conv(3, 10), conv(10, 7, 1, bias=True), nn.AdaptiveAvgPool2d(1)
    ),
    "norms": lambda: nn.Sequential(
        conv(3, 20),
        nn.BatchNorm2d(20),
        nn.GroupNorm(4, 20),
        nn.InstanceNorm2d(20, affine=True),
        nn.LayerNorm(16),
        nn.LayerNorm(16, bias=False),
        nn.RMSNorm(16),
        conv(20, 4),
    ),
    "bias in another shape": lambda: Net(
        lambda m, x: m.b(F.relu(m.a(x) + m.c)), a=conv(3, 9), b=conv(9, 4), c=parameter(9, 1, 1)
    ),
    "position encoding (1, n, d)": lambda: tokens_network(0, 1, 16, 10),
    "position encoding (n, d)": lambda: tokens_network(0, 16, 10),
    "position encoding with class token": lambda: tokens_network(1, 1, 17, 10),
    "position encoding (n, d) with class token": lambda: tokens_network(1, 17, 10),
    "position encoding of an image": lambda: Net(
        lambda m, x: m.b(m.a(x) + m.pos), a=conv(3, 10), b=conv(10, 4), pos=parameter(1, 10, 16, 16)
    ),
    "position encoding of a small image": lambda: Net(
        lambda m, x: m.b(m.a(x) + m.pos), a=nn.Conv2d(3, 10, 8, 8), b=conv(10, 4), pos=parameter(1, 10, 2, 2)
    ),
    "attention": lambda: Net(
        lambda m, x: m.fc(m.block(m.patch(x).flatten(2).transpose(1, 2))[:, 0]),
        patch=nn.Conv2d(3, 8, 4, 4),
        block=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        fc=nn.Linear(8, 5),
    ),
    "used twice": lambda: Net(lambda m, x: m.b(m.b(m.a(x))), a=conv(3, 10), b=conv(10, 10, bias=True)),
    "spectral norm": lambda: nn.Sequential(conv(3, 10), parametrizations.spectral_norm(conv(10, 4))),
}


class PatchNet(nn.Module):
    """Patches larger than a decoder of 3 x 3 cells, and a position encoding with a token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, stride=4)
        self.position = nn.Parameter(torch.zeros(1, 17, 12))
        self.token = nn.Parameter(torch.zeros(1, 1, 12))
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], 1)
        result: Tensor = self.head(self.norm(tokens + self.position)[:, 0])
        return result
