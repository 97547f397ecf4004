"""Random numbers during a trace: private ones, whose values decide nothing by luck.

A trace draws from no generator that anybody else may be drawing from: torch functions get a generator of the trace, and
what the thread that traces asks of `random` and `numpy.random` is answered by generators of the trace as well.

A forward may drop layers by chance. Draws are therefore extreme, and those of one place in the code (a site) are alike:
`Chance.levels` says whether they are the highest or the lowest number that the draw could give. The values are ones
that could be drawn, so that what is impossible stays impossible; `ghnfast.trace` tries both where a forward reads them,
and keeps what uses more of the parameters.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..randomness import SEED, PrivateRandom

Site = tuple[str, int, int]
# A loop that draws until a number fits must come to its end: from here on, the draws of a site are ordinary ones.
MOST_EXTREMES = 4096
HIGHEST = 1 - 2.0**-53  # of the numbers that `random.random` gives
FAR = 4.0  # standard deviations: as far from the mean as a normal draw is likely to be


class Chance:
    """The random numbers of one run of a forward.

    Attributes:
        levels: whether the draws of a site are as high as can be, rather than as low; `default` for sites that are not
            in it. None gives ordinary draws.
        read: the sites whose draws the forward's Python code has seen, in order.
        weights: what the forward computed of parametrizations, where torch is to keep that (`cached`).
        shared: what is drawn from in place of generators that are not the model's alone, by their ids.
    """

    def __init__(self, levels: Mapping[Site, bool] | None = None, default: bool | None = True) -> None:
        self.levels, self.default = dict(levels or {}), default
        self.read: dict[Site, None] = {}
        self.draws: Counter[Site] = Counter()
        self.weights: dict[tuple[int, str], Tensor | None] = {}
        self.shared: dict[int, Any] = {}
        self.made: tuple[torch.Generator, random.Random, np.random.RandomState] | None = None

    @property
    def generators(self) -> tuple[torch.Generator, random.Random, np.random.RandomState]:
        """Those of torch, `random` and numpy, made where a forward draws: few do."""
        if self.made is None:
            self.made = torch.Generator().manual_seed(SEED), random.Random(SEED), np.random.RandomState(SEED)
        return self.made

    def level(self, site: Site) -> bool | None:
        """Whether the next draw of a site is high (True), low (False) or an ordinary one (None)."""
        self.draws[site] += 1
        return self.levels.get(site, self.default) if self.draws[site] <= MOST_EXTREMES else None


def calling_site(frame: FrameType | None) -> Site:
    """The file, line and instruction that draws: the first above this frame that is neither torch's nor ours."""
    while frame is not None and frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("torch.") and not name.startswith("ghnfast.tracing") and name != "torch":
            break
        frame = frame.f_back
    return ("", 0, 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno, frame.f_lasti)


class TraceRandom(PrivateRandom):
    """Operators that draw random numbers draw them from a trace's generators, whoever's generator they are given."""

    def choose(self, given: torch.Generator | None, device: torch.device) -> torch.Generator:
        return self.generator(device)

    def dropout(self, values: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
        """Nothing is dropped by luck."""
        return values.clone(), torch.ones_like(values, dtype=torch.bool)
