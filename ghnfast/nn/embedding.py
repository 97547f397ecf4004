"""The initial embedding of nodes: by primitive and by shape."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def channel_vocabulary(num_classes: int) -> NDArray[np.int64]:
    """The channel counts that have an embedding of their own."""
    steps = [range(8, 64, 8), range(64, 4096, 16), range(4096, 8193, 32)]
    return np.unique([1, 3, num_classes, *(size for step in steps for size in step)])


def spatial_vocabulary(size: int) -> NDArray[np.int64]:
    """The kernel sizes that have an embedding of their own, for a decoder of `size` x `size` cells."""
    return np.unique([*range(1, max(12, size), 2), 14, 16])


def nearest_entries(vocabulary: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each size the index of the nearest entry, the lower on a tie; for sizes above the end the last."""
    sizes = np.minimum(sizes, vocabulary[-1])
    above = np.searchsorted(vocabulary, sizes)
    below = np.maximum(above - 1, 0)
    is_entry = vocabulary[above] == sizes
    return np.where(~is_entry & (sizes - vocabulary[below] <= vocabulary[above] - sizes), below, above)


class ShapeEncoder(nn.Module):
    """Embeds 4-D shapes: a quarter of the width each for output channels, input channels, height and width.

    Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), appendix B.1.

    Args:
        hid: width of the embedding; a multiple of 4.
        num_classes: the number of classes, which is in the vocabulary of channel counts.
        size: the decoder's height and width.
    """

    def __init__(self, hid: int, num_classes: int, size: int) -> None:
        super().__init__()
        channels, spatial = channel_vocabulary(num_classes), spatial_vocabulary(size)
        # The last row of each table stands for "no shape".
        self.embed_spatial = nn.Embedding(len(spatial) + 1, hid // 4)
        self.embed_channel = nn.Embedding(len(channels) + 1, hid // 4)
        # The row for each size, from 0 to the largest that has one; at the end, where -1 finds it, that for no shape.
        self.channel_rows = np.append(nearest_entries(channels, rounded_channels(channels[-1])), len(channels))
        self.spatial_rows = np.append(nearest_entries(spatial, rounded_spatial(spatial[-1])), len(spatial))

    def indices(self, shapes: NDArray[np.int64]) -> NDArray[np.int64]:
        """(nodes, 4) rows of the tables for shapes (nodes, 4): channels, channels, spatial, spatial."""
        result = np.empty_like(shapes)
        for part, rows in ((slice(0, 2), self.channel_rows), (slice(2, 4), self.spatial_rows)):
            result[:, part] = rows[np.minimum(shapes[:, part], len(rows) - 2)]
        return result

    def forward(self, shapes: NDArray[np.int64]) -> Tensor:
        """The embeddings (nodes, hid) of shapes (nodes, 4), -1 in those of nodes without a shape."""
        device = next(self.parameters()).device
        indices = torch.from_numpy(self.indices(shapes)).to(device)
        channels, spatial = self.embed_channel(indices[:, :2]), self.embed_spatial(indices[:, 2:])
        return torch.cat([channels.flatten(1), spatial.flatten(1)], 1)


def rounded_channels(largest: int) -> NDArray[np.int64]:
    """The sizes up to the largest, as they are looked up: 4 to 7 channels count as 8."""
    sizes = np.arange(largest + 1)
    return np.where((sizes >= 4) & (sizes < 8), 8, sizes)


def rounded_spatial(largest: int) -> NDArray[np.int64]:
    """The sizes up to the largest, as they are looked up: 2 counts as 3."""
    sizes = np.arange(largest + 1)
    return np.where(sizes == 2, 3, sizes)
