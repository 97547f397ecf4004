"""A GHN as a torch module: what tools that walk, wrap, shard, copy and store modules expect of it."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.golden_data import GHN_NAMES, closed_form_weights, golden
from helpers.models import torchvision_model
from torch import Tensor, nn
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

import ghnfast
from ghnfast import GHN, ArchGraph, CheckpointError
from ghnfast.checkpoints import Checkpoint
from ghnfast.nn import from_checkpoint

SMALL: dict[str, Any] = {"max_shape": (8, 8, 3, 3), "num_classes": 10, "hid": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "ghn2": {},
    "ghn1": {"ve": False, "layernorm": False, "weight_norm": False},
    "mlp": {"hypernet": "mlp"},
}
Parameters = list[dict[str, Tensor]]


def make_ghn(config: str = "ghn2", seed: int = 0) -> GHN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GHN(**SMALL, **CONFIGS[config])


@pytest.fixture(scope="module")
def graph() -> ArchGraph:
    return ghnfast.trace(torchvision_model("squeezenet1_1", num_classes=10), input_shape=(3, 64, 64))


def assert_same(found: Parameters, wanted: Parameters) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_name_leads_to_what_it_names(config: str) -> None:
    ghn = make_ghn(config)
    for name, module in ghn.named_modules():
        assert ghn.get_submodule(name) is module
        for own, child in module.named_children():
            assert getattr(module, own) is child
    for name, parameter in ghn.named_parameters():
        assert ghn.get_parameter(name) is parameter
        assert ghn.state_dict(keep_vars=True)[name] is parameter
    assert callable(GHN.embed)


@pytest.mark.parametrize("config", CONFIGS)
def test_functional_call_computes_with_the_weights_given(config: str, graph: ArchGraph) -> None:
    ghn, other = make_ghn(config), make_ghn(config, seed=1)
    weights = {name: value.clone().requires_grad_() for name, value in other.state_dict().items()}
    found = torch.func.functional_call(ghn, weights, (graph,))
    assert_same(found, other(graph))
    sum(value.sum() for value in found[0].values()).backward()
    assert all(value.grad is not None for value in weights.values())
    assert all(parameter.grad is None for parameter in ghn.parameters())


def through_a_buffer(ghn: GHN) -> GHN:
    file = io.BytesIO()
    torch.save(ghn, file)
    file.seek(0)
    result: GHN = torch.load(file, weights_only=False)
    return result


def through_a_pickle(ghn: GHN) -> GHN:
    result: GHN = pickle.loads(pickle.dumps(ghn))
    return result


@pytest.mark.parametrize("made", [copy.deepcopy, through_a_pickle, through_a_buffer])
@pytest.mark.parametrize("config", CONFIGS)
def test_copies_are_whole(config: str, made: Callable[[GHN], GHN], graph: ArchGraph) -> None:
    ghn = make_ghn(config)
    other = made(ghn)
    wanted = ghn(graph)
    assert_same(other(graph), wanted)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not any(value.any() for value in other(graph)[0].values() if value.ndim == 4)
    assert_same(ghn(graph), wanted)
    other.load_state_dict(from_published(ghn))
    assert_same(other(graph), wanted)


def from_published(ghn: GHN) -> dict[str, Tensor]:
    """A GHN's weights under published names."""
    return {("embed.weight" if n == "primitive_embedding.weight" else n): v for n, v in ghn.state_dict().items()}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_distributed_checkpoints(tmp_path: Path, graph: ArchGraph) -> None:
    ghn, other = make_ghn(), make_ghn(seed=1)
    state = get_model_state_dict(ghn)
    assert list(state) == list(ghn.state_dict())
    distributed_checkpoint.save(state, checkpoint_id=tmp_path, no_dist=True)  # type: ignore[attr-defined]
    loaded = get_model_state_dict(other)
    distributed_checkpoint.load(loaded, checkpoint_id=tmp_path, no_dist=True)  # type: ignore[attr-defined]
    set_model_state_dict(other, loaded)
    assert_same(other(graph), ghn(graph))


# What tools put in the place of layers -------------------------------------------------------------------------------


class LowRank(nn.Module):
    """A layer and a low-rank addition to it, as LoRA (Hu et al., ICLR 2022) has it; without attributes of the layer."""

    def __init__(self, base: nn.Module, rank: int = 2) -> None:
        super().__init__()
        self.base = base
        self.is_convolution = isinstance(base, nn.Conv2d)
        outputs, inputs = base.weight.flatten(1).shape
        self.a, self.b = nn.Parameter(torch.randn(rank, inputs)), nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        change = self.b @ self.a
        more = nn.functional.conv2d(x, change[..., None, None]) if self.is_convolution else x @ change.T
        base: Tensor = self.base(x)
        return base + more


