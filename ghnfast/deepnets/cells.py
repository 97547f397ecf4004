"""The cells of networks, and the auxiliary classifier at one of them.

Source: DARTS (Liu et al., ICLR 2019, Section 2.1 and Appendix A). Parameter names and shapes, and what the modules
compute, are those of the published networks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .genotype import Edge
from .operations import (
    FactorizedReduce,
    Subsample,
    build_operation,
    convolution,
    drop_path,
    normalization,
    plain,
)


class Cell(nn.Module):
    """A cell of a genotype (DARTS, Section 2.1): two input states, two edges for each step, a concatenation.

    `none` operations are not computed: a state is None if both its edges are, and the concatenation replaces it by
    zeros.

    Args:
        edges: `(operation, state)` pairs, two for each step.
        concat: the states that make the output, of `out_channels = len(concat) * channels` channels.
        in_channels: channels of the two inputs, older and newer.
        channels: channels of every state.
        stride: of the operations that read an input: 2 in a reduction cell.
        halve_older: the older input has twice the newer one's side.
        norm: see `Network`.
        preproc: see `Network`.
    """

    def __init__(
        self,
        edges: tuple[Edge, ...],
        concat: tuple[int, ...],
        in_channels: tuple[int, int],
        channels: int,
        *,
        stride: int,
        halve_older: bool,
        norm: str | None,
        preproc: bool,
    ) -> None:
        super().__init__()
        self.edges = edges
        self.concat = concat
        self.out_channels = len(concat) * channels
        older, newer = in_channels
        self.preprocess0: nn.Module
        if preproc:
            self.preprocess0 = (FactorizedReduce if halve_older else pointwise)(older, channels, norm)
            self.preprocess1: nn.Module = pointwise(newer, channels, norm)
        else:
            self.preprocess0 = Subsample() if halve_older else nn.Identity()
            self.preprocess1 = nn.Identity()
        self._ops = nn.ModuleDict(
            {
                str(position): build_operation(name, channels, stride if state < 2 else 1, norm)
                for position, (name, state) in enumerate(edges)
                if name != "none"
            }
        )

    def forward(self, older: Tensor | None, newer: Tensor | None, drop_path_prob: float = 0.0) -> Tensor | None:
        """The output, (N, out_channels, H / stride, W / stride), from the inputs, (N, in_channels, H, W) or None.

        None where every concatenated state is.
        """
        states = [
            None if older is None else self.preprocess0(older),
            None if newer is None else self.preprocess1(newer),
        ]
        for position in range(0, len(self.edges), 2):
            first = self._apply_edge(position, states, drop_path_prob)
            second = self._apply_edge(position + 1, states, drop_path_prob)
            states.append(first + second if first is not None and second is not None else either(first, second))
        return concatenate([states[state] for state in self.concat])

    def _apply_edge(self, position: int, states: list[Tensor | None], drop_path_prob: float) -> Tensor | None:
        name, source = self.edges[position]
        state = states[source]
        if name == "none" or state is None:
            return None
        operation = self._ops[str(position)]
        output: Tensor = operation(state)
        if self.training and drop_path_prob != 0 and not isinstance(operation, nn.Identity):
            return drop_path(output, drop_path_prob)
        return output


class AuxiliaryHead(nn.Sequential):
    """The auxiliary classifier of DARTS, `(N, channels, side, side) -> (N, num_classes)`.

    It pools the image to 2 x 2, and then is two convolutions and a linear layer; on ImageNet the second convolution is
    not normalized, which started as an oversight in DARTS and was kept for comparisons.

    Raises:
        ConfigError: a side other than 8 and 4 for 32 x 32 input, other than 7 for 224 x 224 input.
    """

    def __init__(self, channels: int, num_classes: int, side: int, is_imagenet_input: bool, norm: str | None) -> None:
        super().__init__()
        # Side of the input: kernel and stride of the average pooling.
        accepted = {7: (5, 2)} if is_imagenet_input else {8: (5, 3), 4: (2, 2)}
        if side not in accepted:
            raise ConfigError(
                f"auxiliary=True needs features of side {' or '.join(map(str, accepted))} in cell 2 * n_cells // 3, "
                f"but stem_type, stem_pool, is_vit and n_cells make it {side} for is_imagenet_input={is_imagenet_input}"
            )
        kernel, stride = accepted[side]
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(kernel, stride, count_include_pad=False),
            convolution(channels, 128, 1),
            normalization(norm, 128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.Identity() if is_imagenet_input else normalization(norm, 768),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(768, num_classes)


def pointwise(in_channels: int, out_channels: int, norm: str | None) -> nn.Module:
    return plain(in_channels, out_channels, 1, norm)


def either(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return second if first is None else first


def concatenate(states: list[Tensor | None]) -> Tensor | None:
    present = [state for state in states if state is not None]
    if not present:
        return None
    if len(present) < len(states):
        # Zero times a state and not new zeros: as published, so that a trace connects the place to that state.
        zeros = present[0] * 0
        present = [zeros if state is None else state for state in states]
    return torch.cat(present, dim=1)
