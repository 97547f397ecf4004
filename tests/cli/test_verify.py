"""`ghnfast verify`: published norms beside those of predictions."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from helpers.commands import fail, run, run_json
from helpers.golden_data import golden
from helpers.hub_server import Hub, running_hub
from helpers.joblib_files import dumped, published_state, small_ghn
from torch import nn

from ghnfast.checkpoints import PUBLISHED, published
from ghnfast.cli import main
from ghnfast.cli.models import find_model
from ghnfast.cli.verify import norm_of

GHN3 = "SamsungSAILMontreal/ghn3"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub(monkeypatch, tmp_path / "cache") as running:
        running.put(GHN3, "ghn3tm8.pt", dumped(published_state(small_ghn())))
        yield running


def publish(monkeypatch: pytest.MonkeyPatch, norms: dict[str, float]) -> None:
    entry = dataclasses.replace(PUBLISHED["ghn3-t"], norms=norms)
    monkeypatch.setattr(published, "PUBLISHED", MappingProxyType({**PUBLISHED, "ghn3-t": entry}))


def norm_of_resnet18() -> float:
    model = small_ghn().eval().predict(find_model("resnet18", None)())
    return math.hypot(*(float(parameter.detach().norm()) for parameter in model.parameters()))


def test_the_norms_in_the_package_are_the_published_ones() -> None:
    everything = golden("ghn3_norms")
    found = {name: entry.norms for name, entry in PUBLISHED.items() if entry.norms}
    assert set(found) == {"ghn2-imagenet", "ghn3-t", "ghn3-xl"}
    for name, norms in found.items():
        assert len(norms) == 3
        for model, norm in norms.items():
            assert everything[model]["norms"][name] == norm


@pytest.mark.usefixtures("hub")
def test_norms_that_are_right(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    norm = norm_of_resnet18()
    publish(monkeypatch, {"resnet18": norm + 0.009})
    text = run(capsys, "verify", "ghn3-t")[0]
    assert "resnet18" in text
    assert f"{norm:.4f}" in text
    assert "ghn3-t: as published" in text
    result = run_json(capsys, "verify", "ghn3tm8")
    assert result["right"] is True
    assert result["models"][0]["norm"] == pytest.approx(norm)


@pytest.mark.usefixtures("hub")
def test_norms_that_are_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    norm = norm_of_resnet18()
    publish(monkeypatch, {"resnet18": norm - 0.011, "squeezenet1_0": 1.0})
    assert main(["verify", "ghn3-t"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("+0.0110  wrong")
    assert lines[2].endswith("wrong")
    assert "not what was published" in lines[3]
    assert main(["verify", "ghn3-t", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["right"] is False


def test_a_file_by_its_path(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: Hub
) -> None:
    (tmp_path / "by_hand.pt").write_bytes(hub.repositories[GHN3]["main"]["ghn3tm8.pt"])
    publish(monkeypatch, {"resnet18": norm_of_resnet18()})
    assert "as published" in run(capsys, "verify", "ghn3-t", "--file", str(tmp_path / "by_hand.pt"))[0]
    assert hub.asked == []


def test_what_cannot_be_verified(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ghn3-s", "ghn2-cifar10"):
        assert "has no published norms; ghn2-imagenet, ghn3-t, ghn3-xl are accepted" in fail(capsys, "verify", name)
    assert "is no published GHN" in fail(capsys, "verify", "ghn4")


def test_what_is_not_predicted_has_the_values_of_a_seed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    assert hub.repositories
    publish(monkeypatch, {"swin_t": 0.0})  # whose tables of positions are not predicted
    norms = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        main(["verify", "ghn3-t", "--json"])
        norms.append(json.loads(capsys.readouterr().out)["models"][0]["norm"])
    assert norms[0] == norms[1]


def test_the_norm_is_that_of_all_parameters() -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.bias.fill_(3.0)
    assert norm_of(model) == pytest.approx(math.sqrt(6 * 4 + 2 * 9))
