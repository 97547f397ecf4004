"""How a network is fine-tuned.

Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), section 5.4 and appendix D.4.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..deepnets.dataset import is_whole
from ..errors import TrainingError
from ..plain import make_plain
from .accuracy import STATISTICS
from .config import MOST_SEED

RATES = (0.01, 0.025, 0.05, 0.1)
RUNNING = "running"
MOST_LISTED = 100_000  # rates, seeds, or steps


@dataclass(frozen=True)
class Recipe:
    """How a network is fine-tuned; the defaults are the published ones.

    Attributes:
        shots: images of each class, the first ones; None for all that are not held out.
        rates: of SGD (momentum 0.9, gradients clipped to norm 5), from which one is chosen; each falls to zero with a
            cosine.
        seeds: of the network's random numbers, of the order of images and their augmentation, and of noise.
        search_seeds: with how many of the seeds all rates are tried; the others have the best one alone.
        epochs: passes over the images; the last ones of an epoch, too few for a batch, are left out.
        steps: how long instead; 0 for `epochs`.
        batch_size, weight_decay: of training.
        held_out: so many training images, the last of the classes, are never trained on: the best rate is the one with
            the most right on them, on average over seeds.
        test_images: measure on so many test images, always the same ones; None for all.
        evaluate_at: steps after which accuracy on the test images is measured, too: a curve.
        batch_statistics: of batch normalization when accuracy is measured: "running", those that training has left, as
            published; "recalibrated" or "batch", which are better early in training, see `ghnfast.training.evaluate`.
        postprocess: whether parameters are postprocessed before the first step, with
        orth, beta: see `ghnfast.postprocess`.

    Raises:
        TrainingError: one is out of range.
    """

    shots: int | None = 100
    rates: Sequence[float] = RATES
    seeds: Sequence[int] = (0, 1, 2)
    search_seeds: int = 1
    epochs: int = 50
    steps: int = 0
    batch_size: int = 96
    weight_decay: float = 1e-3
    held_out: int = 200
    test_images: int | None = None
    evaluate_at: Sequence[int] = ()
    batch_statistics: str = RUNNING
    postprocess: bool = False
    orth: bool = True
    beta: float = 3e-5

    def __post_init__(self) -> None:
        make_plain(self)
        for name in ("rates", "seeds", "evaluate_at"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise TrainingError(f"{name} is {value!r:.80}; a list of numbers is accepted")
            found = tuple(itertools.islice(value, MOST_LISTED + 1))
            if len(found) > MOST_LISTED:
                raise TrainingError(f"{name} has more than {MOST_LISTED:,} numbers; as many are accepted")
            object.__setattr__(self, name, found)
        for name in ("shots", "epochs", "batch_size", "held_out", "test_images", "search_seeds"):
            value = getattr(self, name)
            if not is_count(value) and not (value is None and name in ("shots", "test_images")):
                raise TrainingError(f"{name} is {value!r:.80}; 1 or more is accepted")
        if not all(map(is_count, (*self.evaluate_at, self.steps or 1))):
            raise TrainingError(f"steps is {self.steps}, evaluate_at {self.evaluate_at}; positive numbers are accepted")
        if not self.rates or not all(map(is_positive, self.rates)):
            raise TrainingError(f"rates is {self.rates}; one or more positive numbers are accepted")
        if self.weight_decay != 0 and not is_positive(self.weight_decay):
            raise TrainingError(f"weight_decay is {self.weight_decay}; 0 or more is accepted")
        if not self.seeds or not all(is_whole(seed) and 0 <= seed <= MOST_SEED for seed in self.seeds):
            raise TrainingError(f"seeds is {self.seeds}; one or more of 0 to 2^64 - 1 are accepted")
        if len({*self.seeds}) < len(self.seeds) or len({*self.rates}) < len(self.rates):
            raise TrainingError(f"seeds is {self.seeds}, rates {self.rates}; different ones are accepted")
        if self.batch_statistics not in (RUNNING, *STATISTICS):
            names = " and ".join(map(repr, (RUNNING, *STATISTICS)))
            raise TrainingError(f"batch_statistics is {self.batch_statistics!r}; {names} are accepted")

    @property
    def runs(self) -> int:
        """How many trainings it is, at most."""
        searched = min(self.search_seeds, len(self.seeds))
        return searched * len(self.rates) + len(self.seeds) - searched

    @property
    def settings(self) -> dict[str, Any]:
        """What makes other results of a training; seeds and rates only say which trainings there are."""
        others = {"rates", "seeds", "search_seeds", *(() if self.postprocess else ("orth", "beta"))}
        return {key: value for key, value in asdict(self).items() if key not in others}


def is_count(value: Any) -> bool:
    return is_whole(value) and value >= 1


def is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
