"""Node states that the CPU computes for a GHN on a GPU."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.graphs import random_graph

import ghnfast
from ghnfast.graph import GraphBatch
from ghnfast.nn import host
from ghnfast.tracing.members import members_of


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's part of the way, without the GPU: asked for, for GHNs whose sweep would be a kernel's."""
    monkeypatch.delenv("GHNFAST_BACKEND", raising=False)
    monkeypatch.setenv("GHNFAST_SWEEP", "cpp")
    monkeypatch.setattr(host, "weights_backend", lambda members: "triton")


def states_of(ghn: ghnfast.GHN, batch: GraphBatch) -> torch.Tensor | None:
    with torch.no_grad():
        return ghn.host_form.node_states(ghn, members_of(ghn), batch)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("ve", [True, False])
def test_they_are_those_of_the_modules_and_follow_the_weights(ve: bool) -> None:
    ghn = ghnfast.GHN(ve=ve, hid=16, max_shape=(8, 8, 3, 3), num_classes=4).eval()
    batch = GraphBatch([random_graph(0, 5, 3, 1), random_graph(1, 2, 2, 0)])
    with torch.no_grad():
        for parameter in ghn.parameters():
            parameter.add_(0.1)
    kept = []
    for _ in range(2):
        with torch.no_grad():
            wanted = ghn.ln(ghn.gnn(ghn.initial_states(batch), batch))
        first, second = states_of(ghn, batch), states_of(ghn, batch)
        assert first is not None
        assert second is not None
        torch.testing.assert_close(first, wanted, rtol=1e-5, atol=1e-5)
        assert torch.equal(first, second)
        assert ghn.host_form.known is not None
        kept.append(ghn.host_form.known[1])
        with torch.no_grad():
            next(ghn.parameters()).mul_(-1)
    assert kept[0] is not kept[1]
    assert ghn.host_form.known[1] is kept[1]
    assert copy.deepcopy(ghn).host_form.known is None


@pytest.mark.usefixtures("as_on_a_gpu")
def test_where_they_are_left_to_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    ghn = ghnfast.GHN(hid=16, max_shape=(8, 8, 3, 3), num_classes=4).eval()
    batch = GraphBatch([random_graph(0, 5, 3, 1)])
    assert states_of(ghn, batch) is not None
    assert ghn.host_form.node_states(ghn, members_of(ghn), batch) is None  # gradients are recorded
    hook = ghn.gnn.register_forward_hook(lambda *_: None)
    assert states_of(ghn, batch) is None
    hook.remove()
    assert states_of(ghn, batch) is not None
    monkeypatch.setenv("GHNFAST_SWEEP", "triton")
    assert states_of(ghn, batch) is None
    monkeypatch.setenv("GHNFAST_SWEEP", "cpp")
    monkeypatch.setattr(host, "backend_asked_for", lambda: "triton")
    assert states_of(ghn, batch) is None
    monkeypatch.setattr(host, "backend_asked_for", lambda: "")
    with torch.inference_mode():
        nobody_counts = ghnfast.GHN(hid=16, max_shape=(8, 8, 3, 3), num_classes=4).eval()
    assert states_of(nobody_counts, batch) is None
    other = ghnfast.GHN(hypernet="mlp", hid=16, max_shape=(8, 8, 3, 3), num_classes=4).eval()
    assert states_of(other, batch) is None
