"""What a prediction on a GPU launches, copies and waits for, and that its numbers are those of the definition.

The GPU is none (`helpers.counted_gpu`): this runs on every machine.
"""

from __future__ import annotations

import copy
import functools
from functools import partial
from typing import Any

import pytest
import torch
from helpers.counted_gpu import CountedGpu, Counts, values_of
from helpers.counted_predictions import GHNS, SIZES, SMALL, assert_predicted, convolutions, definition, ghn_of
from helpers.golden_models import deepnets_model
from helpers.models import torchvision_model
from torch import Tensor, nn

import ghnfast
from ghnfast.errors import BackendError, PredictError
from ghnfast.graph import ArchGraph
from ghnfast.nn import recordings, stages
from ghnfast.ops import backend

MOST_LAUNCHES = 15
# A layer of attention is two, where it is narrow.
LAUNCHES = {"ghn1": 9, "ghn2": 9, "mlp": 10, "ghn3": 14}


class Tokens(nn.Module):
    """A position encoding with a class token, an attention, and a kernel that is larger than decoders decode."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.zeros(1, side**2 + 1, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 20, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        result: Tensor = self.head(self.block(x)[:, 0])
        return result


NETWORKS = {
    "convolutions": convolutions,
    "other classes": partial(convolutions, 23),
    "tokens": partial(Tokens, 4),
    "many tokens": partial(Tokens, 8),
    "without a classifier": lambda: nn.Sequential(nn.Conv2d(3, 8, 7), nn.AdaptiveAvgPool2d(1)),
    "a bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 10)),
}
IMAGES = {"tokens": (3, 32, 32), "many tokens": (3, 64, 64), "a bias": (3, 4, 4)}


def assert_waits_for_the_verdict_alone(counts: Counts) -> None:
    assert counts.of("wait") == counts["wait for a number"] == counts["copy to the host"] == 1
    assert counts["copy to the device, waiting"] == 0


@functools.cache
def large(name: str) -> tuple[nn.Module, ArchGraph]:
    model = deepnets_model("test/36") if name == "deepnets" else torchvision_model(name)
    return model, ghnfast.trace(model, input_shape=(3, 32, 32) if name == "deepnets" else None)


@pytest.mark.parametrize("name", ["resnet50", "vit_b_16", "deepnets"])
@pytest.mark.parametrize("kind", GHNS)
def test_launches(quiet_gpu: CountedGpu, monkeypatch: pytest.MonkeyPatch, kind: str, name: str) -> None:
    monkeypatch.setattr(recordings, "AFTER", 3)
    model, graph = large(name)
    ghn = quiet_gpu.put(ghn_of({**GHNS[kind], "num_classes": 10 if name == "deepnets" else 1000}))
    models = [quiet_gpu.put(copy.deepcopy(model)) for _ in range(2)]
    found = []
    for each in (models[0], models[0], models[1]):
        with quiet_gpu.counting() as counts:
            ghn.predict(each, graph=graph)
        assert_waits_for_the_verdict_alone(counts)
        found.append(counts)
    first, again, other = found
    # Tables come in one copy, before the first kernel; only the one for the bias of attention needs one of its own.
    assert first["copy to the device"] == (2 if kind == "ghn3" else 1)
    assert next(iter(first)) == "copy to the device"
    assert again["copy to the device"] == 0
    assert other["copy to the device"] == 1
    assert again.launches == LAUNCHES[kind]
    assert other.launches == LAUNCHES[kind] + 1
    if kind != "ghn3":
        assert first.launches <= MOST_LAUNCHES
    assert other.launches <= MOST_LAUNCHES
    assert again.of("torch") == 0


@pytest.mark.parametrize(
    ("kind", "network"),
    [*(("ghn2", network) for network in NETWORKS), *((kind, "tokens") for kind in SMALL if kind != "ghn2")],
)
def test_predictions_are_those_of_the_definition(gpu: CountedGpu, kind: str, network: str) -> None:
    model, ghn = NETWORKS[network](), ghn_of(SMALL[kind])
    graph = ghnfast.trace(model, input_shape=IMAGES.get(network, (3, 16, 16)))
    wanted = definition(ghn, model, graph)
    on_gpu, moved = gpu.put(copy.deepcopy(ghn)), gpu.put(model)
    with gpu.counting() as counts:
        on_gpu.predict(moved, graph=graph)
    assert_waits_for_the_verdict_alone(counts)
    assert_predicted(moved, wanted)


@pytest.mark.parametrize(("hid", "heads"), [(24, 3), (40, 5), (72, 8)])
def test_widths_of_layers_of_attention(gpu: CountedGpu, hid: int, heads: int) -> None:
    """Those that are no power of two: masked in a launch for each layer, and beyond that, in tiles."""
    model, ghn = convolutions(), ghn_of({**SMALL["ghn3"], "hid": hid, "heads": heads})
    graph = ghnfast.trace(model, input_shape=(3, 16, 16))
    wanted = definition(ghn, model, graph)
    on_gpu, moved = gpu.put(copy.deepcopy(ghn)), gpu.put(model)
    on_gpu.predict(moved, graph=graph)
    assert_predicted(moved, wanted)


def test_wide_layers_of_attention(gpu: CountedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their tiles are shared out, five launches a layer."""
    monkeypatch.setattr(stages, "NARROW", 4)
    model, ghn = NETWORKS["tokens"](), ghn_of(SMALL["ghn3"])
    graph = ghnfast.trace(model, input_shape=IMAGES["tokens"])
    wanted = definition(ghn, model, graph)
    on_gpu, moved = gpu.put(copy.deepcopy(ghn)), gpu.put(model)
    on_gpu.predict(moved, graph=graph)
    with gpu.counting() as counts:
        on_gpu.predict(moved, graph=graph)
    assert counts.launches == LAUNCHES["ghn3"] - 3 * 2 + 2 * 5
    assert_predicted(moved, wanted)


