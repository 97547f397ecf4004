"""Traces in several threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from helpers.models import Net
from helpers.traced import (
    LAYERS,
    SQUEEZES,
    Snapshot,
    Squeeze,
    abc,
    attention_network,
    conv,
    plain_network,
    pointwise,
    residual_network,
    restless,
    same,
    set_attributes,
    sum_in_place,
    trace,
    update_running_mean,
)
from torch import nn

# Those that do not stand behind others.
UNFIT = {"convolution", "layer norm", *(name for name in LAYERS if name.startswith(("maximum pool", "average pool")))}


def models() -> Iterator[nn.Module]:
    yield plain_network()
    yield residual_network()
    yield attention_network()
    yield restless(update_running_mean)
    yield restless(set_attributes)
    yield abc(sum_in_place)
    yield Net(lambda m, x: m.c(SQUEEZES["in place"][0](m, m.a(x))), a=conv(3, 8), c=conv(8, 5), se=Squeeze(pointwise))
    yield nn.Sequential(*(conv(3, 3, bias=True) for _ in range(40)))
    yield nn.Sequential(conv(3, 8), *(build() for name, build in LAYERS.items() if name not in UNFIT))


def test_eight_threads_give_the_graphs_of_one() -> None:
    built = list(models())
    expected = [trace(model) for model in built]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            assert all(same(graph, one) for graph, one in zip(pool.map(trace, built), expected, strict=True))


def test_threads_share_one_model() -> None:
    model = plain_network()
    before, expected = Snapshot(model), trace(model)
    with ThreadPoolExecutor(8) as pool:
        assert all(same(graph, expected) for graph in pool.map(lambda _: trace(model), range(32)))
    before.check(model)
