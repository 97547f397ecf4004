"""What the families share: draws of settings, and torchvision's modules."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from ..optional import import_optional

T = TypeVar("T")
Settings = dict[str, Any]


class Draw:
    """Draws of one member. `random.random` is the one function of that module whose sequence is promised to stay."""

    def __init__(self, key: str) -> None:
        self.generator = random.Random(key)

    def choice(self, options: Sequence[T]) -> T:
        return options[int(self.generator.random() * len(options))]

    def whole(self, first: int, last: int) -> int:
        """first to last, both included."""
        return first + int(self.generator.random() * (last - first + 1))

    def chance(self, share: float) -> bool:
        return self.generator.random() < share

    def depths(self, stages: int, most: int) -> list[int]:
        return [self.whole(1, most) for _ in range(stages)]


def rounded(width: float, step: int = 8) -> int:
    """The nearest multiple of `step`, at least one."""
    return max(step, int(width / step + 0.5) * step)


def models(part: str) -> Any:
    """A module of torchvision's models."""
    from .. import vision  # noqa: F401  (it makes torchvision importable beside a CPU torch)

    return import_optional(f"torchvision.models.{part}", "these networks need")