@pytest.mark.parametrize("kind", ["ghn2", "ghn3"])
def test_what_is_kept_is_renewed_with_the_weights(gpu: CountedGpu, kind: str) -> None:
    model, ghn = convolutions(), ghn_of(SMALL[kind])
    graph = ghnfast.trace(model, input_shape=(3, 16, 16))
    on_gpu, moved = gpu.put(copy.deepcopy(ghn)), gpu.put(copy.deepcopy(model))
    on_gpu.predict(moved, graph=graph)
    with torch.no_grad():
        for parameter, own in zip(on_gpu.parameters(), ghn.parameters(), strict=True):
            parameter.mul_(0.7)
            own.mul_(0.7)
    for most in (LAUNCHES[kind] + 8, LAUNCHES[kind]):
        with gpu.counting() as counts:
            on_gpu.predict(moved, graph=graph)
        assert counts.launches <= most
        assert counts["copy to the device"] == 0
        assert_waits_for_the_verdict_alone(counts)
        assert_predicted(moved, definition(ghn, model, graph))


def test_graphs_in_turns(gpu: CountedGpu) -> None:
    """What is kept of each stays with it; lists of models, which are batches of their own, come between."""
    ghn = ghn_of(SIZES)
    on_gpu = gpu.put(copy.deepcopy(ghn))
    plain = [convolutions(), convolutions(7)]
    graphs = [ghnfast.trace(each, input_shape=(3, 32, 32)) for each in plain]
    wanted = [definition(ghn, *each) for each in zip(plain, graphs, strict=True)]
    moved = [gpu.put(copy.deepcopy(each)) for each in plain]
    for turn in range(2):
        for model, graph, values in zip(moved, graphs, wanted, strict=True):
            with gpu.counting() as counts:
                on_gpu.predict(model, graph=graph)
            assert counts["copy to the device"] == (turn == 0)
            assert_predicted(model, values)
        if turn == 0:
            with gpu.counting() as counts:
                on_gpu.predict(moved, graph=graphs)
            assert_waits_for_the_verdict_alone(counts)
            for model, values in zip(moved, wanted, strict=True):
                assert_predicted(model, values)


