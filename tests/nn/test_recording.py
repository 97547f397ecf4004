"""How what a GHN computes is recorded for a backward pass: by functions of its own, or by torch's operators."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.compiled_autograd
from helpers.forked import Forked, script
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import ghnfast

KINDS: dict[str, dict[str, Any]] = {
    "ghn2": {},
    "ghn1": {"ve": False, "layernorm": False, "weight_norm": False},
    "ghn3": {"hypernet": "graphormer", "layers": 2, "heads": 2},
}


def small_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 12, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip


class Recorded:
    """A GHN and a network's graph."""

    def __init__(self, kind: str) -> None:
        torch.manual_seed(0)
        self.ghn = ghnfast.GHN(hid=8, max_shape=(8, 8, 3, 3), num_classes=4, **KINDS[kind])
        self.graph = ghnfast.trace(small_model(), input_shape=(3, 8, 8))
        self.weights = list(self.ghn.parameters())

    def values(self) -> Tensor:
        """All that is predicted, one behind the other."""
        return torch.cat([value.flatten() for value in self.ghn(self.graph)[0].values()])

    def gradients(self, values: Tensor, **options: Any) -> list[Tensor]:
        found = torch.autograd.grad(values.pow(2).sum(), self.weights, allow_unused=True, **options)
        return [gradient for gradient in found if gradient is not None]


@pytest.fixture(params=KINDS)
def recorded(request: pytest.FixtureRequest, backend: str) -> Recorded:
    return Recorded(request.param)


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) > 10 and all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("where", ["forward", "backward", "both"])
def test_torchs_operators_record_the_same(recorded: Recorded, where: str) -> None:
    """They are what is called within a mode of torch's dispatcher."""
    expected = recorded.gradients(recorded.values())
    with FlopCounterMode(display=False):
        values = recorded.values()
        if where == "both":
            assert same(recorded.gradients(values), expected)
    if where == "backward":
        values = recorded.values()
    if where != "both":
        with FlopCounterMode(display=False) if where == "backward" else torch.enable_grad():
            assert same(recorded.gradients(values), expected)


@pytest.mark.parametrize("early_stop", [True, False])
def test_what_is_computed_again_in_the_backward_pass(recorded: Recorded, early_stop: bool) -> None:
    """Activation checkpointing: torch asks for kept tensors in the order in which they were kept, each once."""
    expected = recorded.gradients(recorded.values())
    with torch.utils.checkpoint.set_checkpoint_early_stop(early_stop):
        values = checkpoint(recorded.values, use_reentrant=False)
        assert same(recorded.gradients(values), expected)


def test_what_is_computed_again_by_a_second_call(recorded: Recorded) -> None:
    """Activation checkpointing of the older kind: the first call records nothing, and adds in another order."""
    expected = recorded.gradients(recorded.values())
    one = torch.ones(1, requires_grad=True)
    checkpoint(lambda one: recorded.values() * one, one, use_reentrant=True).pow(2).sum().backward()
    found = [weight.grad for weight in recorded.weights if weight.grad is not None]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_backward_passes(kind: str) -> None:
    """Torch's compiler traces them through the operators: functions of C++ are none that it knows."""
    recorded = Recorded(kind)
    expected = recorded.gradients(recorded.values())
    total = recorded.values().pow(2).sum()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        total.backward()
    assert same([weight.grad for weight in recorded.weights if weight.grad is not None], expected)


def test_kept_tensors_may_be_elsewhere(recorded: Recorded) -> None:
    expected = recorded.gradients(recorded.values())
    with torch.autograd.graph.save_on_cpu():
        values = recorded.values()
    assert same(recorded.gradients(values), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever weights they are asked for: none is left out without a word."""
    monkeypatch.setenv("GHNFAST_BACKEND", "cpp")
    recorded = Recorded(kind)
    once = recorded.gradients(recorded.values(), create_graph=True)
    assert same(once, recorded.gradients(recorded.values()))
    total = torch.stack([gradient.pow(2).sum() for gradient in once]).sum()
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        torch.autograd.grad(total, recorded.weights, allow_unused=True, retain_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        total.backward()


def test_weights_that_changed_meanwhile_are_noticed(recorded: Recorded) -> None:
    values = recorded.values()
    with torch.no_grad():
        for weight in recorded.weights:
            weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        recorded.gradients(values)


def test_gradients_of_weights_that_learn_alone(recorded: Recorded) -> None:
    """Of some of them, and of none."""
    expected = recorded.gradients(recorded.values())
    order = [weight for weight in recorded.weights if any(weight.shape == gradient.shape for gradient in expected)]
    for weight in recorded.weights:
        weight.requires_grad_(weight is order[-1])
    (found,) = torch.autograd.grad(recorded.values().pow(2).sum(), [order[-1]])
    assert any(torch.equal(found, gradient) for gradient in expected)
    order[-1].requires_grad_(False)
    assert not recorded.values().requires_grad


FIRST = """
import sys, torch, ghnfast
from ghnfast.training import make_config, train
path, folder = sys.argv[1:]
def heavy():
    return sorted(name for name in ("sympy", "torch._dynamo", "torch._inductor") if name in sys.modules)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                            torch.nn.Linear(4, 4))
ghn = ghnfast.load(path)
print("load", heavy())
ghn.predict(model, input_shape=(3, 8, 8))
print("predict", heavy())
sum(value.sum() for value in ghn(ghnfast.trace(model, input_shape=(3, 8, 8)))[0].values()).backward()
print("backward", heavy())
config = make_config({
    "data": "mnist5k", "batch_size": 4, "meta_batch": 1, "num_ch": (8, 8), "fc_dim": (8, 8), "steps": 1,
    "max_shape": (8, 8, 3, 3), "hid": 8, "identity_steps": 1, "hypernet": ghn.config["hypernet"], "heads": 2,
    "layers": 1,
})
train(config, folder, progress=False)
print("train", heavy())
"""


@pytest.mark.parametrize("kind", KINDS)
def test_none_of_it_imports_torchs_compiler(kind: str, tmp_path: Path) -> None:
    """Nor sympy: they take a process seconds, the first time."""
    Recorded(kind).ghn.save(tmp_path / "ghn.safetensors")
    process = Forked(script, FIRST, tmp_path / "ghn.safetensors", tempfile.mkdtemp(dir=tmp_path))
    assert process.wait() == 0, process.stderr()
    assert process.stdout() == "load []\npredict []\nbackward []\ntrain []\n"
