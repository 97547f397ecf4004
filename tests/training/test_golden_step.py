"""One training step against the reference's numbers: losses, and the gradient of every GHN weight."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from golden_data import golden, golden_ghn
from kernel_device import DEVICE, use_large_blocks
from torch import nn

from ghnfast.deepnets import Network, graph_of
from ghnfast.nn.names import with_published_names
from ghnfast.training import TrainConfig, Trainer
from ghnfast.training.networks import MetaBatch
from ghnfast.training.step import StepResult

GOLDEN = golden("training_step")


def golden_batch() -> tuple[torch.Tensor, torch.Tensor, MetaBatch]:
    entries = [golden("deepnets")[name] for name in GOLDEN["nets"]]
    settings = [
        {"genotype": e["genotype"], "num_classes": 10, "is_imagenet_input": False, **e["args"]} for e in entries
    ]
    with torch.device("meta"):
        networks: list[nn.Module] = [Network(**each) for each in settings]
    images = np.random.RandomState(0).standard_normal((8, 3, 32, 32)).astype(np.float32)
    batch = MetaBatch(networks, [graph_of(**each) for each in settings], list(range(len(networks))), len(networks))
    return torch.from_numpy(images), torch.arange(8) % 10, batch


@pytest.mark.parametrize("backend", ["torch", "cpp", "triton"])
@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith(("ghn", "mlp"))])
def test_training_step(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHNFAST_BACKEND", backend)
    if backend == "triton":
        use_large_blocks(monkeypatch)
    device = DEVICE if backend == "triton" else "cpu"
    trainer = Trainer(copy.deepcopy(golden_ghn(name)).to(device).train(), TrainConfig(), steps=1)
    images, labels, batch = golden_batch()
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