def test_two_ghns_for_a_graph(gpu: CountedGpu) -> None:
    """Of equal requests, and other widths: what is kept of the one is not taken for the other."""
    model = convolutions()
    graph = ghnfast.trace(model, input_shape=(3, 16, 16))
    ghns = [ghn_of(SIZES), ghn_of({**SMALL["ghn1"], "weight_norm": True, "hid": 12})]
    on_gpu = [gpu.put(copy.deepcopy(ghn)) for ghn in ghns]
    for _ in range(2):
        for ghn, moved_ghn in zip(ghns, on_gpu, strict=True):
            moved = gpu.put(copy.deepcopy(model))
            moved_ghn.predict(moved, graph=graph)
            assert_predicted(moved, definition(ghn, model, graph))


def test_without_the_classifier(gpu: CountedGpu) -> None:
    model, ghn = convolutions(), ghn_of(SIZES)
    graph = ghnfast.trace(model, input_shape=(3, 16, 16))
    wanted = definition(ghn, model, graph)
    wanted |= {name: value.detach() for name, value in model[-1].named_parameters(prefix=str(len(model) - 1))}
    moved = gpu.put(copy.deepcopy(model))
    gpu.put(ghn).predict(moved, graph=graph, classifier=False)
    assert_predicted(moved, wanted)


def test_a_second_stream(quiet_gpu: CountedGpu) -> None:
    """It waits for what was made on the first, and its memory is marked as used."""
    gpu = quiet_gpu
    ghn, model = gpu.put(ghn_of(SIZES)), gpu.put(convolutions())
    graph = ghnfast.trace(convolutions(), input_shape=(3, 16, 16))
    ghn.predict(model, graph=graph)
    assert not gpu.streams[0].waited_for
    gpu.used.clear()
    with gpu.on_stream(1) as stream, gpu.counting() as counts:
        ghn.predict(model, graph=graph)
    assert_waits_for_the_verdict_alone(counts)
    assert len(stream.waited_for) >= 2  # for tables, and for what is computed of weights
    assert {each for _, each in gpu.used} == {stream}
    assert len({memory for memory, _ in gpu.used}) >= 2


