"""The operations on the edges of a cell, and the layers that stems and heads share with them.

Source: the convolutions and the factorized reduction are those of DARTS (Liu et al., ICLR 2019, Section 3.1); `msa`
is a pre-norm transformer block (Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, Equations 2 and 3);
`cse` is squeeze and excitation (Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, Section 3). Module names are
those of the published DeepNets-1M networks, because their parameters' names are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError


def normalization(norm: str | None, channels: int) -> nn.Module:
    """The layer that `norm` names: the identity for None, "" and "none", batch normalization for "bn...".

    Batch normalization keeps running statistics where the name contains "track", else every batch is normalized by its
    own statistics, also in evaluation mode.

    Raises:
        ConfigError: any other `norm`.
    """
    return nn.BatchNorm2d(channels, track_running_stats="track" in str(norm)) if is_norm(norm) else nn.Identity()


def is_norm(norm: str | None) -> bool:
    """Whether `norm` names batch normalization, or none.

    Raises:
        ConfigError: it names neither.
    """
    if norm in (None, "", "none"):
        return False
    if isinstance(norm, str) and norm.startswith("bn"):
        return True
    raise ConfigError(f"norm must be None, '', 'none' or a name that starts with 'bn' (bn, bn-track), given {norm!r}")


def convolution(
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    *,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Conv2d:
    """A convolution without bias whose padding keeps an image's size at stride 1, for odd kernels."""
    rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (dilation * (rows // 2), dilation * (columns // 2))
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)


class Convolutions(nn.Module):
    """Layers one after the other, `(N, C_in, H, W) -> (N, C_out, H', W')`, under the published name `op`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.op(images)
        return output


def plain(in_channels: int, out_channels: int, stride: int, norm: str | None, *, kernel: int = 1) -> Convolutions:
    """ReLU, a convolution, a normalization."""
    layer = convolution(in_channels, out_channels, kernel, stride)
    return Convolutions(nn.ReLU(), layer, normalization(norm, out_channels))


def plain_square(channels: int, stride: int, norm: str | None, *, kernel: int) -> Convolutions:
    return plain(channels, channels, stride, norm, kernel=kernel)


def row_then_column(channels: int, stride: int, norm: str | None, *, kernel: int) -> Convolutions:
    row = convolution(channels, channels, (1, kernel), (1, stride))
    column = convolution(channels, channels, (kernel, 1), (stride, 1))
    return Convolutions(nn.ReLU(), row, column, normalization(norm, channels))


def dilated(channels: int, stride: int, norm: str | None, *, kernel: int) -> Convolutions:
    depthwise = convolution(channels, channels, kernel, stride, dilation=2, groups=channels)
    return Convolutions(nn.ReLU(), depthwise, convolution(channels, channels, 1), normalization(norm, channels))


def separable(channels: int, stride: int, norm: str | None, *, kernel: int) -> Convolutions:
    layers: list[nn.Module] = []
    for layer_stride in (stride, 1):
        depthwise = convolution(channels, channels, kernel, layer_stride, groups=channels)
        layers += [nn.ReLU(), depthwise, convolution(channels, channels, 1), normalization(norm, channels)]
    return Convolutions(*layers)


class FactorizedReduce(nn.Module):
    """Halves an image, `(N, C_in, H, W) -> (N, C_out, H/2, W/2)`, H and W even.

    Half of the channels read the pixels of even rows and columns, half those of odd ones.

    Raises:
        ConfigError: `out_channels` is odd.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str | None) -> None:
        super().__init__()
        if out_channels % 2:
            raise ConfigError(f"a factorized reduction needs an even number of channels (C), given {out_channels}")
        self.relu = nn.ReLU()
        self.conv_1 = convolution(in_channels, out_channels // 2, 1, 2)
        self.conv_2 = convolution(in_channels, out_channels // 2, 1, 2)
        self.bn = normalization(norm, out_channels)

    def forward(self, images: Tensor) -> Tensor:
        images = self.relu(images)
        halves = [self.conv_1(images), self.conv_2(images[:, :, 1:, 1:])]
        output: Tensor = self.bn(torch.cat(halves, dim=1))
        return output


class Subsample(nn.Module):
    """Every second row and column, `(N, C, H, W) -> (N, C, H/2, W/2)`: reduces a state where no layer does."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, ::2, ::2]


class PositionEncoding(nn.Module):
    """Adds a learned map to an image, `(N, C, side, side)`."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, channels, side, side))

    def forward(self, images: Tensor) -> Tensor:
        return images + self.weight


class ChannelGate(nn.Module):
    """Squeeze and excitation, `(N, C, H, W) -> (N, C, H/stride, W/stride)`.

    `x * hardswish(fc2(relu(fc1(mean(x)))))`: as in the published networks the gate is a hard swish, not the paper's
    sigmoid, and the bottleneck has C / 2 channels.

    Raises:
        ConfigError: fewer than 2 channels.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        if channels < 2:
            raise ConfigError(f"the operation cse needs 2 channels (C) or more, given {channels}")
        self.stride = stride
        self.fc1 = nn.Linear(channels, channels // 2)
        self.fc2 = nn.Linear(channels // 2, channels)

    def forward(self, images: Tensor) -> Tensor:
        squeezed = images.flatten(2).mean(dim=2)
        gate = nn.functional.hardswish(self.fc2(torch.relu(self.fc1(squeezed))))
        return every(self.stride, images * gate.reshape(*gate.shape, 1, 1))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, `(N, tokens, C) -> (N, tokens, C)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The identity stands where the published block has a dropout of probability 0: the second layer is `net.3`.
        self.net = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Identity(), nn.Linear(channels, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.net(tokens)
        return output


class SelfAttention(nn.Module):
    """A transformer block over the pixels, `(N, C, H, W) -> (N, C, H/stride, W/stride)`.

    `y = x + to_out(softmax(q k^T / sqrt(d)) v)` with `q, k, v = to_qkv(ln1(x))` in 8 heads of `d = C // 8`
    channels, then `y + ff(ln2(y))` (Dosovitskiy et al., Equations 2 and 3).

    Raises:
        ConfigError: fewer channels than heads.
    """

    HEADS = 8

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        if channels < self.HEADS:
            raise ConfigError(f"the operation msa needs {self.HEADS} channels (C) or more, given {channels}")
        head_channels = channels // self.HEADS
        self.stride = stride
        self.scale = head_channels**-0.5
        self.to_qkv = nn.Linear(channels, 3 * self.HEADS * head_channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(self.HEADS * head_channels, channels))
        self.ln1 = nn.LayerNorm(channels)
        self.ln2 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.flatten(2).transpose(1, 2)
        tokens = tokens + self.to_out(self._attend(self.ln1(tokens)))
        tokens = tokens + self.ff(self.ln2(tokens))
        return every(self.stride, tokens.transpose(1, 2).unflatten(2, images.shape[2:]))

    def _attend(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(2, (self.HEADS, -1)).transpose(1, 2) for part in self.to_qkv(tokens).chunk(3, dim=-1)
        )
        # Fused: spelled out, its matrices of tokens by tokens take most of the time of training on the CPU.
        mixed = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        return mixed.transpose(1, 2).flatten(2)


def every(stride: int, images: Tensor) -> Tensor:
    return images if stride == 1 else images[:, :, ::stride, ::stride]


def max_pool(channels: int, stride: int, norm: str | None) -> nn.Module:
    return nn.MaxPool2d(3, stride, padding=1)


def average_pool(channels: int, stride: int, norm: str | None) -> nn.Module:
    return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)


def skip(channels: int, stride: int, norm: str | None) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, norm)


def self_attention(channels: int, stride: int, norm: str | None) -> nn.Module:
    return SelfAttention(channels, stride)


def channel_gate(channels: int, stride: int, norm: str | None) -> nn.Module:
    return ChannelGate(channels, stride)


BUILDERS: dict[str, Callable[[int, int, str | None], nn.Module]] = {
    "max_pool_3x3": max_pool,
    "avg_pool_3x3": average_pool,
    "skip_connect": skip,
    "sep_conv_3x3": partial(separable, kernel=3),
    "sep_conv_5x5": partial(separable, kernel=5),
    "dil_conv_3x3": partial(dilated, kernel=3),
    "dil_conv_5x5": partial(dilated, kernel=5),
    "conv_1x1": partial(plain_square, kernel=1),
    "conv_7x1_1x7": partial(row_then_column, kernel=7),
    "conv_3x3": partial(plain_square, kernel=3),
    "conv_5x5": partial(plain_square, kernel=5),
    "conv_7x7": partial(plain_square, kernel=7),
    "msa": self_attention,
    "cse": channel_gate,
}


def build_operation(name: str, channels: int, stride: int, norm: str | None) -> nn.Module:
    """The module of an operation of `OPERATIONS` other than "none", which has none.

    It maps `(N, channels, H, W)` to `(N, channels, H / stride, W / stride)`.

    Raises:
        ConfigError: too few channels for the operation, or an odd number where it halves them.
    """
    return BUILDERS[name](channels, stride, norm)


def drop_path(images: Tensor, probability: float) -> Tensor:
    """Zeroes whole images, each with the given probability, and scales the others by `1 / (1 - probability)`.

    Source: Larsson et al., "FractalNet", ICLR 2017, Section 3.1, as DARTS trains its networks.

    Raises:
        ConfigError: the probability is not in [0, 1).
    """
    if not 0 <= probability < 1:
        raise ConfigError(f"drop_path_prob must be at least 0 and less than 1, given {probability}")
    kept = images.new_empty(len(images), 1, 1, 1).bernoulli_(1 - probability)
    return images / (1 - probability) * kept
