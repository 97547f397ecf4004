"""The networks of NAS-Bench-Macro.

Source: Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021, Section 4. Eight layers,
each an identity or one of two blocks of MobileNetV2 (Sandler et al., CVPR 2018).
"""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import ConfigError
from .checks import IMAGE_SHAPE, check_classes

# Kernel size and expansion of the blocks; digit 0 is the identity.
BLOCKS = {"1": (3, 3), "2": (5, 6)}
STAGES = (2, 3, 3)  # layers; the first of each has a stride of 2 and twice the channels
LAYERS = sum(STAGES)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


def nas_bench_macro(code: str, num_classes: int = 10) -> nn.Module:
    """A network of NAS-Bench-Macro, `(N, 3, H, W) -> (N, num_classes)`, with torch's initial weights.

    Args:
        code: eight digits, one for each layer: 0, the identity (with stride 2 a 1x1 convolution and batch
            normalization); 1, a MobileNetV2 block with kernel 3 and expansion 3; 2, one with kernel 5 and expansion 6.
        num_classes: of the linear layer; the published counts are for ten.

    Raises:
        ConfigError: the text is no such code, or the number of classes is not positive.
    """
    if not is_code(code):
        raise ConfigError(
            f"{code!r:.120} is no code of NAS-Bench-Macro; texts of {LAYERS} digits 0, 1 or 2, such as '01220211', are "
            "accepted"
        )
    return NetworkMacro(code.strip(), check_classes(num_classes))


def is_code(code: object) -> bool:
    if not isinstance(code, str):
        return False
    digits = code.strip()
    return len(digits) == LAYERS and set(digits) <= {"0", *BLOCKS}


class NetworkMacro(nn.Module):
    """See `nas_bench_macro`."""

    input_shape = IMAGE_SHAPE

    def __init__(self, code: str, num_classes: int) -> None:
        super().__init__()
        channels = STEM_CHANNELS
        self.stem = conv(3, channels, 3)
        layers: list[nn.Module] = []
        digits = iter(code)
        for count in STAGES:
            for position in range(count):
                out_channels, stride = (2 * channels, 2) if position == 0 else (channels, 1)
                layers.append(layer(next(digits), channels, out_channels, stride))
                channels = out_channels
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(conv(channels, HEAD_CHANNELS, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(HEAD_CHANNELS, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.head(self.layers(self.stem(images))))
        return logits


def layer(digit: str, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if digit in BLOCKS:
        return Block(in_channels, out_channels, stride, *BLOCKS[digit])
    if stride == 1:
        return nn.Identity()
    return conv(in_channels, out_channels, 1, stride, active=False)


class Block(nn.Module):
    """A block of MobileNetV2: widen by `expansion`, filter each channel, narrow; added to its input where it can be."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, kernel: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.added = stride == 1 and in_channels == out_channels
        self.residual = nn.Sequential(
            conv(in_channels, hidden, 1),
            conv(hidden, hidden, kernel, stride, groups=hidden),
            conv(hidden, out_channels, 1, active=False),
        )

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.residual(images)
        return output + images if self.added else output


def conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, groups: int = 1, active: bool = True
) -> nn.Sequential:
    """A convolution and batch normalization, and ReLU where it is `active`."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if active else nn.Sequential(*layers)
