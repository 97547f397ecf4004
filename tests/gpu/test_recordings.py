"""On a GPU: predictions from recordings of launches are those of the CPU, whatever else the process does."""

from __future__ import annotations

import copy
import threading
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import ghnfast
from ghnfast.nn import recordings

GHNS: dict[str, dict[str, Any]] = {
    "ghn2": {},
    "mlp": {"hypernet": "mlp"},
    "ghn3": {"hypernet": "graphormer", "hid": 64, "layers": 3, "heads": 8, "max_shape": (64, 64, 16, 16)},
    "wide ghn3": {"hypernet": "graphormer", "hid": 256, "layers": 2, "heads": 16, "max_shape": (64, 64, 16, 16)},
}
TIMES = recordings.AFTER + 3


def network(width: int = 70) -> nn.Module:
    convolutions = nn.Conv2d(3, width, 7), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 130, 1)
    return nn.Sequential(*convolutions, nn.Conv2d(130, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1000))


def ghn_of(kind: str) -> ghnfast.GHN:
    torch.manual_seed(0)
    return ghnfast.GHN(**GHNS[kind]).eval()


def expected_of(ghn: ghnfast.GHN, graph: ghnfast.ArchGraph, width: int = 70) -> list[torch.Tensor]:
    return [parameter.detach().cuda() for parameter in ghn.predict(network(width), graph=graph).parameters()]


def assert_right(model: nn.Module, wanted: list[torch.Tensor]) -> None:
    for (name, found), value in zip(model.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(found.detach(), value, rtol=1e-4, atol=1e-6, msg=partial("{}: {}".format, name))


def recorded_by(ghn: ghnfast.GHN) -> int:
    known = ghn.device_form.known
    return 0 if known is None else len(known[1].recordings.kept)


@pytest.mark.parametrize("kind", GHNS)
def test_again_and_again(kind: str) -> None:
    on_cpu = ghn_of(kind)
    ghn, graph = copy.deepcopy(on_cpu).cuda(), ghnfast.trace(network())
    wanted = expected_of(on_cpu, graph)
    models = [network().cuda() for _ in range(2)]
    for turn in range(2 * TIMES):
        model = models[turn % 2]
        for parameter in model.parameters():
            parameter.data.fill_(float("nan"))
        ghn.predict(model, graph=graph)
        assert_right(model, wanted)
    assert recorded_by(ghn) == 1
    with torch.no_grad():
        for own in (on_cpu, ghn):
            for weight in own.parameters():
                weight.mul_(0.9)
    wanted = expected_of(on_cpu, graph)
    for _ in range(TIMES):
        ghn.predict(models[0], graph=graph)
        assert_right(models[0], wanted)


@pytest.mark.parametrize("kind", GHNS)
def test_graphs_and_lists_in_turns(kind: str) -> None:
    on_cpu = ghn_of(kind)
    ghn, widths = copy.deepcopy(on_cpu).cuda(), (20, 33, 70)
    graphs = [ghnfast.trace(network(width)) for width in widths]
    wanted = [expected_of(on_cpu, *each) for each in zip(graphs, widths, strict=True)]
    models = [network(width).cuda() for width in widths]
    for _ in range(TIMES):
        for each in zip(models, graphs, wanted, strict=True):
            ghn.predict(each[0], graph=each[1])
            assert_right(each[0], each[2])
        ghn.predict(models, graph=graphs)
        for model, values in zip(models, wanted, strict=True):
            assert_right(model, values)
    assert recorded_by(ghn) == len(widths)


def test_another_stream() -> None:
    on_cpu = ghn_of("ghn2")
    ghn, graph = copy.deepcopy(on_cpu).cuda(), ghnfast.trace(network())
    wanted, model = expected_of(on_cpu, graph), network().cuda()
    torch.cuda.synchronize()
    streams = torch.cuda.current_stream(), torch.cuda.Stream()
    for _ in range(TIMES):
        for stream in streams:
            with torch.cuda.stream(stream):
                ghn.predict(model, graph=graph)
            torch.cuda.synchronize()
            assert_right(model, wanted)
    assert recorded_by(ghn) == len(streams)


def test_threads_that_have_not_used_the_gpu_before() -> None:
    """The driver knows no context in them, whether they launch kernels, record, or launch a recording at first."""
    on_cpu = ghn_of("ghn2")
    ghn, graph = copy.deepcopy(on_cpu).cuda(), ghnfast.trace(network())
    wanted, model = expected_of(on_cpu, graph), network().cuda()
    failures: list[BaseException] = []

    def predicting() -> None:
        try:
            ghn.predict(model, graph=graph)
        except BaseException as error:
            failures.append(error)

    for _ in range(TIMES):
        thread = threading.Thread(target=predicting)
        thread.start()
        thread.join()
        assert not failures, failures
        assert_right(model, wanted)
    assert recorded_by(ghn) == 1


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions beside others of the same graph, and beside what allocates, draws and waits meanwhile."""
    monkeypatch.setattr(recordings, "KEPT", 1)
    monkeypatch.setattr(recordings, "PATIENCE", 1)  # recorded again and again
    on_cpu = ghn_of("ghn2")
    ghn, widths = copy.deepcopy(on_cpu).cuda(), (20, 33)
    graphs = [ghnfast.trace(network(width)) for width in widths]
    wanted = [expected_of(on_cpu, *each) for each in zip(graphs, widths, strict=True)]
    failures: list[BaseException] = []
    ended = threading.Event()

    def predicting() -> None:
        try:
            models = [network(width).cuda() for width in widths]
            for turn in range(40):
                number = turn // 8 % 2
                ghn.predict(models[number], graph=graphs[number])
                torch.cuda.synchronize()
                assert_right(models[number], wanted[number])
        except BaseException as error:
            failures.append(error)

    def drawing() -> None:
        try:
            turn = 0
            while not ended.is_set():
                turn += 1
                drawn = torch.randn(1000 + turn, device="cuda").sum()
                if turn % 50 == 0:
                    torch.cuda.empty_cache()
                float(drawn)
        except BaseException as error:
            failures.append(error)

    others = [threading.Thread(target=drawing) for _ in range(2)]
    threads = [threading.Thread(target=predicting) for _ in range(4)]
    for thread in (*others, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    for thread in others:
        thread.join()
    assert not failures, failures
