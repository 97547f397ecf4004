"""The C++ forward pass against the modules that it stands for, and when it has to leave the work to them."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from helpers.models import torchvision_model
from helpers.small_networks import PatchNet
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import ghnfast
from ghnfast import _C, GHN
from ghnfast.graph import PREDICTED_DTYPES, GraphBatch
from ghnfast.ops.attention import relations_of
from ghnfast.prediction import prepare
from ghnfast.tracing.members import members_of

SMALL: dict[str, Any] = {"max_shape": (8, 8, 3, 3), "num_classes": 10, "hid": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "ghn2": {},
    "ghn1": {"ve": False, "layernorm": False, "weight_norm": False},
    "mlp": {"hypernet": "mlp"},
    "rectangle": {"max_shape": (12, 4, 3, 3)},
    "ghn3": {"hypernet": "graphormer", "heads": 2, "layers": 2},
    "ghn3, a rectangle": {"hypernet": "graphormer", "heads": 4, "layers": 1, "max_shape": (12, 4, 6, 6)},
}


def graphs() -> list[ghnfast.ArchGraph]:
    models = [torchvision_model("resnet18", num_classes=10), torchvision_model("squeezenet1_1", num_classes=10)]
    return [*map(ghnfast.trace, models), ghnfast.trace(PatchNet(), input_shape=(3, 16, 16))]


def values(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.fixture
def ghn() -> GHN:
    torch.manual_seed(0)
    return GHN(**SMALL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("config", CONFIGS)
def test_native_is_what_the_modules_compute(config: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    ghn = GHN(**{**SMALL, **CONFIGS[config]}).to(dtype)
    models = [torchvision_model(name, num_classes=10) for name in ("resnet18", "squeezenet1_1")] + [PatchNet()]
    batch = GraphBatch(graphs())
    tolerance: dict[str, Any] = (
        {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    )
    with torch.no_grad():
        native = ghn.native()
        assert native is not None
        states = ghn.node_states(batch, native)
        torch.testing.assert_close(states, ghn.node_states(batch, None), **tolerance)
        layout = prepare(models, list(map(members_of, models)), batch, True, ghn.request).layout
        found, wanted = (ghn.decode_source(states, layout, which) for which in (native, None))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)
    assert any(call.decoder == 5 for call in layout.calls)  # what is left to the modules is there as well


@pytest.mark.parametrize("config", ["ghn2", "mlp", "ghn3"])
def test_threads_change_no_bit(config: str) -> None:
    """Whether they come in time or not: those of several callers are more than there are cores."""
    ghn = GHN(**SMALL | CONFIGS[config] | {"hid": 64}).eval()
    batch = GraphBatch(graphs())
    topology = batch.topology(ghn.gnn.cutoff)
    with torch.no_grad():
        native = ghn.native()
    assert native is not None
    pairs = relations_of(topology).native if ghn.gnn.attends else None

    def states(threads: int) -> bytes:
        found: bytes = native.core.node_states(
            topology.native, batch.primitives, batch.shape_table, threads, pairs
        ).tobytes()
        return found

    expected = states(1)
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(states, [2, 3, 7] * 5)) == {expected}


def test_gradients_are_left_to_the_modules(ghn: GHN) -> None:
    graph = graphs()[0]
    assert ghn.native() is None
    states = ghn.embed(graph)
    states.sum().backward()
    assert ghn.gnn.gru.weight_ih.grad is not None
    with torch.no_grad():
        assert ghn.native() is not None
        torch.testing.assert_close(ghn.embed(graph), states.detach(), rtol=1e-4, atol=1e-5)


def replace_data(ghn: GHN) -> None:
    for weight in ghn.parameters():
        weight.data = weight.data * 1.5


def write_through_data(ghn: GHN) -> None:
    for weight in ghn.parameters():
        weight.data.mul_(1.5)


def take_a_step(ghn: GHN) -> None:
    for weight in ghn.parameters():
        weight.grad = torch.ones_like(weight)
    torch.optim.SGD(ghn.parameters(), 0.01).step()


def load_others(ghn: GHN) -> None:
    torch.manual_seed(5)
    ghn.load_state_dict(GHN(**SMALL).state_dict())


def replace_parameter(ghn: GHN) -> None:
    ghn.gnn.gru.weight_ih = nn.Parameter(torch.ones_like(ghn.gnn.gru.weight_ih))  # type: ignore[arg-type]


def add_hook(ghn: GHN) -> None:
    ghn.gnn.register_forward_hook(lambda module, args, output: output * 2)


def replace_forward(ghn: GHN) -> None:
    ghn.gnn.forward = lambda states, batch: states  # type: ignore[method-assign]


def parametrize(ghn: GHN) -> None:
    layer: nn.Module = ghn.decoder.conv[0]  # type: ignore[assignment]
    parametrizations.weight_norm(layer)
    for weight in ghn.decoder.conv[0].parameters():
        weight.data.mul_(1.5)


def mask(ghn: GHN) -> None:
    prune.random_unstructured(ghn.decoder.conv[0], "weight", 0.5)


def replace_layer(ghn: GHN) -> None:
    ghn.bias_class[0] = nn.Tanh()


CHANGES = [
    replace_data, write_through_data, take_a_step, load_others, replace_parameter, add_hook, replace_forward,
    parametrize, mask, replace_layer,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changed_in_the_ghn_is_seen(
    ghn: GHN, change: Any, monkeypatch: pytest.MonkeyPatch, model: nn.Module
) -> None:
    before = values(ghn.predict(model))
    change(ghn)
    ours = values(ghn.predict(model))
    monkeypatch.setenv("GHNFAST_BACKEND", "torch")
    theirs = values(ghn.predict(model))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not all(map(torch.equal, before, ours))


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def test_hooks_of_all_modules_are_called(ghn: GHN, model: nn.Module) -> None:
    called: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: called.append(module))
    try:
        ghn.predict(model)
    finally:
        handle.remove()
    assert {*model, ghn.gnn} <= set(called)  # type: ignore[misc]
    called.clear()
    ghn.predict(model)
    assert not called


def test_a_subclass_is_asked(model: nn.Module) -> None:
    class Zero(GHN):
        def initial_states(self, batch: GraphBatch) -> Tensor:
            return torch.zeros_like(super().initial_states(batch))

    torch.manual_seed(0)
    zero = Zero(**SMALL)
    torch.manual_seed(0)
    assert not torch.equal(GHN(**SMALL).embed(model), zero.embed(model))
    zero.predict(model)
    predicted = values(model)
    zero.shape_enc.embed_channel.weight.data.mul_(3)
    assert all(map(torch.equal, values(zero.predict(model)), predicted))


def test_a_ghn_that_has_predicted_is_copied_and_forgotten(ghn: GHN, model: nn.Module) -> None:
    predicted = values(ghn.predict(model))
    for made in (copy.deepcopy(ghn), pickle.loads(pickle.dumps(ghn))):
        assert all(map(torch.equal, values(made.predict(model)), predicted))
        assert made.native_form.known is not ghn.native_form.known
    forgotten = weakref.ref(made)
    del made
    gc.collect()
    assert forgotten() is None


# What C++ asks of tensors ---------------------------------------------------------------------------------------------


class Tagged(Tensor):
    pass


OTHERS = {
    "nothing": (None, (2, 3)),
    "other shape": (torch.zeros(2, 3), (3, 2)),
    "other rank": (torch.zeros(2, 3), (2, 3, 1)),
    "not contiguous": (torch.zeros(3, 2).T, (2, 3)),
    "another dtype": (torch.zeros(2, 3, dtype=torch.int32), (2, 3)),
    "meta": (torch.zeros(2, 3, device="meta"), (2, 3)),
    "sparse": (torch.zeros(2, 3).to_sparse(), (2, 3)),
    "a subclass": (torch.zeros(2, 3).as_subclass(Tagged), (2, 3)),
    "no tensor": (np.zeros((2, 3), dtype=np.float32), (2, 3)),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_not_plain_memory_is_left_out(what: str) -> None:
    tensor, shape = OTHERS[what]
    assert _C.inspect_tensors([tensor], [shape], PREDICTED_DTYPES).tolist() == [(-1, -1, -1, -1)]


def test_plain_memory() -> None:
    tensors: list[Tensor] = [torch.zeros(2, 3, dtype=dtype) for dtype in PREDICTED_DTYPES]
    tensors += [nn.Parameter(torch.zeros(())), torch.zeros(10)[3:]]
    found = _C.inspect_tensors(tensors, [tuple(tensor.shape) for tensor in tensors], PREDICTED_DTYPES)
    assert found["address"].tolist() == [tensor.data_ptr() for tensor in tensors]
    assert found["element"].tolist() == [0, 1, 2, 3, 0, 0]
    assert found["bytes"].tolist() == [tensor.nbytes for tensor in tensors]
    assert _C.inspect_tensors([], [], PREDICTED_DTYPES).shape == (0,)
    with pytest.raises(ValueError, match="one shape for each tensor"):
        _C.inspect_tensors(tensors, [], PREDICTED_DTYPES)


def test_states_that_a_hook_makes_differentiable() -> None:
    """The decoders in C++ take numbers; what hooks of other hypernets give may be more."""
    ghn = GHN(hypernet="graphormer", layers=1, heads=2, **SMALL)
    for weight in ghn.parameters():
        weight.requires_grad_(False)
    factor = torch.ones(1, requires_grad=True)
    ghn.gnn.register_forward_hook(lambda module, args, output: output * factor)
    values_of_net = ghn(ghnfast.trace(nn.Conv2d(3, 8, 3), input_shape=(3, 9, 9)))[0]
    values_of_net["weight"].sum().backward()
    assert factor.grad is not None
    assert factor.grad.abs().sum() > 0
