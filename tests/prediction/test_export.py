"""Predicted models in other hands: torch.export and torch.compile give the values that the model gives; and exported
programs are predicted as the model is.

ONNX, which takes seconds, is in docs/guides/export.md, whose code is run.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.models import torchvision_model
from torch import Tensor, nn

import ghnfast
from ghnfast.families import Families

SHAPE = (3, 32, 32)
FAMILIES = ("mobilenet_v2", "vit")  # convolutions by groups, batch norm and gates; attention and layer norm


def predicted(family: str) -> nn.Module:
    """The smallest of some members of a family, with running statistics that are not the initial ones."""
    members = Families("test", size=10, families=(family,))
    smallest = min((members[index] for index in range(len(members))), key=lambda member: len(member.graph))
    model: nn.Module = ghnfast.predict(smallest.build(), graph=smallest.graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ghnfast.calibrate(model, torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(0))).eval()


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request: pytest.FixtureRequest) -> tuple[nn.Module, Any, Tensor]:
    model, images = predicted(request.param), torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    return model, program, images


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 3])
def test_torch_export(exported: tuple[nn.Module, Any, Tensor], count: int) -> None:
    model, program, images = exported
    torch.testing.assert_close(program.module()(images[:count]), model(images[:count]), rtol=1e-4, atol=1e-5)


def same_graph(one: nn.Module, other: nn.Module, *inputs: Tensor) -> bool:
    a, b = (ghnfast.trace(model, example_inputs=inputs) for model in (one, other))
    same_nodes = a.ops == b.ops and a.weights == b.weights and a.norm_biases == b.norm_biases
    return same_nodes and np.array_equal(a.edges, b.edges) and a.skipped == b.skipped


def test_graph_and_parameters_of_an_exported_program(exported: tuple[nn.Module, Any, Tensor]) -> None:
    model, program, images = exported
    again = program.module()
    assert same_graph(model, again, images)
    expected = dict(model.named_parameters())
    for name, parameter in again.named_parameters():
        if "token" not in name:
            nn.init.zeros_(parameter)
    _, report = ghnfast.predict(again, example_inputs=(images,), report=True)
    assert all("token" in name for name in report.skipped)
    for name, parameter in again.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-5)


MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "resnet18": (lambda: torchvision_model("resnet18", num_classes=10), (2, 3, 32, 32)),
    "transformer": (lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (2, 5, 16)),
    "encoder": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 2), (5, 2, 16)),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "training", "decomposed"), [
    ("resnet18", False, False), ("resnet18", True, True), ("transformer", True, False), ("transformer", False, False),
    ("encoder", False, True),
])  # fmt: skip
def test_exported_layers_are_those_of_the_model(name: str, training: bool, decomposed: bool) -> None:
    build, shape = MODELS[name]
    model, inputs = build().train(training), torch.zeros(shape)
    program = torch.export.export(model, (inputs,))
    if decomposed:
        program = program.run_decompositions()
    assert same_graph(model, program.module(), inputs)
    assert not ghnfast.trace(program.module(), example_inputs=(inputs,)).skipped


def network(depth: int) -> nn.Module:
    layers: list[nn.Module] = []
    for width in range(depth):
        layers += [nn.Conv2d(3 + width, 4 + width, 3, padding=1), nn.BatchNorm2d(4 + width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3 + depth, 10))


@pytest.mark.parametrize("hypernet", ["gatedgnn", "graphormer"])
def test_a_compiled_training_step_is_the_step(hypernet: str) -> None:
    """Networks and losses are compiled; the GHN, which is C++ and operators of its own, is the one graph break."""
    torch.manual_seed(0)
    special: dict[str, Any] = {"layers": 2, "heads": 2} if hypernet == "graphormer" else {}
    ghn = ghnfast.GHN(hypernet=hypernet, hid=8, num_classes=10, max_shape=(8, 8, 3, 3), **special).train()
    networks = [network(1), network(2)]
    graphs = [ghnfast.trace(each, input_shape=SHAPE) for each in networks]
    images, labels = torch.randn(4, *SHAPE), torch.arange(4)
    quiet = torch.compiler.disable(ghn)

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        outputs = [
            torch.func.functional_call(each, parameters, images)
            for each, parameters in zip(networks, quiet(graphs), strict=True)
        ]
        return torch.stack([F.cross_entropy(output, labels) for output in outputs]).mean()

    def step(loss_of: Any) -> list[Tensor]:
        ghn.zero_grad()
        loss = loss_of(images, labels)
        loss.backward()
        return [loss.detach(), *(weight.grad.clone() for weight in ghn.parameters() if weight.grad is not None)]

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    eager, compiled = step(loss_of), step(torch.compile(loss_of, backend="aot_eager"))
    assert sum(torch._dynamo.utils.counters["graph_break"].values()) == 1
    assert len(eager) == len(compiled) > 20
    for one, other in zip(eager, compiled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
