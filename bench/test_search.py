"""Search: 100,000 networks of the split search, sampled, embedded by the default GHN and ranked."""

from __future__ import annotations

import time
from typing import Any

import nas_tables
import torch
from sizes import size

from ghnfast.deepnets import DeepNets1M
from ghnfast.profiling import extra_memory
from ghnfast.properties import make_model, search

LABELS = size(100, 10)
NETWORKS = size(100_000, 100)


def test_search(benchmark: Any) -> None:
    name = "nas-bench-201"
    model = make_model().fit(nas_tables.architectures(name)[:LABELS], nas_tables.column(name, "accuracy")[:LABELS])
    dataset = DeepNets1M("search", size=NETWORKS)
    search(model, DeepNets1M("search", size=50))  # what is allocated once
    seconds: list[float] = []

    def run() -> None:
        start = time.process_time()
        search(model, dataset)
        seconds.append(time.process_time() - start)

    memory: list[int | None] = []
    benchmark.pedantic(lambda: memory.append(extra_memory(run)), rounds=1)
    benchmark.extra_info.update(
        networks=NETWORKS, labels=LABELS, threads=torch.get_num_threads(), cpu_seconds=seconds[0], extra_bytes=memory[0]
    )
