"""How far a run is, in lines."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.tiny import FAST, tiny_config

import ghnfast
from ghnfast.training import ImageData, Trainer, train
from ghnfast.training.folder import LOG, WEIGHTS, read_log
from ghnfast.training.reporting import Bar, Lines, summary
from ghnfast.training.run import make_ghn
from ghnfast.training.step import StepResult

pytestmark = pytest.mark.usefixtures("quick")


def test_lines_say_how_far_a_run_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny_config(**FAST | {"steps": 7}), run, progress=True)
    lines = capsys.readouterr().err.splitlines()
    number = r"[\d.]+"
    pattern = rf"loss {number}, top1 {number} %, {number} networks a second, "
    assert re.fullmatch(rf"step 5 of 7: {pattern}\d+ s to go", lines[0])
    assert re.fullmatch(rf"step 7 of 7: {pattern}\d+ s in all", lines[-1])
    train(tiny_config(**FAST | {"steps": 8}), run, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_a_finished_run_says_how_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    for length in ({"steps": 2}, {"epochs": 1, "steps": 0}):  # an epoch of a dozen images in fours has three steps
        name, folder = next(iter(length)), tmp_path / next(iter(length))
        train(tiny_config(**FAST | length), folder, progress=False)
        before = ghnfast.load(folder / WEIGHTS).state_dict()
        monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
        train(tiny_config(**FAST | length), folder)
        words = f"is finished, with all of its {length['steps'] or 3} steps; it goes on with more {name} than {name}="
        assert capsys.readouterr().err == f"the run in {folder} {words}{length[name]}\n"
        after = ghnfast.load(folder / WEIGHTS).state_dict()
        assert all(value.equal(after[name]) for name, value in before.items())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_lines_come_at_most_every_ten_seconds(
    few_images: ImageData, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(**FAST)
    trainer = Trainer(make_ghn(config, few_images), config, steps=1000)
    lines = Lines(trainer)
    for _ in range(25):
        trainer.step += 1
        clock[0] += 1
        lines.add(StepResult([2.0], loss=2.0, top1=25.0, networks=4, seconds=1.0))
    shown = capsys.readouterr().err.splitlines()
    assert shown == [
        "step 1 of 1000: loss 2.000, top1 25.0 %, 4.0 networks a second, 17 min to go",
        "step 11 of 1000: loss 2.000, top1 25.0 %, 4.0 networks a second, 16 min to go",
        "step 21 of 1000: loss 2.000, top1 25.0 %, 4.0 networks a second, 16 min to go",
    ]
    lines.add(StepResult([], networks=4, seconds=1.0, skipped="out of memory"))
    assert capsys.readouterr().err == "step 24 was skipped: out of memory\n"


@pytest.mark.parametrize("skipped", range(4))
def test_steps_without_an_update_have_no_loss(
    few_images: ImageData, clock: list[float], capsys: pytest.CaptureFixture[str], skipped: int
) -> None:
    """A loss of 0 is another thing; where some of them have one, it is the mean of these."""
    config = tiny_config(**FAST | {"log_every": 3})
    trainer = Trainer(make_ghn(config, few_images), config, steps=3)
    results = [
        StepResult([], networks=4, seconds=1.0, skipped="out of memory")
        if number < skipped
        else StepResult([2.0], loss=2.0, top1=25.0, networks=4, seconds=1.0)
        for number in range(3)
    ]
    found = summary(results, trainer)
    assert ({"loss", "top1"} <= found.keys()) == (skipped < 3)
    assert found.get("loss", 2.0) == 2.0
    assert found["networks_per_second"] == 4.0
    json.dumps(found, allow_nan=False)
    lines, bar, shown = Lines(trainer), Bar(trainer, SimpleNamespace()), list[dict[str, str]]()
    bar.bar = SimpleNamespace(write=lambda *_, **__: None, update=lambda _: None, set_postfix=shown.append)
    for result in results:
        trainer.step += 1
        clock[0] += 1
        lines.add(result)
        bar.add(result)
    last = capsys.readouterr().err.splitlines()[-1]
    assert ("no update, " in last) == (skipped == 3)
    assert ("loss 2.000, top1 25.0 %" in last) == (skipped < 3)
    assert shown[-1]["loss"] == ("no update" if skipped == 3 else "2")


def test_callbacks_get_what_the_log_gets(tmp_path: Path) -> None:
    folder, given = tmp_path / "new", list[dict[str, float]]()
    steps: list[float] = []
    config = tiny_config(**FAST | {"steps": 7, "log_every": 2})
    train(config, folder, progress=False, callbacks=[given.append, lambda entry: steps.append(entry.pop("step"))])
    assert given == read_log(folder / LOG)
    assert steps[-1] == 7
    assert {"loss", "top1", "lr"} <= set(given[0])


def test_a_callback_that_fails_ends_the_run_which_goes_on(run: Path) -> None:
    def fail(entry: dict[str, float]) -> None:
        raise ZeroDivisionError

    config = tiny_config(**FAST | {"steps": 7, "log_every": 2})
    with pytest.raises(ZeroDivisionError):
        train(config, run, progress=False, callbacks=[fail])
    train(config, run, progress=False)
    assert [entry["step"] for entry in read_log(run / LOG)][-1] == 7


def test_starting_from_identities_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ghnfast.progress.QUIET_SECONDS", 0.0)
    train(tiny_config(**FAST | {"steps": 5, "identity_steps": 2}), tmp_path / "new", progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("starting from identities: 1 of 2 steps, ")
    assert lines[1].startswith("starting from identities: 2 steps, ")
