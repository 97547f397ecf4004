"""What fine-tuning starts from: its images, and parameters of all kinds."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.finetuning import Small, dark_and_light, job_of, started
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

import ghnfast
from ghnfast import checkpoints
from ghnfast.errors import CheckpointError, TrainingError
from ghnfast.training import ImageData
from ghnfast.training.inits import init_of
from ghnfast.training.shots import Chosen, shots_of


@pytest.fixture
def data() -> ImageData:
    return dark_and_light()


@pytest.fixture(scope="module")
def ghn() -> ghnfast.GHN:
    torch.manual_seed(0)
    return ghnfast.GHN(max_shape=(8, 8, 3, 3), num_classes=5, hid=8).eval()


# Images --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.integers(1, 40), st.none() | st.integers(1, 10))
def test_shots(labels: list[int], held_out: int, shots: int | None) -> None:
    given = torch.tensor(labels)
    try:
        kept, held = shots_of(given, shots, held_out)
    except TrainingError:
        few = min(labels.count(label) * (1 - held_out / len(labels)) - len({*labels}) for label in labels)
        assert held_out > len(labels) - len({*labels}) or few < (shots or 0)
        return
    assert {*given[kept].tolist()} == {*labels}
    assert len(held) == held_out
    assert not {*kept.tolist()} & {*held.tolist()}
    for label in {*labels}:
        everywhere = (given == label).nonzero().flatten().tolist()
        own, last = ([index for index in part.tolist() if labels[index] == label] for part in (kept, held))
        assert own == everywhere[: len(own)]  # the first ones
        assert last == everywhere[len(everywhere) - len(last) :]  # the last ones
        assert abs(len(last) - held_out * len(everywhere) / len(labels)) <= len({*labels})
        assert len(own) == (len(everywhere) - len(last) if shots is None else shots)
    assert kept.tolist() == sorted(kept.tolist())


def test_chosen_images_are_those_of_the_others(data: ImageData) -> None:
    some = Chosen(data.train, torch.tensor([5, 1, 7]))
    images, labels = some.batch([2, 0], seed=3)
    wanted, wanted_labels = data.train.batch([7, 5], seed=3)
    assert torch.equal(images, wanted)
    assert torch.equal(labels, wanted_labels)
    assert torch.equal(some.all_labels(), data.train.all_labels()[[5, 1, 7]])
    assert len(some) == 3


# Starts --------------------------------------------------------------------------------------------------------------


def test_he() -> None:
    convolution, norm, hidden, head = nn.Conv2d(3, 64, 5), nn.BatchNorm2d(64), nn.Linear(1024, 100), nn.Linear(100, 5)
    nn.init.normal_(norm.weight)
    model = nn.Sequential(convolution, norm, nn.Flatten(), hidden, head)
    before = head.weight.clone()
    init_of("he").apply(model, ghnfast.trace(model, input_shape=(3, 8, 8)), 1)
    for layer, fan_in in ((convolution, 75), (hidden, 1024)):
        assert float(layer.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
        assert float(layer.weight.detach().mean()) == pytest.approx(0, abs=0.02)
        assert layer.bias is not None
        assert not layer.bias.any()
    assert bool((norm.weight == 1).all())
    assert torch.equal(head.weight, before)


def test_heads_are_their_constructors(data: ImageData, ghn: ghnfast.GHN, tmp_path: Path) -> None:
    """Whatever the start, those of one seed are equal."""
    torch.save(Small(7).state_dict(), tmp_path / "other.pt")
    starts: list[Any] = ["own", "he", "random", "default", ghn, tmp_path / "other.pt"]
    heads = [started(data, init, 3).head.weight for init in starts]
    assert all(torch.equal(head, heads[0]) for head in heads[1:])
    assert not torch.equal(heads[0], started(data, "own", 4).head.weight)


def test_starts(data: ImageData, ghn: ghnfast.GHN) -> None:
    firsts = {name: started(data, name).first.weight for name in ("own", "he", "random", "default")}
    assert len({float(weight.detach().std()) for weight in firsts.values()}) == 4
    assert not torch.equal(firsts["random"], started(data, "random", 1).first.weight)
    network = started(data, ghn)
    wanted = ghn.predict(Small(), input_shape=(3, 8, 8), classifier=False)
    assert torch.equal(network.first.weight, wanted.first.weight)
    assert torch.equal(network.norm.bias, wanted.norm.bias)
    assert job_of(data, "default").init.name == checkpoints.DEFAULT


def test_postprocessing_comes_after_the_start(data: ImageData, ghn: ghnfast.GHN) -> None:
    plain, network = started(data, ghn), started(data, ghn, postprocess=True)
    weight = network.second.weight
    torch.testing.assert_close(weight.T @ weight, torch.eye(8), rtol=0, atol=1e-5)
    assert torch.equal(network.head.weight, plain.head.weight)
    ghnfast.postprocess(plain, seed=0)
    assert torch.equal(plain.second.weight, weight)


def without_scale(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != "scale"}


@pytest.mark.parametrize("how", ["pt", "nested", "safetensors", "mapping"])
def test_weights_of_the_model(data: ImageData, tmp_path: Path, how: str) -> None:
    torch.manual_seed(5)
    source = Small(9)
    source.norm.running_mean.fill_(3)
    state: Any = source.state_dict()
    path: Any = tmp_path / ("model.safetensors" if how == "safetensors" else "model.pt")
    if how == "safetensors":
        save_file(state, path)
    elif how == "mapping":
        path = state
    else:
        torch.save({"state_dict": state, "epoch": 3} if how == "nested" else state, path)
    network = started(data, path)
    for name, value in state.items():
        found = network.state_dict()[name]
        assert name.startswith("head.") or torch.equal(found, value), name
    assert network.head.out_features == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_scale, "has no scale; the weights of this model are accepted, with any last layer"),
        (lambda state: {**state, "third": torch.zeros(2)}, "has third, which the model has not"),
        (lambda state: {**state, "scale": torch.zeros(3)}, r"scale has the shape \(3,\), and \(64,\) in the model"),
    ],
)
def test_weights_of_other_models(
    data: ImageData, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        job_of(data, change(Small().state_dict())).network(0)


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_files_that_are_no_weights(data: ImageData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {name: tmp_path / name for name in ("harmful.pt", "text.pt", "text.safetensors", "list.pt", "wide.pt")}
    paths["harmful.pt"].write_bytes(pickle.dumps({"a": Harmful()}))
    paths["text.pt"].write_text("nothing")
    paths["text.safetensors"].write_text("nothing")
    torch.save([1, 2], paths["list.pt"])
    torch.save({"a": torch.zeros(1).expand(10**12)}, paths["wide.pt"])
    for path in (*paths.values(), tmp_path / "none.pt", tmp_path, "no such name"):
        with pytest.raises(CheckpointError, match=r"init is .*'own' .* is accepted"):
            init_of(str(path))
    assert "run" not in capsys.readouterr().out
    with pytest.raises(TrainingError, match="init is a int; 'own'"):
        init_of(3)  # type: ignore[arg-type]


def test_the_file_of_a_ghn(data: ImageData, ghn: ghnfast.GHN, tmp_path: Path) -> None:
    for name in ("ghn.safetensors", "ghn.pt"):
        ghn.save(tmp_path / name)
        network = started(data, str(tmp_path / name))
        assert torch.equal(network.first.weight, started(data, ghn).first.weight)
