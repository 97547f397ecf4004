"""What kernels keep between predictions: never for longer than it is so, nor for another device or thread."""

from __future__ import annotations

import contextlib
import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.counted_gpu import CountedGpu, Kernel
from helpers.decoding import TARGETS, make
from helpers.kernel_device import DEVICE, use_large_blocks
from torch import Tensor, nn

import ghnfast
from ghnfast.errors import PredictError
from ghnfast.kernels import driver
from ghnfast.ops.decode import DecodeSource, decode
from ghnfast.ops.uploads import Made

SIZES: dict[str, Any] = {"max_shape": (8, 8, 3, 3), "num_classes": 10, "hid": 8}
GHNS: dict[str, dict[str, Any]] = {
    "ghn2": {},
    "mlp": {"hypernet": "mlp"},
    "ghn3": {"hypernet": "graphormer", "layers": 2, "heads": 2},
}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


GRAPH = ghnfast.trace(network(), input_shape=(3, 16, 16))


@pytest.fixture(params=GHNS)
def ghn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ghnfast.GHN:
    use_large_blocks(monkeypatch)
    torch.manual_seed(0)
    return ghnfast.GHN(**SIZES, **GHNS[request.param]).eval().to(DEVICE)


def predicted(ghn: ghnfast.GHN) -> list[Tensor]:
    return [parameter.detach() for parameter in ghn.predict(network().to(DEVICE), graph=GRAPH).parameters()]


def defined(ghn: ghnfast.GHN) -> list[Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GHNFAST_BACKEND", "torch")
        return predicted(ghn)


def replace_data(ghn: ghnfast.GHN) -> None:
    for parameter in ghn.parameters():
        parameter.data = parameter.data * 0.5 + 0.01


def convert(ghn: ghnfast.GHN) -> None:
    ghn.double().float()
    with torch.no_grad():
        for parameter in ghn.parameters():
            parameter.mul_(0.9)


def fill_from_a_vector(ghn: ghnfast.GHN) -> None:
    vector = nn.utils.parameters_to_vector(ghn.parameters())
    nn.utils.vector_to_parameters(vector.detach() * 0.7, ghn.parameters())


def load(ghn: ghnfast.GHN) -> None:
    ghn.load_state_dict({name: value * 0.8 for name, value in ghn.state_dict().items()}, assign=True)


@pytest.mark.parametrize("change", [replace_data, convert, fill_from_a_vector, load])
def test_weights_in_other_memory(ghn: ghnfast.GHN, change: Callable[[ghnfast.GHN], None]) -> None:
    predicted(ghn)
    for _ in range(2):
        change(ghn)
        memory = [torch.full_like(parameter, torch.nan) for parameter in ghn.parameters()]  # where others may have been
        torch.testing.assert_close(predicted(ghn), defined(ghn), rtol=1e-5, atol=1e-6)
        assert all(each.isnan().all() for each in memory)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, which interprets the kernels
def test_a_weight_that_is_repaired_where_nobody_counts_it(ghn: ghnfast.GHN) -> None:
    """Weights are looked at again after a refusal."""
    weight = ghn.decoder.conv[2].weight
    kept = weight.detach().clone()
    weight.data.view(-1)[0] = float("inf")
    for _ in range(2):
        with pytest.raises(PredictError, match="are not finite"):
            predicted(ghn)
    weight.data.copy_(kept)
    torch.testing.assert_close(predicted(ghn), defined(ghn), rtol=1e-5, atol=1e-6)


def test_tables_of_inference_mode_serve_gradients() -> None:
    source, targets = make(TARGETS, device=DEVICE)
    with torch.inference_mode():
        decode(source, targets)
    source = DecodeSource(*(tensor.detach().requires_grad_() for tensor in source))
    gradients = torch.autograd.grad([value.sum() for value in decode(source, targets)], source)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_default_device_of_torch_does_not_matter(ghn: ghnfast.GHN) -> None:
    wanted, fresh = defined(ghn), copy.deepcopy(ghn)
    model, graph = network().to(DEVICE), ghnfast.trace(network(), input_shape=(3, 16, 16))
    torch.set_default_device("meta")
    try:
        fresh.predict(model, graph=graph)
    finally:
        torch.set_default_device(None)
    torch.testing.assert_close([each.detach() for each in model.parameters()], wanted, rtol=1e-5, atol=1e-6)


@contextlib.contextmanager
def on_another_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, set[int]]]:
    """The current device is cuda:1; by kernel, the devices that were current when it was launched."""
    current, launched = [1], dict[str, set[int]]()

    @contextlib.contextmanager
    def device(given: Any) -> Iterator[None]:
        before, current[0] = current[0], torch.device(given).index or 0
        try:
            yield
        finally:
            current[0] = before

    item = Kernel.__getitem__

    def watched(kernel: Kernel, grid: Any) -> Any:
        launched.setdefault(kernel.kernel.fn.__name__, set()).add(current[0])
        return item(kernel, grid)

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(Kernel, "__getitem__", watched)
    yield launched


@pytest.mark.skipif(DEVICE != "cpu", reason="there is a GPU")
@pytest.mark.parametrize("kind", GHNS)
def test_kernels_run_where_the_tensors_are(kind: str) -> None:
    with CountedGpu(interpret=False) as gpu, pytest.MonkeyPatch.context() as patch:
        ghn, model = gpu.put(ghnfast.GHN(**SIZES, **GHNS[kind]).eval()), gpu.put(network())
        with on_another_device(patch) as launched:
            for _ in range(2):
                ghn.predict(model, graph=GRAPH)
    assert len(launched) >= 4
    assert all(devices == {0} for devices in launched.values()), launched


def test_what_is_known_of_an_upload_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events cannot: a copy is made when it is copied."""
    streams = iter([5, 6, 7])
    stream = SimpleNamespace(record_event=threading.Lock)  # which nobody can copy, either
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(driver, "current_stream", lambda device: next(streams))
    made = Made.now(torch.device("cuda", 0))
    copies = copy.deepcopy(made), pickle.loads(pickle.dumps(made))
    assert [each.stream for each in (made, *copies)] == [5, 6, 7]
    assert {each.device for each in copies} == {made.device}
