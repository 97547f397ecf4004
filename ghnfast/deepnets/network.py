"""The networks of DeepNets-1M: a stem, a stack of cells, a head.

Source: Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", NeurIPS 2021, Section 3 and Appendix A;
the stack of cells and the auxiliary head are those of DARTS (Liu et al., ICLR 2019, Section 2.1 and Appendix A).
Parameter names and shapes, and what the networks compute, are those of the published ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..plain import with_plain_numbers
from .cells import AuxiliaryHead, Cell
from .checks import check_settings, check_switches
from .genotype import Genotype
from .operations import (
    PositionEncoding,
    convolution,
    normalization,
)


class Network(nn.Module):
    """A network of DeepNets-1M. The arguments are the fields of the published data set.

    Cells `n_cells // 3` and `2 * n_cells // 3` are reduction cells (never cell 0): they halve the image and
    multiply the channels. With self-attention in its cells a network is a vision transformer: patches and a position
    encoding in place of the stem, and no cell halves the image.

    Args:
        genotype: the cells, a `Genotype` or a mapping with its four fields.
        num_classes: number of classes.
        C: channels of the first cell's states.
        n_cells: number of cells.
        is_imagenet_input: images of 224 x 224, else of 32 x 32: it chooses the strides of the stem.
        ks: kernel size of the stem's first convolution, odd; no matter to a vision transformer.
        stem_pool: the simple stem ends in a max-pooling of stride 2.
        imagenet_stride: of the simple stem's convolution, 2 or 4, where `is_imagenet_input`; no matter to other stems.
        stem_type: 0 for one convolution, 1 for the three convolutions that DARTS uses on ImageNet.
        norm: None, "" or "none" for no normalization; "bn..." for batch normalization, which keeps running statistics
            only if the name contains "track".
        preproc: each cell maps its two inputs to its number of channels by a 1 x 1 convolution. Without it, inputs and
            outputs of all cells must have the same channels: one concatenated state, `C_mult` 1.
        C_mult: factor on the channels at each reduction cell.
        fc_layers: fully connected layers of the head; 0 is the same as 1.
        fc_dim: width of the hidden ones among them.
        glob_avg: average the last state over the image before the head; else flatten it, as VGG does.
        is_vit: force or forbid the vision transformer's layout; None decides by `msa` in the genotype.
        auxiliary: add the auxiliary head of DARTS after the second reduction cell. It needs images of side 8 or 4 there
            for 32 x 32 input (a vision transformer's are averaged to 8), 7 for 224 x 224 input.

    Attributes:
        genotype: the `Genotype`.
        input_shape: (3, 224, 224) or (3, 32, 32).
        drop_path_prob: probability of dropping an operation's output for an image in training mode, in [0, 1); 0 at
            first. Skip connections are never dropped.

    Raises:
        ConfigError: settings that are out of range or cannot work together.
    """

    @with_plain_numbers
    def __init__(
        self,
        *,
        genotype: Genotype | Mapping[str, Any],
        num_classes: int,
        C: int,
        n_cells: int,
        is_imagenet_input: bool = True,
        ks: int = 3,
        stem_pool: bool = False,
        stem_type: int = 0,
        norm: str | None = "bn-track",
        preproc: bool = True,
        C_mult: int = 2,
        fc_layers: int = 0,
        fc_dim: int = 0,
        glob_avg: bool = True,
        is_vit: bool | None = None,
        imagenet_stride: int = 4,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        genotype = Genotype.of(genotype)
        sizes = num_classes, C, n_cells, ks, stem_type, preproc, C_mult, fc_layers, fc_dim
        check_settings(genotype, *sizes, imagenet_stride)
        switches = {"is_imagenet_input": is_imagenet_input, "stem_pool": stem_pool, "glob_avg": glob_avg}
        check_switches(**switches, preproc=preproc, is_vit=is_vit, auxiliary=auxiliary)

        self.genotype = genotype
        self.input_shape = (3, 224, 224) if is_imagenet_input else (3, 32, 32)
        self.drop_path_prob = 0.0
        self.is_vit = genotype.uses("msa") if is_vit is None else is_vit
        self.stem_type = stem_type
        self.is_imagenet_input = is_imagenet_input
        self.stem_stride = imagenet_stride if is_imagenet_input else 1
        reductions = {n_cells // 3, 2 * n_cells // 3} - {0}
        self.auxiliary_cell = 2 * n_cells // 3 if auxiliary else None

        stem_channels = self._add_stem(C, ks, stem_pool, norm, triple=preproc and not is_imagenet_input)
        channels = self._add_cells(C, C_mult, n_cells, reductions, stem_channels, norm, preproc)
        last = channels[-1]
        side = self._feature_side(stem_pool, len(reductions))
        if self.auxiliary_cell is not None:
            self.auxiliary_head = AuxiliaryHead(
                channels[self.auxiliary_cell],
                num_classes,
                self._auxiliary_side(side),
                is_imagenet_input,
                norm,
            )
        self.global_pooling = nn.AdaptiveAvgPool2d(1) if glob_avg else nn.Identity()
        self.classifier = make_classifier(last if glob_avg else last * side**2, num_classes, fc_layers, fc_dim)

    def _add_stem(self, channels: int, kernel: int, pool: bool, norm: str | None, *, triple: bool) -> int:
        """Adds the stem; returns the channels of the states that it hands to the first cell."""
        large = self.is_imagenet_input
        if self.is_vit:
            patch = 16 if large else 3
            self.stem0: nn.Module = nn.Conv2d(3, channels, patch, patch, padding=0 if large else 1, bias=False)
            self.pos_enc = PositionEncoding(channels, 14 if large else 11)
            return channels
        if self.stem_type == 1:
            self.stem0, self.stem1 = imagenet_stem(channels, kernel, 2 if large else 1, norm)
            return channels
        channels = 3 * channels if triple else channels
        self.stem = nn.Sequential(
            convolution(3, channels, kernel, self.stem_stride),
            normalization(norm, channels),
            nn.MaxPool2d(3, 2, padding=1) if pool else nn.Identity(),
        )
        return channels

    def _add_cells(
        self,
        channels: int,
        factor: int,
        n_cells: int,
        reductions: set[int],
        stem_channels: int,
        norm: str | None,
        preproc: bool,
    ) -> list[int]:
        """Adds the cells; returns the channels of their outputs."""
        self.cells = nn.ModuleList()
        outputs: list[int] = []
        older, newer = stem_channels, stem_channels
        # The second output of the ImageNet stem has half the side of the first, like the output of a reduction cell.
        halved = self.stem_type == 1
        for position in range(n_cells):
            reduces = position in reductions
            channels *= factor if reduces else 1
            cell = Cell(
                self.genotype.reduce if reduces else self.genotype.normal,
                self.genotype.reduce_concat if reduces else self.genotype.normal_concat,
                (older, newer),
                channels,
                stride=2 if reduces and not self.is_vit else 1,
                halve_older=halved and not self.is_vit,
                norm=norm,
                preproc=preproc,
            )
            self.cells.append(cell)
            halved = reduces
            older, newer = newer, cell.out_channels
            outputs.append(cell.out_channels)
        return outputs

    def _feature_side(self, stem_pool: bool, reductions: int) -> int:
        """The side of the last cell's output, which is that of the auxiliary cell's as well."""
        if self.is_vit:
            return 14 if self.is_imagenet_input else 11
        side = self.input_shape[1] // self.stem_stride
        if self.stem_type == 1:
            side = 56 if self.is_imagenet_input else 32
        if self.stem_type == 1 or stem_pool:
            side //= 2
        return side >> reductions

    def _auxiliary_side(self, feature_side: int) -> int:
        return 8 if self.is_vit and not self.is_imagenet_input else feature_side

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The logits of images.

        Args:
            images: (N, 3, H, W), `input_shape` each; without a vision transformer's position encoding or a flattening
                head other sizes work where every reduction meets an even side.

        Returns:
            The logits, (N, num_classes), and those of the auxiliary head: None without one, in evaluation mode, and
            where a `none` operation leaves it without input.

        Raises:
            ConfigError: `none` operations cut every path, so there is no output; or `drop_path_prob` is invalid.
        """
        older, newer = self._stem_states(images)
        auxiliary_logits = None
        for position, cell in enumerate(self.cells):
            older, newer = newer, cell(older, newer, self.drop_path_prob)
            if self.training and position == self.auxiliary_cell and newer is not None:
                newer, auxiliary_logits = self._apply_auxiliary_head(newer)
        if newer is None:
            raise ConfigError(f"the network has no output, as 'none' operations cut every path of its {self.genotype}")
        return self.classifier(self.global_pooling(newer).flatten(1)), auxiliary_logits

    def _stem_states(self, images: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.is_vit:
            state = self.pos_enc(self.stem0(images))
            return state, state
        if self.stem_type == 1:
            first = self.stem0(images)
            return first, self.stem1(first)
        state = self.stem(images)
        return state, state

    def _apply_auxiliary_head(self, state: Tensor) -> tuple[Tensor, Tensor]:
        if self.is_vit and not self.is_imagenet_input:
            return state, self.auxiliary_head(nn.functional.adaptive_avg_pool2d(state, 8))
        # The published head rectifies its input in place, so the cells after it read the rectified state, too.
        state = torch.relu(state)
        return state, self.auxiliary_head(state)


def imagenet_stem(channels: int, kernel: int, stride: int, norm: str | None) -> tuple[nn.Module, nn.Module]:
    # Published, the second part starts with a ReLU in place, so the first cell reads the first part's output rectified.
    # Here that ReLU ends the first part, and an identity keeps the names of the second part's layers.
    first = nn.Sequential(
        convolution(3, channels // 2, kernel, stride),
        normalization(norm, channels // 2),
        nn.ReLU(inplace=True),
        convolution(channels // 2, channels, 3, stride),
        normalization(norm, channels),
        nn.ReLU(inplace=True),
    )
    second = nn.Sequential(nn.Identity(), convolution(channels, channels, 3, 2), normalization(norm, channels))
    return first, second


def make_classifier(in_features: int, num_classes: int, layers: int, width: int) -> nn.Sequential:
    widths = [in_features, *[width] * (layers - 1), num_classes]
    modules: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for inputs, outputs in pairwise(widths[1:]):
        modules += [nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(inputs, outputs)]
    return nn.Sequential(*modules)
