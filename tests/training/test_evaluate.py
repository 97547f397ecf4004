"""Evaluation: accuracies, batch statistics, baselines, and the command line."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import ghnfast
from ghnfast.checkpoints import TrainedOn
from ghnfast.cli import main
from ghnfast.deepnets import DeepNets1M
from ghnfast.errors import DomainWarning, TrainingError
from ghnfast.families import HELD_OUT, TRAINED, Families
from ghnfast.training import ImageData, accuracies, baseline, evaluate, format_results, recalibrated
from ghnfast.training.accuracy import STATISTICS, batches_in_order
from ghnfast.training.data import Batches
from ghnfast.training.evaluate import Evaluation, fit, other_images


@pytest.fixture(scope="module")
def ghn() -> ghnfast.GHN:
    torch.manual_seed(0)
    return ghnfast.GHN(max_shape=(8, 8, 3, 3), num_classes=10, hid=8).eval()


class Biased(nn.Module):
    """Always of the same opinion: classes in this order."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(10).index_put((torch.tensor(order),), torch.arange(10, 0, -1.0)))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.logits.expand(len(images), 10), None


def test_accuracies(few_images: ImageData) -> None:
    """Labels are 0 to 9, and 0 and 1 once more."""
    network = Biased([1, 2, 3, 4, 5, 6, 7, 8, 9, 0])
    top1, top5 = accuracies(network, few_images.test, few_images.calibration, batch_size=5)
    assert (top1, top5) == pytest.approx((100 * 2 / 12, 100 * 6 / 12))


def test_predictions_that_are_not_numbers_are_wrong(few_images: ImageData) -> None:
    network = Biased([1, 2, 3, 4, 5, 6, 7, 8, 9, 0])
    network.logits.data[1] = float("nan")
    top1, _ = accuracies(network, few_images.test, few_images.calibration)
    assert top1 == pytest.approx(100 / 12)  # class 2 is next


@pytest.mark.parametrize("batch_size", [2, 5, 12])
@pytest.mark.parametrize("value", [float("nan"), -float("nan")])
def test_networks_that_say_no_numbers_are_always_wrong(few_images: ImageData, batch_size: int, value: float) -> None:
    """Whatever the classes of the images: they would be right as often as chance is."""
    network = Biased([1, 2, 3, 4, 5, 6, 7, 8, 9, 0])
    network.logits.data.fill_(value)
    assert accuracies(network, few_images.test, few_images.calibration, batch_size=batch_size) == (0, 0)
    network.logits.data[[3, 4]] = 1.0  # and what is a number counts
    found = accuracies(network, few_images.test, few_images.calibration, batch_size=batch_size)
    assert found == pytest.approx((100 / 12, 200 / 12))


