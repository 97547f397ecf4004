"""What a GHN is made of can come from outside: a hypernet and a decoder that only this file knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghnfast
from ghnfast import _C, GHN
from ghnfast.graph import GraphBatch
from ghnfast.nn import DECODERS, HYPERNETS, Decoder, GHNConfig, Hypernet
from ghnfast.nn.linear import LayerWeights
from ghnfast.prediction import Sizes
from ghnfast.randomness import drawing_from
from ghnfast.training import make_config, train

SETTINGS: dict[str, Any] = {"max_shape": (8, 8, 3, 3), "num_classes": 10, "hid": 8, "layers": 1, "heads": 2}


class Neighbours(Hypernet):
    """Each state and the mean of those that its node reads, mixed."""

    def __init__(self, config: GHNConfig) -> None:
        super().__init__(config)
        self.mix = nn.Linear(2 * config.hid, config.hid)

    def forward(self, states: Tensor, batch: GraphBatch) -> Tensor:
        read = torch.zeros_like(states)
        for graph, offset in zip(batch.graphs, batch.offsets, strict=False):
            sources, targets = (torch.from_numpy(ends.copy()).long() + int(offset) for ends in graph.edges.T)
            counts = torch.zeros(len(states)).index_add(0, targets, torch.ones(len(targets))).clamp(min=1)
            read = read + torch.zeros_like(states).index_add(0, targets, states[sources]) / counts[:, None]
        mixed: Tensor = self.mix(torch.cat([states, read], 1))
        return mixed


class OuterProducts(Decoder):
    """Matrices of rank 1, the same in every cell, larger ones repeated; nothing is a product of the last step."""

    def __init__(self, config: GHNConfig) -> None:
        super().__init__(config)
        rows, columns, cells, _ = config.max_shape
        self.request = Sizes(rows, columns, cells, config.num_classes, config.weight_norm, products=False)
        self.left, self.right = nn.Linear(config.hid, max(rows, config.num_classes)), nn.Linear(config.hid, columns)

    @property
    def last(self) -> LayerWeights:
        weight = self.left.weight
        return LayerWeights(weight.new_zeros(1, 1, 4), weight.new_zeros(1, 1))

    def hidden_rows(self, calls: Sequence[_C.DecoderCall], states: Sequence[Tensor]) -> Tensor:
        return self.left.weight.new_zeros(0, 4)

    def blocks(self, call: _C.DecoderCall, states: Tensor) -> Tensor:
        matrix = self.left(states)[:, : call.rows, None] * self.right(states)[:, None, : call.columns]
        if call.decoder == ghnfast.prediction.DecoderKind.CLASS_WEIGHT or call.cells == 1:
            return matrix
        return matrix[..., None, None].expand(-1, -1, -1, call.height, call.width)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    HYPERNETS["neighbours"], DECODERS["outer"] = Neighbours, OuterProducts
    yield
    del HYPERNETS["neighbours"], DECODERS["outer"]


PAIRS = [("gatedgnn", "outer"), ("mlp", "outer"), ("graphormer", "outer")]
PAIRS += [("neighbours", "conv"), ("neighbours", "outer")]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.large = nn.Conv2d(12, 16, 5, padding=2)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.large(F.relu(self.norm(self.stem(x))))).mean((2, 3)))


@pytest.mark.parametrize(("hypernet", "decoder"), PAIRS)
def test_a_registered_part_predicts_saves_and_loads(hypernet: str, decoder: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ghn = GHN(**SETTINGS, hypernet=hypernet, decoder=decoder).eval()
    model = Network()
    graph = ghnfast.trace(model, input_shape=(3, 16, 16))
    before = {name: value.clone() for name, value in model.named_parameters()}
    _, report = ghn.predict(model, graph=graph, report=True)
    assert report.coverage == 1
    predicted = {name: value.clone() for name, value in model.named_parameters()}
    assert not any(torch.equal(value, before[name]) for name, value in predicted.items())
    differentiable = ghn(graph)[0]
    for name, value in predicted.items():
        torch.testing.assert_close(value, differentiable[name].detach(), rtol=1e-5, atol=1e-6)
    if decoder == "outer":  # what the toy says of itself holds
        assert torch.linalg.matrix_rank(predicted["head.weight"][:8, :8]) == 1
        torch.testing.assert_close(predicted["large.weight"][8:], predicted["large.weight"][:8])
    for path in (tmp_path / "ghn.pt", tmp_path / "ghn.safetensors"):
        ghn.save(path)
        loaded = ghnfast.load(path)
        assert loaded.config == ghn.config
        other = loaded.predict(Network(), graph=graph)
        assert all(torch.equal(value, predicted[name]) for name, value in other.named_parameters())


@pytest.mark.parametrize(("hypernet", "decoder"), PAIRS)
def test_a_registered_part_trains(hypernet: str, decoder: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "hypernet": hypernet, "decoder": decoder, "data": "mnist5k", "steps": 2, "meta_batch": 1}
    settings |= {"batch_size": 4, "networks": 3, "num_ch": (8, 8), "fc_dim": (16, 16), "save_every": 1}
    settings.pop("num_classes")
    path = train(make_config(settings), tmp_path / "run")
    trained = ghnfast.load(path)
    assert (trained.settings.hypernet, trained.settings.decoder) == (hypernet, decoder)
    with drawing_from(0):  # the seed of the run
        first = GHN(**trained.config)
    for part in ("gnn", "decoder", "decoder_1d"):
        before, after = first.get_submodule(part), trained.get_submodule(part)
        pairs = list(zip(before.parameters(), after.parameters(), strict=True))
        moved = [float((a - b).detach().abs().max()) for a, b in pairs]
        # A step of Adam is about as large as the learning rate; other random numbers would be far away.
        assert 0 < max(moved) < 0.1, part


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ghnfast.ConfigError, match=r"hypernet is .mine.; .*.gatedgnn.,.* and .neighbours. are"):
        GHN(**SETTINGS, hypernet="mine")


def test_a_part_that_lacks_something_is_not_made() -> None:
    class Nothing(Hypernet):
        pass

    HYPERNETS["nothing"] = Nothing  # type: ignore[type-abstract]
    try:
        with pytest.raises(TypeError, match="forward"):
            GHN(**SETTINGS, hypernet="nothing")
    finally:
        del HYPERNETS["nothing"]


@pytest.mark.parametrize("kind", [None, "Linear", object, nn.Linear, lambda config: Neighbours(config), Neighbours])
def test_what_is_no_part(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for setting, known in (("hypernet", HYPERNETS), ("decoder", DECODERS)):
        if setting == "hypernet" and kind is Neighbours:
            continue
        monkeypatch.setitem(known, "own", kind)
        with pytest.raises(ghnfast.ConfigError, match=rf"{setting} 'own' is .*; a subclass of ghnfast\.nn\.\w+ is"):
            GHN(**{**SETTINGS, setting: "own"})
        monkeypatch.delitem(known, "own")


WRONG_STATES: dict[str, Any] = {
    "fewer nodes": lambda states: states[:-1],
    "fewer numbers": lambda states: states[:, :4],
    "another dimension": lambda states: states[None],
    "nothing": lambda states: None,
    "an array": lambda states: states.detach().numpy(),
    "a pair": lambda states: (states, states),
}


@pytest.mark.parametrize("layernorm", [True, False])
@pytest.mark.parametrize("case", WRONG_STATES)
def test_states_that_are_none(case: str, layernorm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said as what it is, and no parameter has changed."""

    class Wrong(Hypernet):
        def forward(self, states: Tensor, batch: GraphBatch) -> Tensor:
            found: Tensor = WRONG_STATES[case](states)
            return found

    monkeypatch.setitem(HYPERNETS, "wrong", Wrong)
    ghn, model = GHN(**SETTINGS, hypernet="wrong", layernorm=layernorm), nn.Conv2d(3, 8, 3)
    before, graph = model.weight.detach().clone(), ghnfast.trace(model, input_shape=(3, 8, 8))
    for call in (lambda: ghn.predict(model, graph=graph), lambda: ghn.embed(graph), lambda: ghn([graph])):
        with pytest.raises(ghnfast.ConfigError, match=r"the hypernet Wrong gives .*; a tensor of states \(\d+, 8\)"):
            call()
    assert model.weight.equal(before)
