"""Weights of half precision: kept as they are, computed with in float32."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.models import torchvision_model
from helpers.small_networks import PatchNet
from torch import Tensor, nn

import ghnfast
from ghnfast import GHN

SMALL: dict[str, Any] = {"max_shape": (8, 8, 3, 3), "num_classes": 10, "hid": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "ghn2": {},
    "ghn1": {"ve": False, "layernorm": False, "weight_norm": False},
    "mlp": {"hypernet": "mlp", "max_shape": (12, 4, 3, 3)},
    "ghn3": {"hypernet": "graphormer", "heads": 2, "layers": 2},
    "ghn3, odd": {"hypernet": "graphormer", "heads": 4, "layers": 1, "hid": 20, "max_shape": (12, 4, 6, 6)},
}
# Relative errors of predicted parameters against those from the weights before they were rounded.
ERRORS = {torch.bfloat16: 2e-2, torch.float16: 2e-3}


def models() -> list[nn.Module]:
    return [torchvision_model("squeezenet1_1", num_classes=10), PatchNet(), nn.Linear(3, 10)]


def predicted(ghn: GHN) -> list[dict[str, Tensor]]:
    shapes = (None, (3, 16, 16), (3,))
    found = []
    for model, shape in zip(models(), shapes, strict=True):
        ghn.predict(model, input_shape=shape)
        found.append({name: value.detach().clone() for name, value in model.named_parameters() if name != "token"})
    return found


@pytest.fixture(params=CONFIGS)
def ghn(request: pytest.FixtureRequest) -> GHN:
    torch.manual_seed(1)
    return GHN(**{**SMALL, **CONFIGS[request.param]}).eval()


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("backend", ["", "torch"])
def test_predictions_are_those_of_the_rounded_weights(
    ghn: GHN, dtype: torch.dtype, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = predicted(ghn)
    half = copy.deepcopy(ghn).to(dtype)
    rounded = predicted(copy.deepcopy(half).float())
    monkeypatch.setenv("GHNFAST_BACKEND", backend)
    for ours, same, without in zip(predicted(half), rounded, exact, strict=True):
        for name, value in ours.items():
            torch.testing.assert_close(value, same[name], rtol=1e-4, atol=1e-5, msg=name)
            # The rows of a position encoding that are no tokens.
            wanted, found = (each[name][:, 1:] if name == "position" else each[name] for each in (without, ours))
            assert (found - wanted).norm() <= ERRORS[dtype] * wanted.norm(), name
    assert all(weight.dtype == dtype for weight in half.parameters())


@pytest.mark.parametrize("dtype", ERRORS)
def test_states_and_values_are_of_single_precision(ghn: GHN, dtype: torch.dtype) -> None:
    half = copy.deepcopy(ghn).to(dtype)
    graph = ghnfast.trace(torchvision_model("squeezenet1_1", num_classes=10))
    states = half.embed(graph)
    torch.testing.assert_close(states, copy.deepcopy(half).float().embed(graph), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert {value.dtype for value in half(graph)[0].values()} == {torch.float32}
        assert half.native() is not None


def test_where_gradients_are_recorded_the_modules_compute(ghn: GHN) -> None:
    half = copy.deepcopy(ghn).bfloat16().train()
    states = half.embed(torchvision_model("squeezenet1_1", num_classes=10))
    assert states.dtype == torch.bfloat16
    states.sum().backward()
    assert half.primitive_embedding.weight.grad is not None


def test_writes_that_torch_does_not_count_are_seen(ghn: GHN) -> None:
    half = copy.deepcopy(ghn).bfloat16()
    model = nn.Linear(3, 10)
    graph = ghnfast.trace(model, input_shape=(3,))
    half.predict(model, graph=graph)
    for weight in half.parameters():
        weight.data.mul_(1.5)
    half.predict(model, graph=graph)
    found = model.weight.detach().clone()
    torch.testing.assert_close(found, copy.deepcopy(half).float().predict(model, graph=graph).weight)


def test_a_hook_is_called(ghn: GHN) -> None:
    """Then the modules compute, with a copy of the weights in single precision."""
    half, model = (
        copy.deepcopy(ghn).bfloat16(),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)),
    )
    half.decoder_1d.register_forward_hook(lambda module, args, output: torch.full_like(output, 5.0))
    half.predict(model, input_shape=(3, 9, 9))
    norm = model[1]
    bounded = ghn.settings.weight_norm
    torch.testing.assert_close(norm.bias, torch.full((8,), 1.0).tanh() if bounded else torch.full((8,), 5.0))
    torch.testing.assert_close(norm.weight, 2 * torch.full((8,), 2.5).sigmoid() if bounded else torch.full((8,), 5.0))


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("name", ["ghn.pt", "ghn.safetensors"])
def test_a_file_is_loaded_and_saved(ghn: GHN, dtype: torch.dtype, name: str, tmp_path: Path) -> None:
    ghn.save(tmp_path / name)
    half = ghnfast.load(tmp_path / name, dtype=dtype)
    assert {weight.dtype for weight in half.parameters()} == {dtype}
    half.save(tmp_path / f"half-{name}")
    again = ghnfast.load(tmp_path / f"half-{name}")
    assert {weight.dtype for weight in again.parameters()} == {torch.float32}
    for one, other in zip(predicted(half), predicted(again), strict=True):
        for parameter, value in one.items():
            torch.testing.assert_close(value, other[parameter], rtol=1e-4, atol=1e-5)


def test_weights_that_are_not_finite_are_named(ghn: GHN) -> None:
    half = copy.deepcopy(ghn).half()
    with torch.no_grad():
        half.decoder_1d.fc[2].bias[0] = torch.inf
    with pytest.raises(ghnfast.PredictError, match=r"decoder_1d\.fc\.2\.bias"):
        half.predict(nn.Linear(3, 10), input_shape=(3,))