def small_channels() -> nn.Sequential:
    """One value a channel and image where it normalizes."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10))


@pytest.mark.parametrize("batch_statistics", STATISTICS)
def test_any_number_of_images_is_measured(few_images: ImageData, batch_statistics: str) -> None:
    """Also where one is left in the end, which has no batch statistics."""
    network, arguments = small_channels(), (few_images.test, few_images.calibration, batch_statistics)
    for size in range(2, 13):
        for limit in range(2, 13):
            batches = [len(labels) for _, labels in batches_in_order(few_images.test, size, limit)]
            assert sum(batches) == limit
            assert min(batches) > 1
            assert max(batches) <= size + 1
            top1, _ = accuracies(network, *arguments, size, limit=limit)
            assert top1 * limit / 100 == pytest.approx(round(top1 * limit / 100))
    if batch_statistics == "recalibrated":
        assert accuracies(network, *arguments, 1, limit=1)[0] in (0, 100)
        return
    for size, limit, name in ((1, 12, "batch_size"), (6, 1, "images")):
        with pytest.raises(TrainingError, match=f"{name} is 1, and one image has no batch statistics; 2 or more"):
            accuracies(network, *arguments, size, limit=limit)
    assert accuracies(Biased([*range(10)]), *arguments, 1, limit=1)[0] in (0, 100)


def normalized_network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


def test_statistics_of_batches_leave_the_running_ones(few_images: ImageData) -> None:
    network = normalized_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = accuracies(network, few_images.test, few_images.calibration, "batch", 6)
    network[1].running_mean.fill_(1e6)
    assert accuracies(network, few_images.test, few_images.calibration, "batch", 6) == first
    network[1].running_mean.fill_(0)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network[1].track_running_stats


@pytest.mark.parametrize("tracks", [True, False])
def test_recalibrated_statistics_are_means_over_batches(few_images: ImageData, tracks: bool) -> None:
    network = normalized_network()
    if not tracks:
        network[1] = nn.BatchNorm2d(4, track_running_stats=False)
    batches = Batches(few_images.calibration, 4, 0)
    found = recalibrated(network, batches, count=3)
    with torch.no_grad():
        features = [network[0](batches[number][0]) for number in range(3)]
    mean = torch.stack([feature.mean((0, 2, 3)) for feature in features]).mean(0)
    variance = torch.stack([feature.var((0, 2, 3)) for feature in features]).mean(0)
    torch.testing.assert_close(found[1].running_mean, mean)
    torch.testing.assert_close(found[1].running_var, variance)
    assert network[1].running_mean is None or torch.equal(network[1].running_mean, torch.zeros(4))  # type: ignore[arg-type]
    assert not found[1].training


@pytest.mark.parametrize("batch_statistics", ["batch", "recalibrated"])
def test_evaluation(few_images: ImageData, ghn: ghnfast.GHN, batch_statistics: str) -> None:
    counted: list[int] = []
    options: dict[str, Any] = {"limit": 2, "batch_statistics": batch_statistics, "batch_size": 6}
    found = evaluate(ghn, few_images, ["test", "bnfree"], progress=counted.append, **options)
    assert list(found) == ["test", "bnfree"]
    assert counted == [1] * 4
    result = found["test"]
    item = DeepNets1M("test")[1]
    network = ghn.predict(item.build(), graph=item.graph)
    wanted = accuracies(network, few_images.test, few_images.calibration, batch_statistics, 6)
    assert result["networks"][1] == wanted[0]
    assert result["n"] == 2
    assert result["mean"] == pytest.approx(sum(result["networks"]) / 2)
    assert result["max"] == max(result["networks"]) == result["networks"][result["best"]]
    assert result["stderr"] == pytest.approx(abs(result["networks"][0] - result["networks"][1]) / 2)


@given(images=st.integers(2, 12), networks=st.integers(1, 12))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_networks_see_images_in_turn(few_images: ImageData, images: int, networks: int) -> None:
    """As many images as networks see them are seen as often as any other: each network has the next ones."""
    evaluation = Evaluation(few_images, images=images, in_turn=True)
    pixels = few_images.test.batch(range(12), 0)[0]
    seen = torch.zeros(12)
    for net in (DeepNets1M("test")[index] for index in range(networks)):
        chosen, _ = evaluation.seen_by(net).batch(range(images), 0)
        places = [int((pixels == image).flatten(1).all(1).nonzero()) for image in chosen]
        assert len(set(places)) == images
        seen[places] += 1
    assert seen.sum() == images * networks
    assert seen.max() - seen.min() <= 1


def test_a_network_is_measured_on_its_images(few_images: ImageData, ghn: ghnfast.GHN) -> None:
    options: dict[str, Any] = {"images": 5, "batch_size": 5}
    found = evaluate(ghn, few_images, ["test"], networks=[0, 3], in_turn=True, **options)["test"]["networks"]
    for index, accuracy in zip((0, 3), found, strict=True):
        item = DeepNets1M("test")[index]
        own = Evaluation(few_images, images=5, in_turn=True).seen_by(item)
        network = ghn.predict(item.build(), graph=item.graph)
        assert accuracies(network, own, few_images.calibration, batch_size=5)[0] == accuracy
    for wrong in ({"in_turn": True}, {"in_turn": 1, "images": 5}):
        with pytest.raises(TrainingError, match="accepted"):
            evaluate(ghn, few_images, ["test"], **wrong)


def test_a_baseline_learns(few_images: ImageData) -> None:
    """The dozen images that it is trained on."""
    result = baseline(few_images, ["test"], limit=1, optimizer="adam", steps=12, batch_size=12)["test"]
    assert result["mean"] > 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"splits": ["testing"]},
            "the split is 'testing'; val, test, search, wide, deep, dense, bnfree, predefined, families, unseen are",
        ),
        ({"splits": ["train"]}, "the split is 'train'"),
        ({"limit": 0}, "limit is 0: the splits would be empty"),
        ({"images": 0}, "images is 0; 1 to 12, all that there are, is accepted"),
        ({"images": 13, "validation": True}, "images is 13; 1 to 12"),
        ({"networks": [3, 10**6]}, "networks has 1000000; 0 to"),
        ({"networks": [-1]}, "networks has -1; 0 to"),
        ({"networks": []}, "one or more, without a limit"),
        ({"networks": [1], "limit": 1}, "one or more, without a limit"),
        ({"batch_size": 0}, "batch_size is 0; 1 or more is accepted"),
        ({"batch_size": 1}, "batch_size is 1, and one image has no batch statistics; 2 or more, or"),
        ({"images": 1}, "images is 1, and one image has no batch statistics; 2 or more, or"),
        ({"seed": 10**23}, "seed is 100000000000000000000000; 0 to 2"),
        ({"seed": -1}, "seed is -1; 0 to 2"),
        *(
            ({"splits": splits}, r"splits is .*; a list of val, test, .* is accepted")
            for splits in ("test", [], None, 5)
        ),
        *(
            ({name: value}, f"{name} is .*; a whole number is accepted")
            for name in ("limit", "images", "batch_size", "seed")
            for value in ("1", 1.5, [1], True)
        ),
        *(({"networks": value}, "networks is .*; a list of whole numbers is accepted") for value in (5, "12", [1.5])),
        *(({"data": data}, "data is .*; what ghnfast.training.load_data gives") for data in ("mnist5k", None, {})),
        *(({"ghn": ghn}, "ghn is .*; a GHN, as ghnfast.load gives") for ghn in ("ghn2-mnist5k", None)),
        ({"batch_statistics": "running"}, "batch_statistics is 'running'; 'batch' and 'recalibrated' are accepted"),
    ],
)
def test_bad_input(few_images: ImageData, ghn: ghnfast.GHN, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        evaluate(**{"ghn": ghn, "data": few_images, **changes})
    if changes.keys() & {"splits", "limit", "networks", "data"}:
        with pytest.raises(TrainingError, match=message):
            baseline(**{"data": few_images, "steps": 1, "batch_size": 4, **changes})


@pytest.mark.parametrize("device", ["nowhere", "", None, 1.5])
def test_devices_that_are_none(few_images: ImageData, device: Any) -> None:
    with pytest.raises(TrainingError, match=f"the device is {device!r}; cpu, cuda"):
        baseline(few_images, steps=1, batch_size=4, device=device)


def test_other_classes(few_images: ImageData) -> None:
    with pytest.raises(TrainingError, match="the GHN is for 7 classes, and few has 10; the same is accepted"):
        evaluate(ghnfast.GHN(max_shape=(8, 8, 3, 3), num_classes=7, hid=8), few_images)


def test_baselines_need_a_length(few_images: ImageData) -> None:
    with pytest.raises(TrainingError, match="steps is 0 and epochs is 0; one positive number is accepted"):
        baseline(few_images)
    with pytest.raises(TrainingError, match="batch_size is 1, and one image has no batch statistics to train with"):
        baseline(few_images, steps=1, batch_size=1, batch_statistics="recalibrated")
    wrong: Any
    for wrong in ("lion", [], None):
        with pytest.raises(TrainingError, match=r"the optimizer is .*; 'sgd' and 'adam' are accepted"):
            baseline(few_images, optimizer=wrong, steps=1)
    for wrong in ("3", 1.5, True, None):
        for name in ("steps", "epochs"):
            with pytest.raises(TrainingError, match="one positive number is accepted"):
                baseline(few_images, **{name: wrong})


def test_families(few_images: ImageData, ghn: ghnfast.GHN) -> None:
    results = evaluate(ghn, few_images, ["families", "unseen"], limit=4, images=6, batch_size=6)
    assert list(results["families"]["families"]) == list(TRAINED[:4])
    assert list(results["unseen"]["families"]) == list(HELD_OUT)
    assert results["unseen"]["families"]["regnet"] == statistics.fmean(results["unseen"]["networks"][::3])
    for result in results.values():
        assert all((accuracy * 6 / 100) == pytest.approx(round(accuracy * 6 / 100)) for accuracy in result["networks"])
    table = format_results({"GHN": results, "other": {"unseen": results["unseen"]}})
    assert [line.split()[0] for line in table.split("\n\n")[1].splitlines()] == ["families", *TRAINED[:4]]
    assert [line.split()[0] for line in table.split("\n\n")[2].splitlines()] == ["unseen", *HELD_OUT]
    assert len(table.split("\n\n")[2].splitlines()[1].split()) == 3


def test_some_images(few_images: ImageData, ghn: ghnfast.GHN) -> None:
    """The same ones for every network, whatever the size of batches."""
    network = ghn.predict(Families()[5].build())
    arguments = (few_images.test, few_images.calibration, "recalibrated")
    found = [accuracies(network, *arguments, size, limit=limit)[0] for size, limit in ((12, 5), (2, 5), (12, 12))]
    assert found[0] == found[1]
    assert found[2] == accuracies(network, *arguments, 12)[0]


def test_table() -> None:
    entry = {"mean": 50.0, "stderr": 1.25, "max": 60.0, "networks": [40.0, 60.0]}
    text = format_results({"GHN-2": {"test": entry, "wide": entry, "predefined": entry}, "SGD": {"test": entry}})
    head, first, second = (line.split() for line in text.splitlines())
    assert head == ["method", "test,", "mean", "test,", "max", "wide", "resnet50", "ViT"]
    assert first == ["GHN-2", "50.0", "+-", "1.2", "60.0", "50.0", "+-", "1.2", "40.0", "60.0"]
    assert second == ["SGD", "50.0", "+-", "1.2", "60.0", "-", "-", "-"]


def test_command(
    tmp_path: Path,
    ghn: ghnfast.GHN,
    few_images: ImageData,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ghn.save(tmp_path / "ghn.safetensors")
    monkeypatch.setattr("ghnfast.cli.evaluate.load_data", lambda *_, **__: few_images)
    out = tmp_path / "results.json"
    arguments = ["--ghn", str(tmp_path / "ghn.safetensors"), "--split", "bnfree", "--limit", "2", "--json", str(out)]
    arguments += ["--data", "mnist5k"]
    assert main(["evaluate", *arguments]) == 0
    results = json.loads(out.read_text())
    assert results["bnfree"]["n"] == 2
    assert {"mean", "stderr", "max"} <= results["bnfree"].keys()
    assert "bnfree" in capsys.readouterr().out
    shorter = ["--split", "bnfree", "--limit", "1", "--batch-size", "12"]
    assert main(["evaluate", "--baseline", "sgd", "--steps", "1", *shorter]) == 0
    assert "sgd, 1 steps" in capsys.readouterr().out
    assert main(["evaluate", *arguments[:2], "--data", "mnist5k", "--split", "none"]) == 2
    assert "the split is 'none'" in capsys.readouterr().err
    for wrong, message in (
        (["--split", "test,wide,test"], "--split has test twice"),
        (["--steps", "3"], "--epochs and --steps say how long --baseline trains"),
        (["--epochs", "3"], "--epochs and --steps say how long --baseline trains"),
    ):
        assert main(["evaluate", *arguments, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["train", "--out", str(tmp_path / "run"), "data"]) == 2
    assert "'data' was given; NAME=VALUE is accepted" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [[], ["--data", "cifar10"]])
@pytest.mark.parametrize("known", ["mnist5k", "fashion", "folder", "mine", None])
def test_images_are_those_of_the_ghn(
    known: str | None,
    asked: list[str],
    tmp_path: Path,
    few_images: ImageData,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where nothing else is asked for; and it is said where something else is."""
    trained = ghnfast.GHN(max_shape=(8, 8, 3, 3), num_classes=10, hid=8)
    trained.trained_on = None if known is None else TrainedOn(known, (3, 32, 32))
    trained.save(tmp_path / "ghn.safetensors")
    loaded: list[str] = []

    def load(name: str, *_: Any, **__: Any) -> ImageData:
        loaded.append(name)
        return replace(few_images, name=name)

    monkeypatch.setattr("ghnfast.cli.evaluate.load_data", load)
    arguments = ["evaluate", "--ghn", str(tmp_path / "ghn.safetensors"), "--limit", "1", *asked]
    code, err = main(arguments), capsys.readouterr().err
    if not asked and known in ("mine", None):
        assert code == 2
        assert "--data is needed" in err
        assert not loaded
        return
    assert code == 0
    assert loaded == [asked[-1] if asked else known]
    other = bool(asked) and known is not None
    assert (f"was trained on {known}, and these images are of cifar10" in err) == other
    assert ("near chance" in err) == other
    with pytest.warns(DomainWarning) if other else contextlib.nullcontext():
        evaluate(ghnfast.load(tmp_path / "ghn.safetensors"), load(loaded[0]), limit=1)


