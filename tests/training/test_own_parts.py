"""GHNs with a hypernet of one's own: it draws, counts, averages, keeps tables, and has weights that are not trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import FAST, tiny_config
from torch import Tensor, nn

import ghnfast
from ghnfast.graph import GraphBatch
from ghnfast.nn import HYPERNETS, GHNConfig, Hypernet
from ghnfast.training import ImageData, Trainer, train
from ghnfast.training.data import Batches
from ghnfast.training.folder import read_checkpoint
from ghnfast.training.networks import MetaBatches
from ghnfast.training.run import make_dataset, make_ghn
from ghnfast.training.start import start_from_identity


class Rich(Hypernet):
    calls: Tensor

    def __init__(self, config: GHNConfig) -> None:
        super().__init__(config)
        self.mix, self.drop = nn.Linear(config.hid, config.hid), nn.Dropout(0.3)
        self.norm = nn.BatchNorm1d(config.hid)
        self.frozen = nn.Linear(config.hid, config.hid).requires_grad_(False)
        self.exact = nn.Linear(config.hid, config.hid, dtype=torch.float64)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("table", torch.arange(config.hid).float().sin(), persistent=False)
        self.plain = torch.full((config.hid,), 0.5)
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, config.layers)]

    def forward(self, states: Tensor, batch: GraphBatch) -> Tensor:
        if self.training:
            self.calls += 1
        mixed = self.norm(self.mix(self.drop(states))) + self.table * self.plain
        found: Tensor = self.frozen(mixed) + self.exact(mixed.double()).float()
        return found


OWN: dict[str, Any] = {"hypernet": "rich", "nets": "vit", "members": 4}


class Stop(Exception):
    pass


@pytest.fixture(autouse=True)
def rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HYPERNETS, "rich", Rich)


@pytest.mark.usefixtures("quick")
def test_a_run_goes_on_and_its_ghn_is_loaded(few_images: ImageData, tmp_path: Path) -> None:
    """Whatever numbers torch's generators are at; what is not trained stays; the file has all that there is."""
    config = tiny_config(**FAST | OWN | {"steps": 2, "save_every": 1})
    torch.manual_seed(1)
    state = torch.get_rng_state()
    path = train(config, tmp_path / "whole", progress=False)
    assert state.equal(torch.get_rng_state())

    def stop(entry: dict[str, float]) -> None:
        if entry["step"] == 2:
            raise Stop

    torch.manual_seed(2)
    with pytest.raises(Stop):
        train(config, tmp_path / "other", progress=False, callbacks=[stop])
    torch.manual_seed(3)
    other = train(config, tmp_path / "other", progress=False)
    assert path.read_bytes() == other.read_bytes()

    ghn, checkpoint = ghnfast.load(path), read_checkpoint(tmp_path / "whole")
    assert checkpoint is not None
    loaded, trained = ghn.state_dict(), checkpoint["ghn"]
    assert {name: value.dtype for name, value in loaded.items()} == {name: t.dtype for name, t in trained.items()}
    for name, value in trained.items():  # read as float32, which `exact` is then computed from
        torch.testing.assert_close(loaded[name], value, rtol=1e-6, atol=0)
    assert loaded["gnn.calls"] == 2
    first = make_ghn(config, few_images)
    assert loaded["gnn.frozen.weight"].equal(first.state_dict()["gnn.frozen.weight"])
    ghn.predict(nn.Sequential(nn.Conv2d(3, 8, 32), nn.Flatten(), nn.Linear(8, 10)), input_shape=(3, 32, 32))


def test_a_step_without_an_update_counts_nothing(few_images: ImageData) -> None:
    config = tiny_config(**OWN)
    trainer = Trainer(make_ghn(config, few_images), config, steps=2)
    networks = MetaBatches(make_dataset(config, few_images), config.meta_batch, config.max_nodes, config.seed)
    images, labels = Batches(few_images.train, 4, 0)[0]
    before = [buffer.clone() for buffer in trainer.ghn.buffers()]
    assert trainer.train_step(images * float("nan"), labels, networks[0]).skipped
    assert all(map(torch.equal, before, trainer.ghn.buffers()))
    assert not trainer.train_step(images, labels, networks[0]).skipped
    assert not all(map(torch.equal, before, trainer.ghn.buffers()))


def test_the_start_from_identities_draws_nothing_from_others(few_images: ImageData) -> None:
    config = tiny_config(**OWN)
    dataset, state = make_dataset(config, few_images), torch.get_rng_state()
    start_from_identity(make_ghn(config, few_images), dataset, 1, 0)
    assert state.equal(torch.get_rng_state())


def test_what_no_file_can_have_is_said_before_any_work(few_images: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rich, "get_extra_state", lambda self: {"calls": 3})
    with pytest.raises(ghnfast.CheckpointError, match=r"that the run would end with has 'gnn\._extra_state'"):
        make_ghn(tiny_config(**OWN), few_images)
