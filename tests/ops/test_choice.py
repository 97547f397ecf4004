"""What computes a sweep on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ghnfast.errors import BackendError
from ghnfast.kernels import driver, nvrtc
from ghnfast.ops.sweep import Sweep, chosen_sweep

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
ONE, BATCH = Sweep(127, 2, 32, 16, False), Sweep(280, 2, 32, 16, True)


@pytest.fixture(autouse=True)
def h100(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shared memory, and a driver that loads what it gets."""
    monkeypatch.delenv("GHNFAST_SWEEP", raising=False)
    monkeypatch.setattr(driver, "shared_memory", lambda device: 227 * 1024)
    monkeypatch.setattr("ghnfast.kernels.chain.trouble", lambda *arguments: "")


def test_what_was_measured_to_be_the_fastest() -> None:
    assert chosen_sweep(ONE, CUDA, on_host=True) == chosen_sweep(ONE, CUDA) == "cuda"
    assert chosen_sweep(BATCH, CUDA, on_host=True) == "cuda"
    assert chosen_sweep(BATCH._replace(largest=1000), CUDA) == "triton"
    assert chosen_sweep(BATCH._replace(hid=64, width=32), CUDA) == "triton"
    assert chosen_sweep(BATCH, CPU) == "triton"  # interpreted
    back = BATCH._replace(backward=True)
    assert chosen_sweep(back, CUDA) == "cuda"
    # One gradient a node, where the forward pass has a message for each MLP.
    assert chosen_sweep(back._replace(largest=1000), CUDA) == "cuda"
    assert chosen_sweep(back._replace(largest=1700), CUDA) == "triton"
    assert chosen_sweep(back._replace(hid=64, width=32), CUDA) == "triton"
    assert chosen_sweep(back, CPU) == "triton"


@pytest.mark.parametrize("asked", ["cpp", "cuda", "triton"])
@pytest.mark.parametrize("sweep", [ONE, BATCH, BATCH._replace(backward=True)])
def test_what_is_asked_for(monkeypatch: pytest.MonkeyPatch, asked: str, sweep: Sweep) -> None:
    monkeypatch.setenv("GHNFAST_SWEEP", asked)
    assert chosen_sweep(sweep, CUDA, on_host=True) == asked
    # Where the CPU cannot take it, one of the others does.
    assert chosen_sweep(sweep, CUDA) == ("cuda" if asked == "cpp" else asked)


def test_what_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHNFAST_SWEEP", "fast")
    with pytest.raises(BackendError, match="GHNFAST_SWEEP is 'fast'; 'cpp', 'cuda', 'triton' are accepted"):
        chosen_sweep(ONE, CUDA)
    monkeypatch.setenv("GHNFAST_SWEEP", "cuda")
    with pytest.raises(BackendError, match="GHNFAST_SWEEP is 'cuda', and states are 64 wide"):
        chosen_sweep(ONE._replace(hid=64), CUDA)
    monkeypatch.setattr("ghnfast.kernels.chain.trouble", lambda *arguments: "NVIDIA's driver: no")
    with pytest.raises(BackendError, match="GHNFAST_SWEEP is 'cuda', and NVIDIA's driver: no"):
        chosen_sweep(ONE, CUDA)
    monkeypatch.delenv("GHNFAST_SWEEP")
    assert chosen_sweep(ONE, CUDA) == "triton"


def test_without_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "library", lambda: None)
    assert chosen_sweep(BATCH, CUDA) == chosen_sweep(ONE, CUDA, on_host=True) == "triton"


@pytest.mark.parametrize("kind", ["cuda", "triton"])
def test_the_operator_takes_what_is_chosen(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    from ghnfast.kernels import chain, chain_backward, sweep
    from ghnfast.ops.sweep import operators

    called: list[Any] = []

    def choose(sweep: Sweep, device: torch.device) -> str:
        called.append(sweep)
        return kind

    monkeypatch.setattr(operators, "chosen_sweep", choose)
    monkeypatch.setattr(chain, "gated_sweep", lambda *arguments: called.append(("cuda", arguments[-1])))
    monkeypatch.setattr(sweep, "gated_sweep", lambda *arguments: called.append(("triton", arguments[-1])))
    back = "gated_sweep_backward"
    monkeypatch.setattr(chain_backward, back, lambda *arguments: called.append(("cuda back", arguments[-2:])))
    monkeypatch.setattr(sweep, back, lambda *arguments: called.append(("triton back", arguments[-1:])))
    mlp = [torch.zeros(16, 32), torch.zeros(16), torch.zeros(32, 16), torch.zeros(32)]
    tables = [torch.tensor([0, 2, 5])]
    operators.device_gated_sweep(torch.zeros(5, 32), [*mlp, *mlp, *mlp], tables, 50, True, 3)
    assert called == [Sweep(3, 2, 32, 16, True), (kind, 3 if kind == "cuda" else True)]
    called.clear()
    states = torch.zeros(5, 32)
    operators.device_gated_sweep_backward(states, states, [], [*mlp, *mlp, *mlp], tables, 50, 3)
    assert called == [Sweep(3, 2, 32, 16, True, True), (f"{kind} back", (50, 3) if kind == "cuda" else (50,))]