@pytest.mark.parametrize("size", [24, 32, 48, 224])
@pytest.mark.parametrize("name", ["few", "folder"])
def test_other_images_and_other_sizes_are_said(few_images: ImageData, size: int, name: str) -> None:
    trained = ghnfast.GHN(max_shape=(8, 8, 3, 3), num_classes=10, hid=8)
    trained.trained_on = TrainedOn("few", (3, 32, 32))
    notice = other_images(trained, replace(few_images, name=name, input_shape=(3, size, size)))
    assert (notice is None) == (name == "few" and size == 32)
    if notice is not None and name == "few":
        assert f"on images of few of the shape 3 x 32 x 32, and these are of 3 x {size} x {size}: lower" in notice


def test_a_rate_of_zero_is_a_rate(few_images: ImageData) -> None:
    for optimizer in ("sgd", "adam"):
        network, kept = normalized_network(), normalized_network().state_dict()
        fit(network, Batches(few_images.train, 6, 0), 2, optimizer, lr=0.0)
        assert all(torch.equal(value, kept[name]) for name, value in network.named_parameters())
        fit(network, Batches(few_images.train, 6, 0), 2, optimizer)
        assert not any(torch.equal(value, kept[name]) for name, value in network.named_parameters())
    results = [baseline(few_images, ["bnfree"], limit=1, steps=2, batch_size=6, lr=lr)["bnfree"] for lr in (0.0, 0.0)]
    assert results[0]["networks"] == results[1]["networks"]


