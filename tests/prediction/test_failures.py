"""A prediction that fails changes nothing, and says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.formulas import (
    CLASSES,
    HID,
    IMAGE,
    MAX_SHAPE,
)
from helpers.models import Net
from helpers.predicting import changed, predict, values
from helpers.small_networks import conv, small_network
from torch import Tensor, nn

import ghnfast
from ghnfast import GHN, GhnfastError, PredictError, TraceError


def broken_forward() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        raise ValueError("broken on purpose")

    return Net(forward, a=conv(3, 8))


def partly_on_meta() -> nn.Module:
    model = small_network()
    model.b.to("meta")
    return model


def all_complex() -> nn.Module:
    return nn.Linear(7, 5, dtype=torch.complex64)


def expanded() -> nn.Module:
    model = small_network()
    model.b.weight = nn.Parameter(torch.zeros(1, 2, 3, 3).expand(12, 2, 3, 3))
    return model


FAILING: dict[str, tuple[Callable[[], nn.Module], type[GhnfastError], str]] = {
    "forward": (broken_forward, TraceError, "broken on purpose"),
    "meta": (lambda: small_network().to("meta"), PredictError, "meta device"),
    "partly meta": (partly_on_meta, PredictError, r"b\.weight is on the meta device"),
    "no parameters": (nn.ReLU, TraceError, "no parameters"),
    "constant output": (lambda: Net(lambda m, x: torch.ones(3), a=conv(3, 8)), TraceError, "depends on its input"),
}


@pytest.mark.parametrize("name", FAILING)
def test_failing_model_is_an_error(name: str) -> None:
    build, error, message = FAILING[name]
    model = build()
    before = {key: tensor for key, tensor in values(model).items() if not tensor.is_meta}
    with pytest.raises(error, match=message):
        predict(model)
    for key, tensor in before.items():
        assert torch.equal(model.state_dict()[key], tensor)


@pytest.mark.parametrize("name", FAILING)
def test_failing_second_model_leaves_the_first_unchanged(name: str) -> None:
    build, error, message = FAILING[name]
    first = small_network()
    before = values(first)
    with pytest.raises(error, match=message):
        predict([first, build()])
    assert not changed(before, first)


def test_nothing_to_predict_is_an_error_that_says_why() -> None:
    with pytest.raises(PredictError, match="complex64"):
        predict(all_complex(), input_shape=(7,))
    model = Net(lambda m, x: m.conv(x * m.scale), scale=nn.Parameter(torch.ones(3, 1)), conv=nn.Conv1d(3, 4, 2))
    with pytest.raises(PredictError, match=r"conv\.weight is skipped because of this: .*conv1d"):  # most of its numbers
        predict(model, input_shape=(3, 5))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "weight",
    [
        "primitive_embedding.weight",
        "gnn.gru.bias_hh",
        "decoder.conv.2.bias",
        "decoder_1d.fc.2.weight",
        "bias_class.1.bias",
    ],
)
def test_broken_ghn_weights_change_nothing(weight: str, value: float) -> None:
    ghn = GHN(max_shape=MAX_SHAPE, num_classes=CLASSES, hid=HID)
    ghn.state_dict()[weight].fill_(value)
    model = small_network()
    before = values(model)
    with pytest.raises(PredictError, match=r"not finite") as caught:
        ghn.predict(model, input_shape=IMAGE)
    assert weight in str(caught.value)
    assert not changed(before, model)


def test_overflow_of_half_precision_changes_nothing() -> None:
    """Finite as the GHN computes it, infinite as the model would store it."""
    ghn = GHN(max_shape=MAX_SHAPE, num_classes=CLASSES, hid=HID, ve=False, layernorm=False, weight_norm=False)
    with torch.no_grad():
        ghn.decoder.conv[2].bias.fill_(1e6)
    model = small_network().half()
    before = values(model)
    with pytest.raises(PredictError, match="float16"):
        ghn.predict(model, input_shape=IMAGE)
    assert not changed(before, model)
    ghn.predict(small_network(), input_shape=IMAGE)


def test_wrong_input_shape_changes_nothing() -> None:
    model = small_network()
    before = values(model)
    with pytest.raises(TraceError, match="forward of Sequential failed"):
        predict(model, input_shape=(4, 16, 16))
    assert not changed(before, model)


@pytest.mark.parametrize("ghn", [3, nn.Linear(2, 2), {}, GHN])
def test_something_that_is_no_ghn(ghn: Any) -> None:
    model = small_network()
    before = values(model)
    with pytest.raises(GhnfastError, match="GHN"):
        ghnfast.predict(model, ghn, input_shape=IMAGE)
    assert not changed(before, model)


def test_unknown_ghn_name() -> None:
    with pytest.raises(GhnfastError, match="ghn9-cifar10"):
        ghnfast.predict(small_network(), "ghn9-cifar10", input_shape=IMAGE)
