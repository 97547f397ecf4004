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
        self.channels, self.spatial = channel_vocabulary(num_classes), spatial_vocabulary(size)
        # The last row of each table stands for "no shape".
        self.embed_spatial = nn.Embedding(len(self.spatial) + 1, hid // 4)
        self.embed_channel = nn.Embedding(len(self.channels) + 1, hid // 4)

    def indices(self, shapes: NDArray[np.int64]) -> NDArray[np.int64]:
        """(nodes, 4) rows of the tables for shapes (nodes, 4): channels, channels, spatial, spatial."""
        channels, spatial = shapes[:, :2], shapes[:, 2:]
        channels = np.where((channels >= 4) & (channels < 8), 8, channels)
        spatial = np.where(spatial == 2, 3, spatial)
        result = np.hstack((nearest_entries(self.channels, channels), nearest_entries(self.spatial, spatial)))
        last = self.embed_channel.num_embeddings - 1, self.embed_spatial.num_embeddings - 1
        return np.where(shapes < 0, np.repeat(last, 2), result)

    def forward(self, shapes: NDArray[np.int64]) -> Tensor:
        """The embeddings (nodes, hid) of shapes (nodes, 4), -1 in those of nodes without a shape."""
        indices = torch.from_numpy(self.indices(shapes)).to(self.embed_channel.weight.device)
        return torch.cat(
            (self.embed_channel(indices[:, :2]).flatten(1), self.embed_spatial(indices[:, 2:]).flatten(1)), 1
        )