@pytest.mark.parametrize("lr", [-1.0, float("nan"), float("inf"), 1e300, "x", ()])
def test_rates_that_are_not_accepted(few_images: ImageData, lr: Any) -> None:
    with pytest.raises(
        TrainingError, match=rf"lr is {re.escape(repr(lr))}; 0 or more, or None for 0\.025, is accepted"
    ):
        baseline(few_images, steps=1, lr=lr)


def test_accuracy_needs_images_and_statistics(few_images: ImageData) -> None:
    none = replace(few_images.test, pixels=torch.zeros(0, 3, 32, 32), labels=torch.zeros(0, dtype=torch.long))  # type: ignore[type-var]
    with pytest.raises(TrainingError, match="there are no images to measure accuracy on"):
        accuracies(normalized_network(), none, few_images.calibration)
    with pytest.raises(TrainingError, match="batch_statistics is 'running'"):
        accuracies(normalized_network(), few_images.test, few_images.calibration, "running")


def test_networks_whose_statistics_are_not_finite_are_wrong(few_images: ImageData) -> None:
    """They are no error: other networks of the split are measured."""
    network = normalized_network()
    network[0].weight.data.fill_(float("inf"))
    assert accuracies(network, few_images.test, few_images.calibration, "recalibrated", 6)[0] < 25
