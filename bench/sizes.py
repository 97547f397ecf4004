"""How much the benchmarks measure: everything, or, with GHNFAST_BENCH=once, one round of the least of it.

One round tells nothing about speed. It tells that a benchmark runs and records what bench/report.py reads, which
`make test` makes sure of.
"""

from __future__ import annotations

import os
from typing import TypeVar

Size = TypeVar("Size")

ONCE = {"": False, "once": True}[os.environ.get("GHNFAST_BENCH", "")]


def size(everything: Size, least: Size) -> Size:
    """The second where one round is wanted."""
    return least if ONCE else everything
