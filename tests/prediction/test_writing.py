"""Into which memory a prediction writes, in which dtype, and what it leaves alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.formulas import (
    CLASSES,
    HID,
    IMAGE,
    MAX_SHAPE,
    ghn_of,
)
from helpers.predicting import assert_same, changed, check_report, predict, values
from helpers.small_networks import conv, small_network
from torch import nn

import ghnfast
from ghnfast import _C, GHN, PredictError


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_get_the_rounded_values(dtype: torch.dtype) -> None:
    reference, model = predict(small_network()), predict(small_network().to(dtype))
    for (name, tensor), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert tensor.dtype == dtype, name
        assert torch.equal(tensor, expected.to(dtype)), name


def test_mixed_dtypes_keep_theirs() -> None:
    model = small_network()
    model.b.double()
    model.fc.half()
    graph = ghnfast.trace(small_network(), input_shape=IMAGE)
    predict(model, graph=graph)
    reference = predict(small_network())
    for (name, tensor), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(tensor, expected.to(tensor.dtype)), name
    assert model.b.weight.dtype == torch.float64


def test_ghn_in_double_precision_predicts_the_same() -> None:
    ghn = GHN(max_shape=MAX_SHAPE, num_classes=CLASSES, hid=HID)
    ghn.load_state_dict(ghn_of("ghn2").state_dict())
    model = ghn.double().predict(small_network(), input_shape=IMAGE)
    for tensor, expected in zip(model.parameters(), predict(small_network()).parameters(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["ghn2", "float16", "bfloat16", "graphormer"])
@pytest.mark.parametrize("way", ["predict", "several", "values"])
def test_operands_are_rounded_where_they_may_be_and_the_machine_can(kind: str, way: str) -> None:
    settings: dict[str, Any] = {"hypernet": "graphormer", "layers": 1, "heads": 2} if kind == "graphormer" else {}
    ghn = GHN(max_shape=MAX_SHAPE, num_classes=CLASSES, hid=HID, **settings)
    if kind in ("float16", "bfloat16"):
        ghn = ghn.to(getattr(torch, kind))

    def predicted(precision: str) -> list[torch.Tensor]:
        ghn.precision = precision
        model = small_network()
        graph = ghnfast.trace(model, input_shape=IMAGE)
        if way == "values":
            with torch.no_grad():
                return list(ghn([graph])[0].values())
        models = [model] if way == "predict" else [model, small_network()]
        ghn.predict(models, graph=[graph] * len(models))
        return [tensor.detach() for each in models for tensor in each.parameters()]

    exact, other, rounded = map(predicted, ("float32", "tf32", "bfloat16"))
    assert all(map(torch.equal, exact, other))
    assert all(map(torch.equal, exact, rounded)) is not _C.rounds_products()
    for one, two in zip(exact, rounded, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-2 * float(one.abs().max()))


def test_frozen_parameters_are_predicted_and_stay_frozen() -> None:
    model = small_network()
    model.a.requires_grad_(False)
    before = values(model)
    predict(model)
    assert {"a.weight", "a.bias", "b.weight"} <= changed(before, model)
    assert not model.a.weight.requires_grad
    assert not model.a.bias.requires_grad
    assert model.b.weight.requires_grad


def test_gradients_are_left_alone() -> None:
    model = small_network()
    model.a.weight.grad = torch.ones_like(model.a.weight)  # type: ignore[arg-type]
    predict(model)
    assert torch.equal(model.a.weight.grad, torch.ones_like(model.a.weight))  # type: ignore[arg-type]
    assert all(tensor.grad is None for name, tensor in model.named_parameters() if name != "a.weight")


def test_parameters_stay_the_same_objects_in_the_same_memory() -> None:
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = [(tensor, tensor.data_ptr(), tensor.stride()) for tensor in model.parameters()]
    assert predict(model) is model
    after = list(model.parameters())
    assert all(tensor is now for (tensor, _, _), now in zip(before, after, strict=True))
    assert [(pointer, stride) for _, pointer, stride in before] == [(now.data_ptr(), now.stride()) for now in after]
    assert optimizer.param_groups[0]["params"][0] is model.a.weight
    assert all(type(tensor) is nn.Parameter and tensor.is_leaf for tensor in after)


def test_channels_last_stays_channels_last() -> None:
    model = small_network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert model.b.weight.is_contiguous(memory_format=torch.channels_last)
    predict(model)
    assert model.a.weight.is_contiguous(memory_format=torch.channels_last)
    assert not model.a.weight.is_contiguous()
    for tensor, expected in zip(model.parameters(), predict(small_network()).parameters(), strict=True):
        assert torch.equal(tensor, expected)


def test_parameters_that_are_views_of_one_buffer() -> None:
    """As flattened for fused optimizers: each gets its own part, and nothing beside it is written."""
    model, reference = small_network(), predict(small_network())
    flat = torch.zeros(sum(tensor.numel() for tensor in model.parameters()) + 2)
    offset = 1
    for tensor in model.parameters():
        tensor.data = flat[offset : offset + tensor.numel()].view_as(tensor)
        offset += tensor.numel()
    predict(model)
    assert flat[0] == flat[-1] == 0
    assert torch.equal(flat[1:-1], torch.cat([tensor.detach().flatten() for tensor in reference.parameters()]))


def test_transposed_parameter_memory() -> None:
    model = small_network()
    model.fc.weight = nn.Parameter(torch.zeros(12, 5).t())
    predict(model)
    assert model.fc.weight.stride() == (1, 5)
    assert torch.equal(model.fc.weight, predict(small_network()).fc.weight)


def test_two_parameters_that_share_memory() -> None:
    """Tied by data rather than by identity: both are reported as predicted, and they still share."""
    model = nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 8))
    model[2].weight = nn.Parameter(model[1].weight.data)  # type: ignore[arg-type]
    _, report = predict(model, report=True)
    check_report(model, report, set())
    assert model[1].weight.data_ptr() == model[2].weight.data_ptr()


def test_expanded_parameter_is_an_error() -> None:
    """Torch refuses to write memory of which several elements share a place."""
    model = nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 8))
    model[1].weight = nn.Parameter(torch.zeros(1, 1, 3, 3).expand(8, 8, 3, 3))
    before = values(model)
    with pytest.raises(PredictError, match=r"1\.weight is expanded or folded"):
        predict(model)
    assert not changed(before, model)


def test_overlapping_parameter_is_an_error() -> None:
    """Strides that overlap without being zero, as of a Toeplitz matrix."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.Linear(8, 8), nn.Linear(8, 5))
    model[2].weight = nn.Parameter(torch.zeros(15).as_strided((8, 8), (1, 1)))
    before = values(model)
    with pytest.raises(PredictError, match=r"2\.weight is expanded or folded"):
        predict(model)
    assert not changed(before, model)


