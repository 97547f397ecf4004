"""Whole predictions through the Triton kernels, against the reference's numbers."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from helpers.golden_data import assert_same_prediction, golden, golden_ghn
from helpers.golden_models import (
    DEEPNETS,
    GHN3_PREDICTIONS,
    TORCHVISION_PREDICTIONS,
    deepnets_model,
    ghn3_model,
    sized_model,
)
from helpers.kernel_device import DEVICE, use_large_blocks
from torch import nn

import ghnfast
from ghnfast.errors import PredictError

# Interpreted kernels take seconds for a small network and minutes for a large one: without a GPU, two stand for all.
INTERPRETED = DEVICE == "cpu"
MODELS = ["squeezenet1_0/ghn2-imagenet"] if INTERPRETED else TORCHVISION_PREDICTIONS
NETWORKS = ["test/36"] if INTERPRETED else DEEPNETS
GHN3_MODELS = ["squeezenet1_0/ghn3-odd"] if INTERPRETED else GHN3_PREDICTIONS
GHN3_NETWORKS = ["test/36"] if INTERPRETED else sorted(golden("ghn3_deepnets"))


@pytest.mark.parametrize("key", MODELS)
def test_torchvision_prediction(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_large_blocks(monkeypatch)
    name, config = key.split("/")
    model, input_shape = sized_model(name, config.split("-")[1])
    ghn = copy.deepcopy(golden_ghn(config)).to(DEVICE)
    _, report = ghn.predict(model.to(DEVICE), input_shape=input_shape, report=True)
    assert_same_prediction(model.cpu(), report, golden("torchvision")["pred"][key])


@pytest.mark.parametrize("key", NETWORKS)
def test_deepnets_prediction(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_large_blocks(monkeypatch)
    model = deepnets_model(key).to(DEVICE)
    _, report = copy.deepcopy(golden_ghn("ghn2-cifar10")).to(DEVICE).predict(model, report=True)
    assert_same_prediction(model.cpu(), report, golden("deepnets")[key]["predicted"])


@pytest.mark.parametrize("key", GHN3_MODELS)
def test_torchvision_prediction_of_ghn3(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_large_blocks(monkeypatch)
    name, config = key.split("/")
    model, input_shape = ghn3_model(name, config)
    ghn = copy.deepcopy(golden_ghn(config)).to(DEVICE)
    _, report = ghn.predict(model.to(DEVICE), input_shape=input_shape, report=True)
    assert_same_prediction(model.cpu(), report, golden("ghn3_torchvision")["pred"][key])


@pytest.mark.parametrize("key", GHN3_NETWORKS)
def test_deepnets_prediction_of_ghn3(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_large_blocks(monkeypatch)
    for config, expected in golden("ghn3_deepnets")[key].items():
        if config != "graph_source":
            model = deepnets_model(key).to(DEVICE)
            _, report = copy.deepcopy(golden_ghn(config)).to(DEVICE).predict(model, report=True)
            assert_same_prediction(model.cpu(), report, expected)


def small_network() -> nn.Sequential:
    features = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 70, 1)
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(70, 10))


@pytest.fixture(scope="module")
def ghn() -> ghnfast.GHN:
    torch.manual_seed(0)
    return ghnfast.GHN(max_shape=(16, 16, 3, 3), num_classes=10, hid=8).to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_same_as_plain_pytorch(ghn: ghnfast.GHN, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [small_network().to(DEVICE, dtype) for _ in range(2)]
    ghn.predict(models[0], input_shape=(3, 32, 32))
    monkeypatch.setenv("GHNFAST_BACKEND", "torch")
    ghn.predict(models[1], input_shape=(3, 32, 32))
    for (name, ours), wanted in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        tolerance: dict[str, Any] = {} if dtype.itemsize == 2 else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(ours, wanted, msg=partial("{}: {}".format, name), **tolerance)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, which interprets the kernels
def test_a_failed_prediction_leaves_the_model_as_it_was(ghn: ghnfast.GHN) -> None:
    broken, model = copy.deepcopy(ghn), small_network().to(DEVICE)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        broken.decoder.conv[2].weight.fill_(3e38)
    with pytest.raises(PredictError, match="are not finite"):
        broken.predict(model, input_shape=(3, 32, 32))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_precision(ghn: ghnfast.GHN) -> None:
    other = copy.deepcopy(ghn)
    other.precision = "bfloat16"
    models = [small_network().to(DEVICE) for _ in range(2)]
    ghn.predict(models[0], input_shape=(3, 32, 32))
    other.predict(models[1], input_shape=(3, 32, 32))
    exact, rounded = (next(model.parameters()) for model in models)
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0, atol=1e-2 * float(exact.detach().abs().max()))
    with pytest.raises(ValueError, match="precision is 'half'; 'float32', 'tf32', 'bfloat16' are accepted"):
        other.precision = "half"
