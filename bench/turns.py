"""What is compared takes turns in one process, so that both meet the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

from sizes import size

from ghnfast.profiling import Stage


def versus(benchmark: Any, main: Stage, others: Mapping[str, Stage], rounds: int) -> dict[str, float]:
    """Time `main` in turns with others, whose median seconds are kept beside it, and returned with its own."""
    seconds: dict[str, list[float]] = {name: [] for name in others}

    def others_first() -> None:
        for name, function in others.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)

    benchmark.pedantic(main, setup=others_first, rounds=size(rounds, 1), warmup_rounds=1)
    # The first round is the warm-up's.
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    medians["main"] = benchmark.stats.stats.median
    benchmark.extra_info["median_ms"] = {name: round(value * 1e3, 4) for name, value in medians.items()}
    return medians