def adapt(ghn: GHN) -> list[LowRank]:
    """Replaces every linear layer and convolution, as peft does: through the parent that the name has."""
    adapters = []
    for name, module in list(ghn.named_modules()):
        if type(module) in (nn.Linear, nn.Conv2d):
            parent, _, own = name.rpartition(".")
            adapters.append(LowRank(module))
            setattr(ghn.get_submodule(parent), own, adapters[-1])
    return adapters


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("config", CONFIGS)
def test_low_rank_adapters(config: str, graph: ArchGraph) -> None:
    ghn = make_ghn(config)
    before = ghn(graph)
    adapters = adapt(ghn)
    assert len(adapters) >= 9
    assert_same(ghn(graph), before)  # as `b` is zero
    sum(value.square().sum() for value in ghn(graph)[0].values()).backward()
    assert all(adapter.b.grad is not None and adapter.b.grad.any() for adapter in adapters)
    for adapter in adapters:
        nn.init.normal_(adapter.b, std=0.1)
    merged = make_ghn(config)
    layers = [module for module in merged.modules() if type(module) in (nn.Linear, nn.Conv2d)]
    with torch.no_grad():
        for layer, adapter in zip(layers, adapters, strict=True):
            layer.weight += (adapter.b @ adapter.a).view_as(layer.weight)  # type: ignore[ arg-type]
    assert_same(ghn(graph), merged(graph))


def test_adapters_count_in_predictions() -> None:
    ghn, plain = make_ghn().eval(), make_ghn().eval()
    model, other = (torchvision_model("resnet18", num_classes=10) for _ in range(2))
    plain.predict(model)
    for adapter in adapt(ghn):
        nn.init.normal_(adapter.b, std=0.1)
    ghn.predict(other)
    assert not torch.allclose(model.layer4[0].conv1.weight, other.layer4[0].conv1.weight, rtol=1e-2)
    wanted = ghn(ghnfast.trace(other))[0]
    parameters = dict(other.named_parameters())
    assert_same([{name: parameters[name] for name in wanted}], [wanted])


def test_what_changes_weights_before_a_call_is_asked(graph: ArchGraph) -> None:
    ghn = make_ghn()
    before = ghn(graph)
    for module in list(ghn.modules()):
        if type(module) is nn.Linear:
            nn.utils.parametrizations.weight_norm(module)
    assert_same(ghn(graph), before)
    with torch.no_grad():
        for module in ghn.modules():
            if isinstance(module, nn.Linear):
                module.parametrizations.weight.original0.mul_(2)
    doubled = make_ghn()
    with torch.no_grad():
        for module in doubled.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(2)
    assert_same(ghn(graph), doubled(graph))


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GHN_NAMES)
def test_published_weights_load_into_a_ghn(name: str) -> None:
    entry = golden("checkpoints")[name]
    weights = closed_form_weights(entry["state_dict"])
    ghn, wrapped = (GHN(**{**entry["config"], "max_shape": tuple(entry["config"]["max_shape"])}) for _ in range(2))
    given = dict(weights)
    assert str(ghn.load_state_dict(given)) == "<All keys matched successfully>"
    assert given.keys() == weights.keys()
    assert torch.equal(ghn.primitive_embedding.weight, weights["embed.weight"])
    holder = nn.ModuleDict({"own": wrapped})
    holder.load_state_dict({f"own.{key}": value for key, value in weights.items()})
    assert all(map(torch.equal, wrapped.state_dict().values(), ghn.state_dict().values()))
    with pytest.raises(RuntimeError, match="primitive_embedding"):
        ghn.load_state_dict({key: value for key, value in weights.items() if key != "embed.weight"})


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_have_published_names(tmp_path: Path, suffix: str) -> None:
    ghn, path = make_ghn(), tmp_path / f"ghn{suffix}"
    ghn.save(path)
    names = set(ghnfast.checkpoints.read(path).state_dict)
    assert names == set(from_published(ghn))
    assert names == set(golden("checkpoints")["ghn2-cifar10"]["state_dict"])
    loaded = ghnfast.load(path)
    assert all(map(torch.equal, loaded.state_dict().values(), ghn.state_dict().values()))


def test_a_file_with_own_names_loads(tmp_path: Path) -> None:
    ghn = make_ghn()
    torch.save({"state_dict": ghn.state_dict(), "config": ghn.config, "epoch": 1}, tmp_path / "ghn.pt")
    loaded = ghnfast.load(tmp_path / "ghn.pt")
    assert all(map(torch.equal, loaded.state_dict().values(), ghn.state_dict().values()))


def test_a_weight_under_both_names_is_refused() -> None:
    ghn = make_ghn()
    both = {**ghn.state_dict(), **from_published(ghn)}
    with pytest.raises(CheckpointError, match=r"unexpected keys: primitive_embedding\.weight"):
        from_checkpoint(Checkpoint(ghn.config, both, "both"))
    with pytest.raises(RuntimeError, match=r"embed\.weight"):
        ghn.load_state_dict(both)
