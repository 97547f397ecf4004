"""Few images of each class, to fine-tune on, and others that are held out to choose a learning rate on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import TrainingError
from .data import Images, split_off


@dataclass(frozen=True, eq=False)
class Chosen(Images):
    """Some of other images.

    Attributes:
        images: the others.
        indices: (n,) int64, which of them.
    """

    images: Images
    indices: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "statistics", self.images.statistics)

    def __len__(self) -> int:
        return len(self.indices)

    def all_labels(self) -> Tensor:
        return self.images.all_labels()[self.indices]

    def batch(self, indices: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
        return self.images.batch(self.indices[torch.as_tensor(indices)].tolist(), seed)


def shots_of(labels: Tensor, shots: int | None, held_out: int) -> tuple[Tensor, Tensor]:
    """Which images are trained on, and which are held out.

    Held out are the last images of the classes, in their shares of all images; trained on are the first `shots` of each
    class, as published, or all others. Both are in the order in which the images are.

    Args:
        labels: (images,) int64.
        shots: of each class; None for all.
        held_out: how many images.

    Raises:
        TrainingError: there are not so many, or none of a class would be trained on.
    """
    kept, held = split_off(labels, held_out, torch.arange(len(labels)))
    if shots is None:
        return kept, held
    chosen = []
    for label in labels.unique().tolist():
        own = kept[labels[kept] == label]
        if len(own) < shots:
            raise TrainingError(
                f"shots is {shots}, and class {label} has {len(own)} training images that are not held out; at most so "
                "many are accepted"
            )
        chosen.append(own[:shots])
    return torch.cat(chosen).sort().values, held