@pytest.mark.parametrize(
    ("where", "value"), [("gnn.mlp.fc.0.weight", float("inf")), ("primitive_embedding.weight", float("nan"))]
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, which interprets the kernels
def test_weights_that_are_not_finite_are_named(gpu: CountedGpu, where: str, value: float) -> None:
    ghn, model = ghn_of(SIZES), gpu.put(convolutions())
    graph = ghnfast.trace(convolutions(), input_shape=(3, 16, 16))
    ghn.get_parameter(where).data.view(-1)[-1] = value
    before = {name: tensor.clone() for name, tensor in values_of(model).items()}
    with pytest.raises(PredictError, match=rf"these weights of GHN are not finite: {where};"):
        gpu.put(ghn).predict(model, graph=graph)
    assert all(torch.equal(tensor, before[name]) for name, tensor in values_of(model).items())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_values_that_are_not_finite_are_named(gpu: CountedGpu) -> None:
    ghn, model = ghn_of(SIZES), gpu.put(convolutions())
    graph = ghnfast.trace(convolutions(), input_shape=(3, 16, 16))
    with torch.no_grad():
        ghn.decoder.conv[2].weight.fill_(3e38)
    before = {name: tensor.clone() for name, tensor in values_of(model).items()}
    with pytest.raises(PredictError, match="the values predicted for"):
        gpu.put(ghn).predict(model, graph=graph)
    assert all(torch.equal(tensor, before[name]) for name, tensor in values_of(model).items())


@pytest.mark.parametrize("kind", SMALL)
def test_a_captured_prediction(quiet_gpu: CountedGpu, kind: str) -> None:
    """Nothing is uploaded and nobody waits; without a call before, that is said."""
    gpu = quiet_gpu
    ghn, model = gpu.put(ghn_of(SMALL[kind])), gpu.put(convolutions())
    graph = ghnfast.trace(convolutions(), input_shape=(3, 16, 16))
    gpu.capturing = True
    with pytest.raises(BackendError, match="the same call, on the same tensors, must have come before"):
        ghn.predict(model, graph=graph)
    gpu.capturing = False
    ghn.predict(model, graph=graph)
    gpu.capturing = True
    with gpu.counting() as counts:
        ghn.predict(model, graph=graph)
    assert counts.of("wait") == counts.of("copy") == 0


def test_states_from_the_host(gpu: CountedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's states take the place of the sweep, normalized as they are."""
    monkeypatch.delenv("GHNFAST_BACKEND")
    monkeypatch.setenv("GHNFAST_SWEEP", "cpp")
    model, ghn = convolutions(), ghn_of(SIZES)
    graph = ghnfast.trace(model, input_shape=(3, 16, 16))
    wanted = definition(ghn, model, graph)
    on_gpu, moved = gpu.put(copy.deepcopy(ghn)), gpu.put(model)
    on_gpu.predict(moved, graph=graph)
    assert_predicted(moved, wanted)
    with gpu.counting() as counts:
        on_gpu.predict(moved, graph=graph)
    assert_waits_for_the_verdict_alone(counts)
    assert counts["kernel sweep_kernel"] == 0
    assert counts["copy to the device"] == 1
    assert counts.launches == LAUNCHES["ghn2"]


def hooked(ghn: ghnfast.GHN) -> None:
    ghn.decoder.conv[0].register_forward_hook(lambda module, args, output: 2 * output)


def strided(ghn: ghnfast.GHN) -> None:
    layer = ghn.decoder_1d.fc[0]
    layer.weight = nn.Parameter(layer.weight.detach().T.contiguous().T)


@pytest.mark.parametrize("change", [hooked, strided])
def test_what_kernels_do_not_do_is_left_to_the_modules(gpu: CountedGpu, change: Any) -> None:
    ghn, model = ghn_of(SIZES), convolutions()
    graph = ghnfast.trace(model, input_shape=(3, 16, 16))
    change(ghn)
    wanted = definition(ghn, model, graph)
    moved = gpu.put(copy.deepcopy(model))
    on_gpu = gpu.put(ghn)
    if change is strided:
        layer = on_gpu.decoder_1d.fc[0]
        assert layer.weight.is_contiguous() is False
    on_gpu.predict(moved, graph=graph)
    assert_predicted(moved, wanted)


@pytest.mark.parametrize("kind", SMALL)
def test_values_without_a_model(gpu: CountedGpu, kind: str) -> None:
    """Of two graphs in a batch, where nobody differentiates: by the same kernels, the numbers of the definition."""
    models, ghn = [convolutions(), convolutions(23)], ghn_of(SMALL[kind])
    graphs = [ghnfast.trace(model, input_shape=(3, 16, 16)) for model in models]
    on_gpu = gpu.put(copy.deepcopy(ghn))
    with torch.no_grad(), gpu.counting() as counts:
        found = on_gpu(graphs)
    assert counts.of("wait") == 0
    assert counts.of("kernel") == counts.launches - counts.of("copy") - counts.of("torch") <= LAUNCHES[kind]
    for model, graph, values in zip(models, graphs, found, strict=True):
        for name, wanted in definition(ghn, model, graph).items():
            torch.testing.assert_close(values[name].held, wanted, rtol=1e-5, atol=1e-6)


def test_gpus_of_amd_are_left_to_torch(monkeypatch: pytest.MonkeyPatch, quiet_gpu: CountedGpu) -> None:
    """Which torch calls "cuda", too, and whose numbers of capabilities are as large."""
    tensor = torch.zeros(3, device="cuda")
    monkeypatch.delenv("GHNFAST_BACKEND")
    assert backend.backend_for(tensor) == "triton"
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert backend.backend_for(tensor) == "torch"
    monkeypatch.setenv("GHNFAST_BACKEND", "triton")
    with pytest.raises(BackendError, match="NVIDIA's GPUs of compute capability"):
        backend.backend_for(tensor)
