"""The networks of NAS-Bench-201.

Source: Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020,
Section 2.1. A cell has four nodes and an operation on each of the six edges between them; five cells in each of three
stages make the network.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from torch import Tensor, nn

from ..errors import ConfigError
from .checks import IMAGE_SHAPE, check_classes

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES = 4  # the input, and three that sum what edges bring them
STEM_CHANNELS = 16
STAGES = 3  # each but the first has half the side of the one before, and twice the channels
CELLS = 5  # of a stage
EXAMPLE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"

# {(from, to): operation} of all six edges.
Edges: TypeAlias = "dict[tuple[int, int], str]"


def nas_bench_201(architecture: str, num_classes: int = 10) -> nn.Module:
    """A network of NAS-Bench-201, `(N, 3, H, W) -> (N, num_classes)`, with torch's initial weights.

    What no path connects with the output is there all the same, as in the published counts of parameters; a node that
    nothing reaches is zero. A graph has no node of what multiplies by zero, or adds a value to itself: all cells of
    `none` and `skip_connect` alone have the same one, and the same embedding.

    Args:
        architecture: its cell, as the benchmark writes it: `|nor_conv_3x3~0|+|none~0|skip_connect~1|+|...|`, the edges
            to the nodes 1, 2 and 3, each an operation (none, skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3)
            and the node that it reads.
        num_classes: of the linear layer; the published counts are for ten.

    Raises:
        ConfigError: the text is no such cell, or the number of classes is not positive.
    """
    return Network201(parse_cell(architecture), check_classes(num_classes))


def parse_cell(architecture: str) -> Edges:
    """The six edges of a cell.

    Raises:
        ConfigError: the text is no cell.
    """
    if not isinstance(architecture, str):
        raise wrong(architecture, f"it is a {type(architecture).__name__}")
    nodes = architecture.strip().split("+")
    if len(nodes) != NODES - 1:
        raise wrong(architecture, f"it has {len(nodes)} parts between '+'; {NODES - 1} are accepted")
    edges: Edges = {}
    for target, text in enumerate(nodes, 1):
        parts = [part.strip() for part in text.split("|")]
        if len(parts) != target + 2 or parts[0] or parts[-1]:
            raise wrong(architecture, f"node {target} is {text!r:.80}; {target} edges between '|' are accepted")
        for source, part in enumerate(parts[1:-1]):
            operation, _, number = map(str.strip, part.partition("~"))
            if operation not in OPERATIONS:
                raise wrong(architecture, f"{operation!r:.40} is no operation; {', '.join(OPERATIONS)} are accepted")
            if number != str(source):
                raise wrong(architecture, f"edge {source} of node {target} is {part!r:.40}; it reads node {source}")
            edges[source, target] = operation
    return edges


def wrong(architecture: object, why: str) -> ConfigError:
    return ConfigError(f"{architecture!r:.120} is no cell of NAS-Bench-201: {why}. An example: {EXAMPLE}")


def looks_like_a_cell(text: object) -> bool:
    return isinstance(text, str) and bool(re.match(r"\s*\|", text))


class Network201(nn.Module):
    """See `nas_bench_201`."""

    input_shape = IMAGE_SHAPE

    def __init__(self, edges: Edges, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, STEM_CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(STEM_CHANNELS))
        layers: list[nn.Module] = []
        channels = STEM_CHANNELS
        for stage in range(STAGES):
            if stage > 0:
                layers.append(Reduction(channels, 2 * channels))
                channels *= 2
            layers += [Cell(edges, channels) for _ in range(CELLS)]
        self.cells = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.head(self.cells(self.stem(images))))
        return logits


class Cell(nn.Module):
    """A cell, `(N, channels, H, W)` to the same: every node is the sum of what its edges bring."""

    def __init__(self, edges: Edges, channels: int) -> None:
        super().__init__()
        self.sources = {target: [s for s in range(target) if edges[s, target] != "none"] for target in range(1, NODES)}
        reached = {0}
        for target, sources in self.sources.items():
            if not reached.isdisjoint(sources):
                reached.add(target)
        self.connected = NODES - 1 in reached
        self.operations = nn.ModuleDict(
            {f"{source}to{target}": operation(name, channels) for (source, target), name in edges.items()}
        )

    def forward(self, images: Tensor) -> Tensor:
        # A node that nothing reaches has new zeros, which depend on nothing: an operation on them has no part in the
        # graph. Where that would leave the network without one, they are the input times zero.
        zeros = images.new_zeros(images.shape) if self.connected else images * 0
        states = [images]
        for target, sources in self.sources.items():
            found = [self.operations[f"{source}to{target}"](states[source]) for source in sources]
            states.append(sum(found[1:], found[0]) if found else zeros)
        return states[-1]


def operation(name: str, channels: int) -> nn.Module:
    if name.startswith("nor_conv"):
        return conv(channels, channels, kernel=int(name[-1]))
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return nn.Identity()  # "none" is there without being called


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """ReLU, a convolution, batch normalization."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class Reduction(nn.Module):
    """The residual block between stages, `(N, C_in, H, W) -> (N, C_out, H / 2, W / 2)`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(conv(in_channels, out_channels, 3, 2), conv(out_channels, out_channels, 3))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.shortcut(images) + self.residual(images)
        return output
