"""The GHN that comes with the package."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.forked import Forked, script
from helpers.formulas import (
    IMAGE,
    ghn_of,
)
from helpers.predicting import assert_same, values
from helpers.small_networks import conv, small_network
from torch import nn

import ghnfast
from ghnfast import GHN, DomainWarning


def checksum(model: nn.Module) -> list[float]:
    return [float(tensor.detach().double().abs().sum()) for tensor in model.parameters()]


SMALL = (3, 32, 32)


@pytest.mark.parametrize(
    ("classes", "shape", "message"),
    [
        (10, (3, 16, 16), r"ghn2-fashion was trained on fashion, images of 3x32x32 in 10 classes, .* 3x16x16 in 10: "),
        (5, SMALL, r"images of 3x32x32 in 10 classes, and the model is for 3x32x32 in 5: "),
        (1000, None, r"the model is for 3x224x224 in 1000: .* know nothing of its images\. Pass input_shape="),
    ],
)
def test_default_warns_of_other_images_and_classes(classes: int, shape: tuple[int, ...] | None, message: str) -> None:
    model = classifying_network(classes)
    with pytest.warns(DomainWarning, match=message) as caught:
        ghnfast.predict(model, input_shape=shape)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(DomainWarning, match=message) as caught:
        ghnfast.load("ghn2-fashion").predict([model], graph=[ghnfast.trace(model, input_shape=shape)])
    assert [warning.filename for warning in caught] == [__file__]


def test_default_takes_small_images_of_ten_classes_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, report = ghnfast.predict(classifying_network(10), input_shape=SMALL, report=True)
        second = ghnfast.predict(classifying_network(10), "ghn2-fashion", input_shape=SMALL)
        ghnfast.predict(nn.Sequential(conv(3, 8)), input_shape=SMALL)  # no classes
        unknown = (torch.empty(2, 3, 16, 16),)  # it may be anything, and need not be images
        ghnfast.predict(classifying_network(10), example_inputs=unknown)
    assert report.coverage == 1
    assert_same(values(first), values(second))


def classifying_network(classes: int) -> nn.Sequential:
    return nn.Sequential(
        conv(3, 70), nn.BatchNorm2d(70), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(70, classes)
    )


def test_what_a_ghn_was_trained_on_is_saved_with_it(tmp_path: Path) -> None:
    for name in ("ghn.safetensors", "ghn.pt"):
        ghnfast.load("ghn2-mnist5k").save(tmp_path / name)
        with pytest.warns(DomainWarning, match=f"{name} was trained on mnist5k"):
            ghnfast.predict(classifying_network(7), tmp_path / name, input_shape=SMALL)


def test_given_ghn_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ghnfast.predict(small_network(), ghn_of("ghn2"), input_shape=IMAGE)


def test_default_is_the_same_in_another_process() -> None:
    code = (
        "import torch, ghnfast\n"
        "torch.manual_seed(99); torch.rand(5)\n"
        "model = torch.nn.Sequential(torch.nn.Conv2d(3, 70, 3, padding=1), torch.nn.BatchNorm2d(70), torch.nn.ReLU(),\n"
        "    torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(70, 10))\n"
        "ghnfast.predict(model, input_shape=(3, 32, 32))\n"
        "print([float(t.detach().double().abs().sum()) for t in model.parameters()])\n"
    )
    process = Forked(script, code)
    assert process.wait() == 0, process.stderr()
    model = nn.Sequential(
        nn.Conv2d(3, 70, 3, padding=1), nn.BatchNorm2d(70), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(70, 10),
    )  # fmt: skip
    ghnfast.predict(model, input_shape=SMALL)
    np.testing.assert_allclose(checksum(model), eval(process.stdout()), rtol=1e-6)


@pytest.fixture
def restored_defaults() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)
    torch.set_default_device(None)


@pytest.mark.usefixtures("restored_defaults")
@pytest.mark.parametrize(
    "change", [lambda: torch.set_default_dtype(torch.float64), lambda: torch.set_default_device("meta")]
)
def test_default_does_not_depend_on_torch_defaults(change: Callable[[], None]) -> None:
    expected = values(ghnfast.load("ghn2-mnist5k"))
    change()
    found = values(ghnfast.load("ghn2-mnist5k"))
    torch.set_default_device(None)
    assert_same(found, expected)


def test_default_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    ghnfast.load("ghn2-mnist5k")
    assert torch.equal(torch.get_rng_state(), state)


def test_default_made_in_inference_mode_can_be_trained() -> None:
    with torch.inference_mode():
        ghn = ghnfast.load("ghn2-mnist5k")
    ghn.train().embed(small_network(), input_shape=IMAGE).sum().backward()


def test_predicted_scales_are_reasonable() -> None:
    """Activations neither vanish nor explode with a random GHN: that is what dividing by fan-in is for."""
    model = nn.Sequential(*(layer for _ in range(4) for layer in (conv(64, 64), nn.BatchNorm2d(64), nn.ReLU())))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ghn = GHN()
    ghn.predict(model, input_shape=(64, 8, 8))
    x = torch.randn(4, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        result = model(x)
    assert bool(torch.isfinite(result).all())
    assert 1e-3 < float(result.std()) < 1e3
