"""One training step against the reference's numbers: losses, and the gradient of every GHN weight."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from helpers.golden_data import golden, golden_ghn
from helpers.kernel_device import DEVICE, use_large_blocks
from torch import nn

from ghnfast import GHN
from ghnfast.deepnets import Network, graph_of
from ghnfast.nn.names import with_published_names
from ghnfast.training import TrainConfig, Trainer
from ghnfast.training.networks import MetaBatch
from ghnfast.training.step import StepResult

GOLDEN = golden("training_step")
GOLDEN_GHN3 = golden("ghn3_training_step")
GHNS = [name for name in GOLDEN if name.startswith(("ghn", "mlp"))]


def batch_of(nets: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, MetaBatch]:
    entries = [golden("deepnets")[name] for name in nets]
    settings = [
        {"genotype": e["genotype"], "num_classes": 10, "is_imagenet_input": False, **e["args"]} for e in entries
    ]
    with torch.device("meta"):
        networks: list[nn.Module] = [Network(**each) for each in settings]
    images = np.random.RandomState(0).standard_normal((8, 3, 32, 32)).astype(np.float32)
    batch = MetaBatch(networks, [graph_of(**each) for each in settings], list(range(len(networks))), len(networks))
    return torch.from_numpy(images), torch.arange(8) % 10, batch


@pytest.mark.parametrize("backend", ["torch", "cpp", "triton"] if DEVICE == "cuda" else ["torch", "cpp"])
@pytest.mark.parametrize("name", GHNS)
def test_training_step(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHNFAST_BACKEND", backend)
    device = DEVICE if backend == "triton" else "cpu"
    trainer = Trainer(copy.deepcopy(golden_ghn(name)).to(device).train(), TrainConfig(), steps=1)
    images, labels, batch = batch_of(GOLDEN["nets"])
    result = StepResult([], networks=batch.total)
    trainer.backward(images.to(device), labels.to(device), batch, result)
    expected = GOLDEN[name]
    assert result.losses == pytest.approx(expected["losses"], rel=1e-4)
    squares = 0.0
    weights = with_published_names(dict(trainer.ghn.named_parameters()))
    for weight, wanted in expected["grads"].items():
        grad = weights[weight].grad
        found = torch.zeros_like(weights[weight]) if grad is None else grad
        squares += float(found.double().norm()) ** 2
        norm = wanted["norm"]
        assert float(found.double().norm()) == pytest.approx(norm, rel=1e-3, abs=1e-9), weight
        # Single values to the same share of the gradient's root mean square: some are sums that all but cancel.
        values, scale = found.flatten()[wanted["at"]].tolist(), norm / found.numel() ** 0.5
        assert values == pytest.approx(wanted["value"], rel=1e-3, abs=1e-3 * scale + 1e-9), weight
    assert squares**0.5 == pytest.approx(expected["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("name", GHNS)
def test_kernels_take_the_step_of_the_definition(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is compared with the reference above. Interpreted, a node takes as long as a small network by itself."""
    use_large_blocks(monkeypatch)
    config = {**golden("checkpoints")[name]["config"], "max_shape": (16, 16, 5, 5), "hid": 8}
    torch.manual_seed(0)
    ghn = GHN(**config).train()
    losses, grads = [], []
    for backend, device in (("torch", "cpu"), ("triton", DEVICE)):
        monkeypatch.setenv("GHNFAST_BACKEND", backend)
        trainer = Trainer(copy.deepcopy(ghn).to(device), TrainConfig(), steps=1)
        images, labels, batch = batch_of(["test/36", "test/17"])
        result = StepResult([], networks=batch.total)
        trainer.backward(images.to(device), labels.to(device), batch, result)
        losses.append(result.losses)
        grads.append({weight: value.grad for weight, value in trainer.ghn.named_parameters()})
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for weight, wanted in grads[0].items():
        if wanted is None:
            assert grads[1][weight] is None
            continue
        found, scale = grads[1][weight].cpu(), float(wanted.square().mean().sqrt())
        torch.testing.assert_close(
            found, wanted, rtol=1e-3, atol=1e-3 * scale + 1e-9, msg=partial("{}: {}".format, weight)
        )


@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize("name", [name for name in GOLDEN_GHN3 if name.startswith("ghn3")])
def test_training_step_of_ghn3(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64; of graphs of different sizes, for which the published code reads wrong rows."""
    monkeypatch.setenv("GHNFAST_BACKEND", backend)
    expected = GOLDEN_GHN3[name]
    ghn = copy.deepcopy(golden_ghn(name.split("/")[0])).double().train()
    trainer = Trainer(ghn, TrainConfig(predicted_decay=expected.get("predparam_wd", 0.0)), steps=1)
    images, labels, batch = batch_of(GOLDEN_GHN3["nets"])
    assert [len(graph) for graph in batch.graphs] == expected["nodes"]
    for network in batch.networks:
        network.double()
    result = StepResult([], networks=batch.total)
    trainer.backward(images.double(), labels, batch, result)
    assert result.losses == pytest.approx(expected["losses"], rel=1e-10)
    squares = 0.0
    weights = with_published_names(dict(trainer.ghn.named_parameters()))
    for weight, wanted in expected["grads"].items():
        grad = weights[weight].grad
        found = torch.zeros_like(weights[weight]) if grad is None else grad
        norm = float(found.norm())
        squares += norm**2
        if weight.endswith("attn.proj_e.2.bias"):  # it adds the same to all logits of a head
            assert norm < 1e-6
            continue
        assert norm == pytest.approx(wanted["norm"], rel=1e-8, abs=1e-12), weight
        assert float(found.sum()) == pytest.approx(wanted["sum"], rel=1e-8, abs=1e-8 * wanted["norm"]), weight
        values = found.flatten()[wanted["at"]].tolist()
        assert values == pytest.approx(wanted["value"], rel=1e-7, abs=1e-8 * wanted["norm"]), weight
    assert squares**0.5 == pytest.approx(expected["grad_norm"], rel=1e-8)
