"""Candidates per second, as a search asks for them: the DeepNets networks of tests/golden, in batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.golden_data import golden, golden_ghn
from sizes import size
from torch import nn

import ghnfast
from ghnfast.deepnets import Network
from ghnfast.graph import ArchGraph, GraphBatch
from ghnfast.ops.decode import TargetKind
from ghnfast.prediction import prepare
from ghnfast.tracing.members import members_of

BATCH = 32


def networks(most: int | None = None) -> list[nn.Module]:
    return [
        Network(genotype=entry["genotype"], num_classes=10, is_imagenet_input=False, **entry["args"])
        for _, entry in sorted(golden("deepnets").items())[: size(most, 2)]
    ]


def in_batches(ghn: ghnfast.GHN, models: list[nn.Module], graphs: list[ArchGraph] | None, batch: int) -> None:
    for first in range(0, len(models), batch):
        part = slice(first, first + batch)
        ghn.predict(models[part], graph=None if graphs is None else graphs[part])


@pytest.mark.parametrize(
    ("given", "precision"), [("graphs", "float32"), ("graphs", "bfloat16"), ("modules", "float32")]
)
def test_candidates(benchmark: Any, given: str, precision: str) -> None:
    ghn, models = golden_ghn("ghn2-cifar10"), networks()
    ghn.precision = precision
    graphs = [ghnfast.trace(model) for model in models]
    known = graphs if given == "graphs" else None
    benchmark.pedantic(lambda: in_batches(ghn, models, known, BATCH), rounds=size(9, 1), warmup_rounds=1)
    benchmark.extra_info.update(
        given=given,
        precision=precision,
        candidates=len(models),
        batch=BATCH,
        per_second=len(models) / benchmark.stats.stats.median,
        mean_nodes=sum(map(len, graphs)) / len(graphs),
    )


def multiplications(ghn: ghnfast.GHN, model: nn.Module, graph: ArchGraph) -> int:
    """Of the decoder's layers for kernels: what makes each cell's hidden values, and a product for each element."""
    job = prepare([model], [members_of(model)], GraphBatch([graph]), True, ghn.request)
    hid, width = ghn.settings.hid, width_of(ghn)
    first = 4 * hid * (hid + width)
    products = (target for target in job.layout.targets if target.kind == TargetKind.PRODUCT)
    return sum(target.cells * (first + target.rows * target.columns * width) for target in products)


def width_of(ghn: ghnfast.GHN) -> int:
    return 8 * ghn.settings.hid  # of the hidden values that the last product reads


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@pytest.mark.parametrize("batch", [1, 8, 32])
def test_share_of_products(benchmark: Any, batch: int) -> None:
    """The share of a prediction that torch would need for its decoder's products alone: what can be reached is 1."""
    ghn, models = golden_ghn("ghn2-cifar10"), networks(32)
    graphs = [ghnfast.trace(model) for model in models]
    work = sum(map(multiplications, [ghn] * len(models), models, graphs))
    # As torch is fastest: two matrices of the width that the decoder has, large enough to fill the caches.
    width = width_of(ghn)
    a, b = torch.randn(2048, width), torch.randn(width, 2048)
    rounds: list[tuple[float, float]] = []

    def take_turns() -> None:
        product = min(seconds(lambda: a @ b) for _ in range(size(20, 1))) * work / (2048 * 2048 * width)
        rounds.append((product, seconds(lambda: in_batches(ghn, models, graphs, batch))))

    benchmark.pedantic(take_turns, rounds=size(15, 1), warmup_rounds=1)
    benchmark.extra_info.update(
        batch=batch,
        candidates=len(models),
        share=statistics.median(product / whole for product, whole in rounds),
        per_second=len(models) / statistics.median(whole for _, whole in rounds),
        gigaflops=2 * work / 1e9 / len(models),
    )
