"""Fine-tuning: results that are gone on from, what is refused, and the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.finetuning import QUICK, Small, dark_and_light, job_of
from torch import Tensor, nn

from ghnfast.cli import main
from ghnfast.errors import GhnfastError, TrainingError
from ghnfast.training import ImageData, Recipe, finetune, format_finetuning
from ghnfast.training.finetune import Job


@pytest.fixture
def data() -> ImageData:
    return dark_and_light()


# Results -------------------------------------------------------------------------------------------------------------


def test_it_learns(data: ImageData) -> None:
    before = torch.get_rng_state()
    results = finetune(Small, data, "he", **{**QUICK, "epochs": 8, "seeds": (0, 1)}, batch_statistics="recalibrated")
    assert results["mean"] > 90
    assert results["held_out"] > 90
    assert results["n"] == len(results["networks"]) == 2
    assert results["seconds"] > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_call_is_a_function_of_its_arguments(data: ImageData) -> None:
    options = {**QUICK, "seeds": (0, 1), "evaluate_at": (1, 3), "batch_statistics": "batch"}
    one, same = (finetune(Small, data, "he", **options) for _ in range(2))
    timeless = [
        [{key: value for key, value in cell.items() if key != "seconds"} for cell in each["cells"]]
        for each in (one, same)
    ]
    assert timeless[0] == timeless[1]
    assert [point[0] for point in one["curve"]] == [1, 3]
    curves = [cell["curve"] for cell in one["cells"]]
    assert one["curve"][1][1] == pytest.approx((curves[0][1][1] + curves[1][1][1]) / 2)
    assert one["cells"][0]["steps"] == 4


def scored(monkeypatch: pytest.MonkeyPatch, held_out: Callable[[int, float], float]) -> list[tuple[int, float]]:
    """Trainings take no time, and give this accuracy on held-out images; the list has those that were made."""
    made: list[tuple[int, float]] = []

    def run(job: Job, seed: int, rate: float) -> dict[str, Any]:
        made.append((seed, rate))
        found = {"held_out": held_out(seed, rate), "test": 100 * rate + seed, "seconds": 1.0}
        return {"seed": seed, "rate": rate, "curve": [], "steps": 1, **found}

    monkeypatch.setattr(Job, "run", run)
    return made


def test_the_rate_is_chosen_on_held_out_images(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    made = scored(monkeypatch, lambda seed, rate: {0.1: 50, 0.2: 70, 0.3: 70, 0.4: 60}[rate])
    options = {**QUICK, "rates": (0.1, 0.2, 0.3, 0.4), "seeds": (5, 6, 7)}
    counted: list[int] = []
    results = finetune(Small, data, "own", progress=counted.append, **options)
    assert made == [(5, 0.1), (5, 0.2), (5, 0.3), (5, 0.4), (6, 0.2), (7, 0.2)]  # of equals, the lowest
    assert counted == [1] * Recipe(**options).runs
    assert (results["rate"], results["at_edge"], results["held_out"]) == (0.2, False, 70)
    assert results["networks"] == [25, 26, 27]
    assert results["stderr"] == pytest.approx(1 / 3**0.5)
    made.clear()
    finetune(Small, data, "own", search_seeds=2, **options)
    assert len(made) == 9
    assert len({*made}) == 9
    assert Recipe(**options).runs == 6
    assert Recipe(**options, search_seeds=2).runs == 9
    assert Recipe(**options, search_seeds=99).runs == 12


@pytest.mark.parametrize(("best", "edge"), [(0.1, True), (0.2, False), (0.3, True)])
def test_the_best_of_all_rates_may_be_beyond_them(
    data: ImageData, monkeypatch: pytest.MonkeyPatch, best: float, edge: bool
) -> None:
    scored(monkeypatch, lambda seed, rate: -abs(rate - best))
    results = finetune(Small, data, "own", **{**QUICK, "rates": (0.3, 0.1, 0.2)})
    assert (results["rate"], results["at_edge"]) == (best, edge)
    assert ("(edge)" in format_finetuning({"own": results})) == edge


def test_a_call_goes_on_where_it_was(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = scored(monkeypatch, lambda seed, rate: -rate)
    out = tmp_path / "results.json"
    options: dict[str, Any] = {**QUICK, "rates": (0.1, 0.2), "seeds": (0, 1), "out": out}

    def interrupt(count: int) -> None:
        if len(made) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(Small, data, "own", progress=interrupt, **options)
    assert len(json.loads(out.read_text())["cells"]) == 2
    results = finetune(Small, data, "own", **options)
    assert made == [(0, 0.1), (0, 0.2), (1, 0.1)]
    assert json.loads(out.read_text()) == results
    assert finetune(Small, data, "own", **options) == results
    assert len(made) == 3
    # More rates and seeds are more of the same.
    finetune(Small, data, "own", **{**options, "rates": (0.1, 0.2, 0.05), "seeds": (0, 1, 2)})
    assert made[3:] == [(0, 0.05), (1, 0.05), (2, 0.05)]


CHANGES = [{"epochs": 3}, {"postprocess": True}, {"shots": 7}, {"weight_decay": 0.0}, {"test_images": 10}]


@pytest.mark.parametrize("change", [*CHANGES, {"init": "he"}, {"build": lambda: Small(3)}], ids=list)
def test_results_of_something_else_are_refused(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    scored(monkeypatch, lambda seed, rate: 0)
    out = tmp_path / "results.json"
    call: dict[str, Any] = {"build": Small, "data": data, "init": "own", "out": out, **QUICK}
    finetune(**call)
    before = out.read_bytes()
    with pytest.raises(TrainingError, match=r"results\.json are of .*; another file, or that of the same call"):
        finetune(**{**call, **change})
    assert out.read_bytes() == before


def rescaled(factor: float) -> nn.Module:
    network = Small()
    network.scale.data.fill_(factor)
    return network


def unlike(forward: Callable[[Small, Tensor], Tensor]) -> Callable[[], nn.Module]:
    kind = type("Small", (Small,), {"forward": forward})
    return lambda: kind()


# Each with the parameters of all others; the last two do the same.
ALIKE: list[Callable[[], nn.Module]] = [
    unlike(lambda self, x: self.head(self.second(self.norm(self.first(x)).sigmoid().mean((2, 3))).relu() * self.scale)),
    unlike(lambda self, x: self.head(self.second(self.norm(self.first(x)).relu().mean((2, 3))) * self.scale)),
    unlike(
        lambda self, x: self.head(self.second(self.norm(self.first(x * 2)).relu().mean((2, 3))).relu() * self.scale)
    ),
    lambda: nn.Sequential(Small(), nn.Identity()),
    lambda: nn.Sequential(Small(), nn.Dropout(0.5)),
    lambda: nn.Sequential(Small(), nn.Dropout(0.1)),
    lambda: nn.Sequential(Small(), nn.LeakyReLU(0.1)),
    lambda: nn.Sequential(Small(), nn.LeakyReLU(0.2)),
    lambda: rescaled(1.0),
    lambda: rescaled(1e-6),
    Small,
    lambda: Small(),
]


def test_results_are_of_what_a_network_computes(data: ImageData) -> None:
    """Not of the names and shapes of its parameters alone; and the same on every call."""
    found = [replace(job_of(data, "own"), build=build).identity()["model"] for build in ALIKE]
    assert found[-1] == found[-2]
    assert len({*found}) == len(found) - 1


@pytest.mark.parametrize("part", ["train", "test"])
def test_results_of_other_images_are_refused(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    scored(monkeypatch, lambda seed, rate: 0)
    out = tmp_path / "results.json"
    finetune(Small, data, "own", out=out, **QUICK)
    copied = replace(data, **{part: replace(getattr(data, part), pixels=data.train.pixels.clone())})  # type: ignore[attr-defined]
    finetune(Small, copied, "own", out=out, **QUICK)
    for change in ({"pixels": 255 - data.train.pixels}, {"labels": 1 - data.train.all_labels()}):  # type: ignore[attr-defined]
        other = replace(data, **{part: replace(getattr(data, part), **change)})
        with pytest.raises(TrainingError, match=r"results\.json are of images_digest = '\w+', not '\w+'; another file"):
            finetune(Small, other, "own", out=out, **QUICK)


@pytest.mark.parametrize("change", ["images_digest", "shape", "more"])
def test_results_of_another_version_are_refused(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    scored(monkeypatch, lambda seed, rate: 0)
    out = tmp_path / "results.json"
    made = finetune(Small, data, "own", out=out, **QUICK)
    if change in made["settings"]:
        del made["settings"][change]
    else:
        made["settings"][change] = 1
    out.write_text(json.dumps(made))
    words = rf"say {change}: another version of ghnfast made them, and they cannot be gone on from; another file is"
    with pytest.raises(TrainingError, match=words):
        finetune(Small, data, "own", out=out, **QUICK)
    assert json.loads(out.read_text()) == made


CELL = {"seed": 0, "rate": 0.05, "held_out": 1.0, "test": 1.0, "seconds": 1.0, "curve": []}


DAMAGED: list[bytes | dict[str, Any]] = [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"settings": 3}', b"[" * 10**5]
CELLS: tuple[Any, ...] = (
    None,
    3,
    [3],
    [{}],
    [{**CELL, "seed": "0"}],
    [{**CELL, "curve": [3]}],
    [{**CELL, "test": None}],
    *([{**CELL, "test": number}] for number in (math.nan, math.inf, 10**400)),
    *([{**CELL, "curve": [[1, number]]}] for number in ("a", None, [], True, math.nan)),
)
DAMAGED += [{"cells": cells} for cells in CELLS]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_results(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | dict[str, Any]
) -> None:
    scored(monkeypatch, lambda seed, rate: 0)
    out = tmp_path / "results.json"
    if isinstance(content, dict):
        settings = finetune(Small, data, "own", **QUICK)["settings"]
        content = json.dumps({"settings": settings, **content}).encode()
    out.write_bytes(content)
    with pytest.raises(TrainingError, match=r"results\.json"):
        finetune(Small, data, "own", out=out, **QUICK)
    assert out.read_bytes() == content


def test_results_that_cannot_be_written(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(monkeypatch, lambda seed, rate: 0)
    with pytest.raises(TrainingError, match="cannot be written: No such file or directory"):
        finetune(Small, data, "own", out=tmp_path / "none" / "results.json", **QUICK)
    with pytest.raises(TrainingError, match="cannot be read: Is a directory"):
        finetune(Small, data, "own", out=tmp_path, **QUICK)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callers_without_gradients(data: ImageData, mode: Callable[[], Any]) -> None:
    wanted = finetune(Small, data, "own", **QUICK)
    with mode():
        found = finetune(Small, data, "own", **QUICK)
    assert [cell["test"] for cell in found["cells"]] == [cell["test"] for cell in wanted["cells"]]


# What is refused -----------------------------------------------------------------------------------------------------


WEIGHTS = ({"a": 1}, {1: torch.ones(1)}, {"a": torch.ones(1, device="meta")}, {"a": torch.ones(1).to_sparse()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({name: 0}, f"{name} is 0; 1 or more") for name in ("shots", "epochs", "batch_size", "held_out")),
        *(({name: -1}, f"{name} is -1; 1 or more") for name in ("test_images", "search_seeds")),
        *(
            ({"rates": rates}, "rates is .*; one or more positive numbers")
            for rates in ((), (0,), (math.nan,), (math.inf,))
        ),
        *(({"seeds": seeds}, "seeds is .* are accepted") for seeds in ((), (-1,), (2**64,), (0, 0))),
        *(
            ({name: value}, f"{name} is .*; a list of numbers")
            for name in ("rates", "seeds", "evaluate_at")
            for value in (0.1, 5, None, "12")
        ),
        *(({"data": data}, "data is .*; what ghnfast.training.load_data gives") for data in ("mnist5k", None)),
        *(({"build": build}, r"build is a \w+; a function that makes") for build in (None, 5, nn.Linear(1, 1))),
        *(({"out": out}, "the file of results is .*; the path of a file") for out in (5, "", ".", b"a.json")),
        *(({"init": init}, "something else than dense tensors in memory by name") for init in WEIGHTS),
        *(({"seeds": range(count)}, "seeds has more than 100,000 numbers") for count in (10**5 + 1, 10**13, 10**30)),
        ({"device": "nowhere"}, "the device is 'nowhere'; cpu, cuda"),
        ({"shots": "100"}, "shots is '100'; 1 or more"),
        ({"epochs": None}, "epochs is None; 1 or more"),
        ({"rates": ("0.1",)}, "rates is .*; one or more positive numbers"),
        ({"rates": (0.1, 0.1)}, "different ones are accepted"),
        ({"weight_decay": -1}, "weight_decay is -1; 0 or more"),
        ({"steps": -1}, "steps is -1"),
        ({"evaluate_at": (0,)}, r"evaluate_at \(0,\); positive"),
        ({"evaluate_at": (5,)}, r"evaluate_at is \(5,\), of 4 steps"),
        ({"batch_statistics": "own"}, "'running' and 'batch' and 'recalibrated' are accepted"),
        ({"batch_size": 17}, "batch_size is 17, of 16 images; fewer are accepted"),
        ({"held_out": 90}, "held_out is 90, of 90 training images"),
        ({"shots": 27}, "class 1 has 26 training images that are not held out"),
        ({"test_images": 1000}, "test_images is 1000; at most 90"),
        ({"held_out": 1, "batch_statistics": "batch"}, "held_out is 1, and one image has no batch statistics"),
        ({"test_images": 1, "batch_statistics": "batch"}, "test_images is 1, and one image has no batch statistics"),
        ({"beta": -1, "postprocess": True}, "beta is -1; 0 or more is accepted"),
    ],
)
def test_bad_options(data: ImageData, options: dict[str, Any], message: str) -> None:
    with pytest.raises(GhnfastError, match=message):
        finetune(**{"build": Small, "data": data, "init": "own", **QUICK, **options})


class Failing(Small):
    def forward(self, images: Tensor) -> Tensor:
        if len(images) == QUICK["batch_size"]:
            raise ValueError("too hot")
        return super().forward(images)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Flatten(), "Flatten has no parameters"),
        (
            lambda: Small(1),
            r"the model gives \(2, 1\) for images of shape \(2, 3, 8, 8\); \(2, classes\) with 2 or more",
        ),
        (lambda: nn.Conv2d(3, 4, 3), r"the model gives \(2, 4, 6, 6\)"),
        (lambda: nn.Linear(3, 4), r"the model fails on images of shape \(2, 3, 8, 8\): mat1 and mat2"),
        (Failing, "the model fails when it is trained: too hot"),
        (lambda: Small(1 // 0), "build fails: ZeroDivisionError"),
        (lambda: None, "build gives a NoneType; a torch.nn.Module is accepted"),
    ],
)
def test_models_that_do_not_fit(data: ImageData, build: Callable[[], Any], message: str) -> None:
    with pytest.raises(GhnfastError, match=message):
        finetune(build, data, "own", **QUICK)


@pytest.mark.parametrize("statistics", ["running", "batch", "recalibrated"])
def test_networks_that_are_lost_are_wrong(data: ImageData, statistics: str) -> None:
    """A rate at which every number is lost is no rate at which a network is right as often as chance is."""
    options: dict[str, Any] = {**QUICK, "rates": (1e30, 0.05), "test_images": 65, "batch_statistics": statistics}
    results = finetune(Small, data, "he", **options)
    assert [cell["held_out"] > 0 for cell in results["cells"]] == [False, True]
    assert (results["rate"], results["cells"][0]["test"]) == (0.05, 0)


def test_some_test_images(data: ImageData) -> None:
    results = finetune(Small, data, "he", **QUICK, test_images=7)
    assert results["settings"]["images"] == [16, 12, 7]
    assert results["mean"] == pytest.approx(100 * round(results["mean"] * 7 / 100) / 7)


def test_more_classes_than_the_data_has(data: ImageData) -> None:
    assert finetune(lambda: Small(6), data, "he", **QUICK)["n"] == 1


# The command line ----------------------------------------------------------------------------------------------------

MODELS = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
"""


