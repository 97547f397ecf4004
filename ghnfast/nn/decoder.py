"""The decoders of a GHN: from node states to blocks of parameters."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _C
from ..prediction.layout import DecoderKind, Sizes
from .config import GHNConfig
from .linear import LayerWeights, layer_weights
from .registry import DECODERS, HYPERNETS, Decoder


class ConvDecoder(Decoder):
    """Decodes node states into kernels of up to `max_shape` = (out, in, S, S).

    relu(fc(h)) is viewed as (4 hid, S, S); every cell goes through two layers, 4 hid -> 8 hid -> out * in. Only the
    cells and channels that are needed are computed. Source: Parameter Prediction for Unseen Deep Architectures
    (NeurIPS 2021), section 3.3.

    Beside a `centred` hypernet (GHN-3) these are the cells in the middle, and 1x1 convolutions are linear layers.
    """

    def __init__(self, config: GHNConfig) -> None:
        super().__init__(config)
        self.centred = HYPERNETS[config.hypernet].centred
        self.max_shape, hid, num_classes = config.max_shape, config.hid, config.num_classes
        self.hid, self.channels = hid, 4 * hid
        rows, columns, height, width = config.max_shape
        self.request = Sizes(rows, columns, height, num_classes, config.weight_norm)
        self.fc = nn.Sequential(nn.Linear(hid, 4 * hid * height * width), nn.ReLU())
        layer = nn.Linear if self.centred else functools.partial(nn.Conv2d, kernel_size=1)
        self.conv = nn.Sequential(layer(4 * hid, 8 * hid), nn.ReLU(), layer(8 * hid, rows * columns))
        self.class_layer_predictor = nn.Sequential(nn.ReLU(), layer(rows, num_classes))

    @property
    def last_layers(self) -> tuple[nn.Module, ...]:
        """See `ghnfast.nn.registry.Decoder`."""
        return self.conv[2], self.class_layer_predictor[1]

    def hidden_rows(self, calls: Sequence[_C.DecoderCall], states: Sequence[Tensor]) -> Tensor:
        """See `ghnfast.nn.registry.Decoder`: (rows, 8 hid)."""
        cells = [self.cells(own, call.height, call.width) for call, own in zip(calls, states, strict=True)]
        return self.hidden(torch.cat(cells))

    def blocks(self, call: _C.DecoderCall, states: Tensor) -> Tensor:
        """See `ghnfast.nn.registry.Decoder`: the classification layer's weights, and kernels that are no products."""
        if call.decoder == DecoderKind.CLASS_WEIGHT:
            return self.classifier(states, call.columns)
        position = call.cells == 1
        rows = 1 if position else call.rows
        kernels: Tensor = self(states, rows, call.columns, (call.height, call.width))
        # (count, 1, columns, s, s) -> (count, patches, columns)
        return kernels.squeeze(1).flatten(2).transpose(1, 2) if position else kernels

    def cells(self, states: Tensor, height: int, width: int) -> Tensor:
        """relu(fc(h)) for `height` x `width` cells (see `part`): (count * height * width, 4 hid), row by row."""
        weight, bias = layer_weights(self.fc[0], self.hid)
        rows, columns = self.part(height), self.part(width)
        weight = weight.unflatten(0, (-1, *self.max_shape[2:]))[:, rows, columns]
        bias = bias.unflatten(0, (-1, *self.max_shape[2:]))[:, rows, columns]
        # Cells first, channels last, so that the result is in the order that the next layer reads.
        weight, bias = weight.permute(1, 2, 0, 3).flatten(0, 2), bias.permute(1, 2, 0).flatten()
        return F.relu(linear(states, weight, bias)).view(-1, self.channels)

    def part(self, length: int) -> slice:
        """The rows, or columns, of cells that a kernel of this length is read from."""
        start = self.max_shape[2] // 2 - length // 2 if self.centred else 0
        return slice(start, start + length)

    def hidden(self, cells: Tensor) -> Tensor:
        """What the last layer reads for cells (count, 4 hid): (count, 8 hid)."""
        first = layer_weights(self.conv[0], self.channels, convolution=not self.centred)
        return F.relu(linear(cells, first.weight, first.bias))

    @property
    def last(self) -> LayerWeights:
        """The last layer: weight (out, in, 8 hid), bias (out, in)."""
        rows, columns = self.max_shape[:2]
        weight, bias = layer_weights(self.conv[2], 2 * self.channels, convolution=not self.centred)
        return LayerWeights(weight.unflatten(0, (rows, columns)), bias.unflatten(0, (rows, columns)))

    def forward(self, states: Tensor, rows: int, columns: int, kernel: tuple[int, int]) -> Tensor:
        """The leading `rows` and `columns` of kernels: (count, rows, columns, *kernel) from states (count, hid).

        A kernel larger than S x S is interpolated bilinearly from all cells.
        """
        height, width = min(kernel[0], self.max_shape[2]), min(kernel[1], self.max_shape[3])
        weight, bias = self.last
        hidden = self.hidden(self.cells(states, height, width))
        products = linear(hidden, weight[:rows, :columns].flatten(0, 1), bias[:rows, :columns].flatten())
        blocks = products.unflatten(0, (-1, height, width)).permute(0, 3, 1, 2).unflatten(1, (rows, columns))
        if (height, width) == kernel:
            return blocks
        flat = F.interpolate(blocks.flatten(0, 1), kernel, mode="bilinear", align_corners=False)
        return flat.unflatten(0, (len(states), rows))

    def classifier(self, states: Tensor, columns: int) -> Tensor:
        """Weights of classification layers: (count, num_classes, columns), from one cell of a kernel."""
        predictor = layer_weights(self.class_layer_predictor[1], self.max_shape[0], convolution=not self.centred)
        block = F.relu(self(states, self.max_shape[0], columns, (1, 1))[..., 0, 0])
        result: Tensor = (predictor.weight.to(block.dtype) @ block) + predictor.bias[:, None]
        return result


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer in the dtype of x, which need not be that of the weights: only what is needed is converted."""
    return F.linear(x, weight.to(x.dtype), bias.to(x.dtype))


DECODERS["conv"] = ConvDecoder