def test_parameters_made_in_inference_mode() -> None:
    """Torch forbids changing them outside of it."""
    model = nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 8))
    with torch.inference_mode():
        model[1] = conv(8, 8)
    before = values(model)
    _, report = predict(model, report=True)
    check_report(model, report, set())
    assert "1.weight" in changed(before, model)


def test_batch_statistics_and_modes_are_left_alone() -> None:
    model = small_network().train()
    model.gn.eval()
    before = values(model)
    predict(model)
    assert not changed(before, model) & {name for name, _ in model.named_buffers()}
    assert model.training
    assert not model.gn.training


def test_predicted_model_trains() -> None:
    model = predict(small_network())
    model(torch.zeros(2, *IMAGE)).sum().backward()
    assert all(tensor.grad is not None for tensor in model.parameters())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_modes_do_not_matter(context: Callable[[], Any]) -> None:
    model = small_network()
    with context():
        predict(model)
    assert_same(values(model), values(predict(small_network())))
    assert all(tensor.requires_grad and not tensor.is_inference() for tensor in model.parameters())
    model(torch.zeros(2, *IMAGE)).sum().backward()


@pytest.mark.parametrize(
    "context", [lambda: torch.autocast("cpu", dtype=torch.bfloat16), lambda: torch.device("meta"), torch.no_grad]
)
def test_surroundings_do_not_matter(context: Callable[[], Any]) -> None:
    """A prediction inside somebody's training loop is the same as outside of it."""
    model = small_network()
    with context():
        predict(model)
    assert_same(values(model), values(predict(small_network())))


def test_ghn_gets_no_gradients_and_keeps_its_mode() -> None:
    ghn = GHN(max_shape=MAX_SHAPE, num_classes=CLASSES, hid=HID).train()
    before = values(ghn)
    ghn.predict(small_network(), input_shape=IMAGE)
    assert ghn.training
    assert all(tensor.grad is None and tensor.requires_grad for tensor in ghn.parameters())
    assert_same(before, values(ghn))


def test_embedding_is_differentiable_in_training() -> None:
    ghn, model = copy.deepcopy(ghn_of("ghn2")), small_network()
    plain = ghn.embed(model, input_shape=IMAGE)
    assert not plain.requires_grad
    states, again = ghn.train().embed([model, model], input_shape=IMAGE)
    np.testing.assert_allclose(states.detach().numpy(), plain.numpy(), rtol=1e-5, atol=1e-6)
    (states + again).sum().backward()
    assert ghn.primitive_embedding.weight.grad is not None
    with torch.no_grad():
        assert not ghn.embed(model, input_shape=IMAGE).requires_grad


def test_embeddings_of_a_loaded_ghn_are_numbers() -> None:
    ghn = ghnfast.load("ghn2-mnist5k")
    assert ghn.embed(small_network(), input_shape=IMAGE).numpy().shape[1] == ghn.config["hid"]
    assert all(len(states.numpy()) for states in ghn.embed([small_network(), small_network()], input_shape=IMAGE))
    assert all(weight.requires_grad for weight in ghn.parameters())


def test_prediction_is_the_same_twice() -> None:
    model = predict(small_network())
    once = values(model)
    predict(model)
    assert_same(once, values(model))


def test_prediction_does_not_depend_on_the_old_values_or_the_random_state() -> None:
    torch.manual_seed(1)
    first = predict(small_network())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = small_network()
    torch.set_rng_state(state)
    predict(second)
    assert torch.equal(torch.get_rng_state(), state)
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)
