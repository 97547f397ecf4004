"""Candidates per second, as a search asks for them: the DeepNets networks of tests/golden, in batches of 32."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.golden_data import golden, golden_ghn
from sizes import size

import ghnfast
from ghnfast.deepnets import Network

BATCH = 32


def networks() -> list[Network]:
    return [
        Network(genotype=entry["genotype"], num_classes=10, is_imagenet_input=False, **entry["args"])
        for _, entry in sorted(golden("deepnets").items())[: size(None, 2)]
    ]


@pytest.mark.parametrize("given", ["graphs", "modules"])
def test_candidates(benchmark: Any, given: str) -> None:
    ghn, models = golden_ghn("ghn2-cifar10"), networks()
    graphs = [ghnfast.trace(model) for model in models]

    def run() -> None:
        for first in range(0, len(models), BATCH):
            batch = slice(first, first + BATCH)
            ghn.predict(models[batch], graph=graphs[batch] if given == "graphs" else None)

    benchmark.pedantic(run, rounds=size(9, 1), warmup_rounds=1)
    benchmark.extra_info.update(
        given=given,
        candidates=len(models),
        batch=BATCH,
        per_second=len(models) / benchmark.stats.stats.median,
        mean_nodes=sum(map(len, graphs)) / len(graphs),
    )
