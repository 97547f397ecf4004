"""DeepNets-1M: how fast networks are sampled and their graphs built, on one core, and statistics of a million."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sizes import size

from ghnfast.deepnets import DeepNet, DeepNets1M, generate
from ghnfast.graph import GraphBatch
from ghnfast.profiling import extra_memory

COUNT = size(3000, 10)
ROUNDS = size(5, 1)


def shapes(item: DeepNet) -> None:
    """Levels, edges and the shapes of parameters and nodes."""
    _ = item.graph


def distances(item: DeepNet) -> None:
    """The same and all shortest paths up to 50 hops, as the sweep takes them."""
    GraphBatch([item.graph]).topology()


@pytest.mark.parametrize("what", [shapes, distances], ids=lambda what: what.__name__)
def test_graphs(benchmark: Any, what: Any) -> None:
    dataset = DeepNets1M("train")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run() -> None:
        for index in range(COUNT):
            what(dataset[index])

    benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=1)
    torch.set_num_threads(threads)
    nodes = sum(map(dataset.num_nodes, range(COUNT))) / COUNT
    benchmark.extra_info.update(what=what.__name__, per_second=COUNT / benchmark.stats.stats.median, mean_nodes=nodes)


@pytest.mark.parametrize("split", ["train", "val", "test", "wide", "deep", "dense", "bnfree"])
def test_statistics(benchmark: Any, split: str) -> None:
    """The published table, of as many networks as were published."""
    (count,) = generate.splits_to_write(split, size(None, 20)).values()
    threads = torch.get_num_threads()
    found: list[Any] = []

    def run() -> None:
        found.append(generate.gather_statistics(split, count, seed=0, threads=threads))

    memory: list[int | None] = []
    benchmark.pedantic(lambda: memory.append(extra_memory(run)), rounds=1)
    benchmark.extra_info.update(split=split, threads=threads, extra_bytes=memory[0], statistics=found[0])