def test_command(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ghnfast.cli.finetune.load_data", lambda *_, **__: data)
    (tmp_path / "models.py").write_text(MODELS)
    out = tmp_path / "results.json"
    command = ["finetune", f"{tmp_path}/models.py:make", "--shots", "8", "--epochs", "1", "--batch-size", "8"]
    command += ["--held-out", "12", "--rates", "0.05,0.1", "--seeds", "2", "--init", "he", "--out", str(out)]
    assert main(command) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["start", "rate", "held", "out", "test", "n", "seconds"]
    assert table[1].split()[0] == "he"
    results = json.loads(out.read_text())
    assert [cell["seed"] for cell in results["cells"]] == [0, 0, 1]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == results
    assert main([*command, "--postprocess"]) == 2
    assert "are of postprocess = False, not True" in capsys.readouterr().err
    everything = ["--shots", "all", "--steps", "2", "--evaluate-at", "1,2", "--batch-statistics", "recalibrated"]
    assert main([*command[:-2], *everything, "--postprocess", "--beta", "0", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["settings"]["images"] == [78, 12, 90]
    assert [point[0] for point in results["curve"]] == [1, 2]
    for wrong in (
        ["--rates", "a"],
        ["--shots", "0"],
        ["--init", "nothing"],
        ["--num-classes", "3"],
        ["--out", "a.txt"],
    ):
        assert main([*command, *wrong]) == 2
        assert capsys.readouterr().err.startswith("ghnfast: error: ")


def test_an_interrupted_command_says_how_to_go_on(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ghnfast.cli.finetune.load_data", lambda *_, **__: data)
    monkeypatch.setattr("ghnfast.cli.finetune.finetune", interrupted)
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "known.json").write_text("{}")
    for options, words in (
        (["--out", f"{tmp_path}/a.json"], "nothing is kept yet"),
        (["--out", f"{tmp_path}/known.json"], f"the same command goes on from {tmp_path}/known.json"),
        ([], "without --out nothing is kept"),
    ):
        assert main(["finetune", f"{tmp_path}/models.py:make", *options]) == 130
        assert capsys.readouterr().err == f"ghnfast: interrupted; {words}\n"
