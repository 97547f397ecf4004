"""Predicting from several threads at once, and in batches."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch._dynamo
from helpers.models import torchvision_model
from torch import Tensor, nn

import ghnfast

NAMES = (
    "resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5", "efficientnet_b0",
    "regnet_y_400mf", "densenet121",
)  # fmt: skip


def values_of(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.fixture(scope="module")
def ghn() -> ghnfast.GHN:
    return ghnfast.GHN().eval()


@pytest.mark.usefixtures("backend")
def test_eight_threads_predict_what_one_does(ghn: ghnfast.GHN) -> None:
    models = [torchvision_model(name) for name in NAMES]
    alone = [values_of(ghn.predict(model)) for model in models]
    start = threading.Barrier(len(models))

    def work(model: nn.Module) -> list[Tensor]:
        start.wait()
        for _ in range(3):
            for parameter in model.parameters():
                parameter.data.fill_(9)
            ghn.predict(model)
        return values_of(model)

    with ThreadPoolExecutor(len(models)) as pool:
        together = list(pool.map(work, models))
    for name, ours, wanted in zip(NAMES, together, alone, strict=True):
        assert all(map(torch.equal, ours, wanted)), name


def test_eight_threads_predict_from_one_graph(ghn: ghnfast.GHN) -> None:
    models = [torchvision_model("resnet18") for _ in range(8)]
    graph = ghnfast.trace(models[0])
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda model: values_of(ghn.predict(model, graph=graph)), models))
    for values in results:
        assert all(map(torch.equal, values, results[0]))


class Waiting(nn.Module):
    """A linear layer whose forward waits, and says in which stance torch's compiler is then."""

    def __init__(self, began: threading.Event, wait_for: threading.Event) -> None:
        super().__init__()
        self.layer, self.began, self.wait_for = nn.Linear(3, 2), began, wait_for

    def forward(self, x: Tensor) -> Tensor:
        self.began.set()
        assert self.wait_for.wait(60)
        assert torch._dynamo.eval_frame._stance.stance == "force_eager"
        result: Tensor = self.layer(x)
        return result


def test_the_compiler_is_put_back_by_the_last_of_several_traces() -> None:
    """Its stance is one for all threads: the second trace, which begins in the first, would put that one's back."""
    before = torch._dynamo.eval_frame._stance
    first_began, second_began, first_ended = (threading.Event() for _ in range(3))
    first, second = Waiting(first_began, second_began), Waiting(second_began, first_ended)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(ghnfast.trace, first, input_shape=(3,))
        assert first_began.wait(60)
        other = pool.submit(ghnfast.trace, second, input_shape=(3,))
        one.result(60)
        first_ended.set()
        other.result(60)
    assert torch._dynamo.eval_frame._stance == before


@pytest.mark.usefixtures("backend")
def test_a_batch_predicts_what_single_models_do(ghn: ghnfast.GHN) -> None:
    models = [torchvision_model(name) for name in NAMES]
    alone = [values_of(ghn.predict(model)) for model in models]
    graphs = [ghnfast.trace(model) for model in models]
    for model in models:
        for parameter in model.parameters():
            parameter.data.fill_(9)
    assert ghn.predict(models, graph=graphs) is models
    for model, wanted in zip(models, alone, strict=True):
        torch.testing.assert_close(values_of(model), wanted, rtol=1e-5, atol=1e-6)


def test_the_number_of_threads_does_not_matter(ghn: ghnfast.GHN) -> None:
    model, before = torchvision_model("resnet18"), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(values_of(ghn.predict(model)))
    finally:
        torch.set_num_threads(before)
    for values in results[1:]:
        torch.testing.assert_close(values, results[0], rtol=1e-5, atol=1e-6)
