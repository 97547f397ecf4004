"""The folder of a run: one trainer at a time, damaged files, power loss, and what stands in its configuration."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.forked import Forked, script
from helpers.tiny import FAST, TINY, tiny_config
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import ghnfast
from ghnfast.cli import main
from ghnfast.errors import TrainingError
from ghnfast.training import ImageData, Trainer, train
from ghnfast.training.folder import CHECKPOINT, CONFIG, LOCK, LOG, WEIGHTS, cut_log, locked, read_checkpoint, read_log
from ghnfast.training.run import go_on, make_dataset, make_ghn

pytestmark = pytest.mark.usefixtures("quick")


def state_of(folder: Path, few_images: ImageData) -> dict[str, Any]:
    """What a run would go on from."""
    config = tiny_config(**FAST)
    trainer = Trainer(make_ghn(config, few_images), config, steps=4)
    go_on(trainer, make_dataset(config, few_images), folder, progress=False)
    return trainer.state()


def equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(equal(ours[name], theirs[name]) for name in ours)
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return bool(ours == theirs)


# Damaged checkpoints --------------------------------------------------------------------------------------------------


def test_any_damage_of_a_checkpoint_is_noticed(run: Path, few_images: ImageData) -> None:
    """Bytes that are other ones, or are not there: an error of ours, or nothing that matters has changed."""
    file = run / CHECKPOINT
    content, whole = file.read_bytes(), state_of(run, few_images)
    noticed = 0

    @settings(max_examples=60, deadline=None)
    @given(flips=st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255)), min_size=1, max_size=8),
           length=st.none() | st.integers(0, len(content) - 1))  # fmt: skip
    @example(flips=[], length=0)
    def check(flips: list[tuple[int, int]], length: int | None) -> None:
        nonlocal noticed
        damaged = bytearray(content)
        for at, change in flips:
            damaged[at] ^= change
        file.write_bytes(bytes(damaged[:length]))
        message = ""
        try:
            found = state_of(run, few_images)
        except TrainingError as error:
            message = str(error)
            noticed += 1
        assert CHECKPOINT in message or equal(found, whole)

    check()
    assert noticed > 30


def changed(state: dict[str, Any], *path: Any, to: Any) -> dict[str, Any]:
    state = copy.deepcopy(state)
    inner = state
    for key in path[:-1]:
        inner = inner[key]
    if to is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return state


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda _: [1, 2],
    "a tensor": lambda _: torch.zeros(3),
    "a GHN": lambda state: state["ghn"],
    "no step": lambda state: changed(state, "step", to=None),
    "a step of text": lambda state: changed(state, "step", to="4"),
    "a negative step": lambda state: changed(state, "step", to=-1),
    "a configuration of text": lambda state: changed(state, "config", to="lr = 1"),
    "an empty configuration": lambda state: changed(state, "config", to={}),
    "another run": lambda state: changed(state, "config", "lr", to=0.5),
    "an empty GHN": lambda state: changed(state, "ghn", to={}),
    "a GHN that is not finite": lambda state: changed(
        state, "ghn", "primitive_embedding.weight", to=torch.full((15, 8), float("nan"))
    ),
    "a GHN of another size": lambda state: changed(state, "ghn", "primitive_embedding.weight", to=torch.zeros(15, 4)),
    "an optimizer of text": lambda state: changed(state, "optimizer", to="adam"),
    "no optimizer state": lambda state: changed(state, "optimizer", "state", to=None),
    "other parameters": lambda state: changed(state, "optimizer", "param_groups", 0, "params", to=[0]),
    "another optimizer": lambda state: changed(state, "optimizer", "param_groups", 0, "betas", to=(0.5, 0.5)),
    "moments of another shape": lambda state: changed(state, "optimizer", "state", 0, "exp_avg", to=torch.zeros(3)),
    "moments that are not finite": lambda state: changed(
        state, "optimizer", "state", 0, "exp_avg", to=torch.full((8,), float("inf"))
    ),
    "no moments": lambda state: changed(state, "optimizer", "state", 0, "exp_avg_sq", to=None),
    "other entries": lambda state: changed(state, "optimizer", "state", 0, "more", to=torch.zeros(3)),
}


@pytest.mark.parametrize("case", WRONG)
def test_checkpoints_of_something_else(run: Path, case: str) -> None:
    state = torch.load(run / CHECKPOINT, weights_only=True)
    torch.save(WRONG[case](state), run / CHECKPOINT)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt|the run in .* has"):
        train(tiny_config(**FAST), run, progress=False)


def test_a_checkpoint_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).mkdir()
    with pytest.raises(TrainingError, match=r"checkpoint\.pt cannot be read: Is a directory"):
        train(tiny_config(**FAST), tmp_path, progress=False)


def test_a_checkpoint_for_which_there_is_no_memory_is_not_to_be_removed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restore(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Trainer, "restore", restore)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt cannot be gone on from: CUDA out of memory; it may be"):
        train(tiny_config(**FAST), run, progress=False)


def test_a_run_goes_on_with_its_images_alone(
    tmp_path: Path, few_images: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever they are; a run from before images were kept goes on with any."""
    train(tiny_config(**FAST), tmp_path, progress=False)
    train(tiny_config(**FAST | {"steps": 5, "root": "elsewhere"}), tmp_path, progress=False)
    kept = (tmp_path / CHECKPOINT).read_bytes()
    for change in ({"pixels": 255 - few_images.train.pixels}, {"labels": 9 - few_images.train.all_labels()}):  # type: ignore[attr-defined]
        other = dataclasses.replace(few_images, train=dataclasses.replace(few_images.train, **change))  # type: ignore[type-var]
        monkeypatch.setattr("ghnfast.training.run.load_data", lambda *_, other=other, **__: other)
        with pytest.raises(TrainingError, match=f"the run in {tmp_path} is trained on other images than"):
            train(tiny_config(**FAST | {"steps": 6}), tmp_path, progress=False)
        assert (tmp_path / CHECKPOINT).read_bytes() == kept
    torch.save(changed(torch.load(tmp_path / CHECKPOINT, weights_only=True), "images", to=None), tmp_path / CHECKPOINT)
    train(tiny_config(**FAST | {"steps": 6}), tmp_path, progress=False)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_cannot_have_fewer_steps_than_it_has_made(run: Path, steps: int) -> None:
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    with pytest.raises(TrainingError, match=f"has made 4 steps, and is to have {steps} in all; as many or more, or"):
        train(tiny_config(**FAST | {"steps": steps}), run, progress=False)
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


@pytest.mark.parametrize("at", ["Trainer.train_step", "start_from_identity", "save_checkpoint"])
def test_an_interrupted_command_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at: str
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"ghnfast.training.run.{at}", interrupted)
    values = (f"{key}={value}" for key, value in {**TINY, **FAST}.items())
    assert main(["train", "--out", str(tmp_path), *values]) == 130
    kept = (tmp_path / CHECKPOINT).exists()
    assert kept == (at == "Trainer.train_step")
    what = f"the same command goes on from {tmp_path / CHECKPOINT}" if kept else "nothing is kept yet"
    assert f"ghnfast: interrupted; {what}\n" in capsys.readouterr().err


# Logs -----------------------------------------------------------------------------------------------------------------

LINE = b'{"step": %d, "loss": 1.5}\n'
BROKEN_ENDS = {
    "NULs": b"\0" * 4096,
    "half a line": LINE[:12] % 5,
    "half a line and NULs": LINE[:12] % 5 + b"\0" * 100,
    "garbage": bytes(range(128, 256)) * 3 + b"\n",
    "no table": b"[1, 2]\n7\nnull\n",
    "no step": b'{"loss": 1}\n{"step": "5"}\n{"step": true}\n',
    "brackets": b"[" * 100_000 + b"\n",
    "later lines": LINE % 5 + LINE % 6,
}


@pytest.mark.parametrize("case", BROKEN_ENDS)
def test_logs_are_cut_to_the_step_of_the_checkpoint(tmp_path: Path, case: str) -> None:
    kept = b"".join(LINE % step for step in range(1, 5))
    (tmp_path / LOG).write_bytes(kept + BROKEN_ENDS[case])
    cut_log(tmp_path, 4)
    assert (tmp_path / LOG).read_bytes() == kept
    (tmp_path / LOG).write_bytes(b"\0" * 7 + LINE % 1 + b"\0" * 7 + LINE % 2)
    assert [line["step"] for line in read_log(tmp_path / LOG)] == [1, 2]
    (tmp_path / LOG).write_bytes(kept[:-20] + b"\0" * 7 + b"\n" + BROKEN_ENDS[case] + LINE % 3 + LINE % 4)
    cut_log(tmp_path, 4)
    assert [json.loads(line)["step"] for line in (tmp_path / LOG).read_bytes().splitlines()] == [1, 2, 3, 4]


@settings(max_examples=50, deadline=None)
@given(parts=st.lists(st.binary(max_size=30) | st.integers(1, 9).map(lambda step: LINE % step)), step=st.integers(0, 9))
def test_what_is_left_of_any_log_is_one(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], step: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    (folder / LOG).write_bytes(b"".join(parts))
    cut_log(folder, step)
    steps = [json.loads(line)["step"] for line in (folder / LOG).read_bytes().split(b"\n")[:-1]]
    assert steps == sorted(set(steps))
    assert all(found <= step for found in steps)


@pytest.mark.parametrize("case", ["half a line and NULs", "garbage"])
def test_runs_with_a_broken_log_go_on(tmp_path: Path, case: str) -> None:
    """As if nothing had happened: steps and losses are those of a run that was never interrupted."""

    def lines(folder: Path) -> list[Any]:
        found = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
        return [[line["step"], line["loss"]] for line in found]

    values = FAST | {"schedule": "constant"}
    train(tiny_config(**values | {"steps": 6}), tmp_path / "whole", progress=False)
    train(tiny_config(**values), tmp_path / "parts", progress=False)
    with open(tmp_path / "parts" / LOG, "ab") as file:
        file.write(BROKEN_ENDS[case])
    train(tiny_config(**values | {"steps": 6}), tmp_path / "parts", progress=False)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


# Folders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", LOG, LOCK, CONFIG])
def test_folders_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    """A file where the folder should be, and folders where files should be."""
    path = tmp_path / "run"
    if name:
        (path / name).mkdir(parents=True)
    else:
        path.write_text("hello")
    with pytest.raises(TrainingError, match=f"cannot be written: {'Is a directory' if name else 'File exists'}"):
        train(tiny_config(**FAST), path, progress=False)


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 300, "file/run"])
def test_paths_that_are_none(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    path = f"{tmp_path}/{name}" if name else ""
    with pytest.raises(TrainingError, match=r"cannot be written|is an empty path"):
        train(tiny_config(**FAST), path, progress=False)
    assert main(["train", "--out", path, *(f"{key}={value}" for key, value in {**TINY, **FAST}.items())]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_is_an_error_of_ours(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    kept = (run / CHECKPOINT).read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match="cannot be written: No space left on device"):
        train(tiny_config(**FAST | {"steps": 6}), run, progress=False)
    assert (run / CHECKPOINT).read_bytes() == kept
    assert not list(run.glob("*.tmp")) + list(run.glob(".*.tmp"))


def test_what_is_written_is_on_the_disk_before_what_builds_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log's line before the checkpoint of its step; a file before it takes its name; then the folder."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def name_of(descriptor: int) -> str:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        return re.sub(r"^\.(.*)\.[0-9a-f]+\.tmp$", r"new \1", name)

    def noted_fsync(descriptor: int) -> None:
        events.append(name_of(descriptor))
        fsync(descriptor)

    def noted_replace(source: Any, target: Any) -> None:
        events.append(f"replace {os.path.basename(target)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    train(tiny_config(**FAST | {"steps": 1, "save_every": 1}), tmp_path / "run", progress=False)
    saved = [f"new {CHECKPOINT}", f"replace {CHECKPOINT}", "run"]
    assert events[:7] == [f"new {CONFIG}", f"replace {CONFIG}", "run", LOG, *saved]
    assert events[-2:] == [f"replace {WEIGHTS}", "run"]


# One trainer ----------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from ghnfast.training.folder import locked
from torch.utils.data import DataLoader
with locked(Path(sys.argv[1])):
    workers = iter(DataLoader(range(1000), num_workers=1)) if sys.argv[2] == "1" else None
    if workers is not None:
        next(workers)
    print("held", flush=True)
    time.sleep(300)
"""


def test_two_trainers_in_one_process(run: Path) -> None:
    with locked(run), pytest.raises(TrainingError, match=rf"being trained by process {os.getpid()} on "):
        train(tiny_config(**FAST), run, progress=False)
    train(tiny_config(**FAST), run, progress=False)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_the_lock_of_a_killed_trainer_is_gone(run: Path, workers: str) -> None:
    """At once, though its processes that read images may live on for a while."""
    process = Forked(script, HOLD, run, workers)
    try:
        process.wait_for("held\n")
        kept = (run / CHECKPOINT).read_bytes()
        with pytest.raises(
            TrainingError, match=rf"being trained by process {process.number} on .*; its end, or another"
        ):
            train(tiny_config(**FAST), run, progress=False)
        assert (run / CHECKPOINT).read_bytes() == kept
    finally:
        process.kill()
    with locked(run):
        pass


# Configurations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["emoji \U0001f600", 'a "quoted" \\ name', "l\nb", "\x7f"])
def test_runs_in_folders_of_any_name_go_on(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder, values = tmp_path / name, {**TINY, **FAST, "root": name}
    assert main(["train", "--out", str(folder), *(f"{key}={value}" for key, value in values.items())]) == 0
    assert main(["train", "--out", str(folder), "steps=5"]) == 0
    assert capsys.readouterr().out.count(WEIGHTS) == 2
    assert ghnfast.load(folder / WEIGHTS).num_classes == 10


def test_a_damaged_configuration_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(run / CONFIG, "ab") as file:
        file.write(b"\0" * 100)
    assert main(["train", "--out", str(run)]) == 2
    assert f"the configuration {run / CONFIG} is no TOML" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('steps = "one"', "steps is 'one'; an integer is accepted (in the configuration {})"),
        ("lrr = 1", "the configuration has no 'lrr'; did you mean lr? (in the configuration {})"),
        ('root = "ä"', "the configuration {} cannot be read: it is no text in UTF-8 (it has the byte 0xe4)"),
    ],
)
def test_a_configuration_that_is_wrong_is_named(
    text: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text, encoding="latin-1")
    arguments = ["train", "--out", str(tmp_path / "run"), "--config", str(file)]
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"ghnfast: error: {what.format(file)}\n"
    file.write_text("lr = 0.5")
    assert main([*arguments, "steps=one"]) == 2
    assert str(file) not in capsys.readouterr().err
    assert os.listdir(tmp_path) == [file.name]


@pytest.mark.parametrize("device", ["", "gpu", "cuda:-1", "meta", "cpu:"])
def test_devices_that_do_not_exist(tmp_path: Path, device: str) -> None:
    with pytest.raises(TrainingError, match=f"the device {device} cannot be used"):
        train(tiny_config(**FAST, device=device), tmp_path / "run", progress=False)


def test_checkpoints_of_no_run(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path) is None
    assert read_checkpoint(tmp_path / "nowhere") is None


KILLED = """
import os, signal, sys, torch
from ghnfast.cli import main
save, saved = torch.save, []
def killed(state, file):
    saved.append(1)
    if len(saved) == 2:
        file.write(b"half of it")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(state, file)
torch.save = killed
main(sys.argv[1:])
"""


def test_killed_while_it_writes_a_checkpoint(tmp_path: Path) -> None:
    """The last one is there, whole; what was half written is gone once the run goes on."""
    arguments = ["train", "--out", str(tmp_path), *(f"{key}={value}" for key, value in {**TINY, **FAST}.items())]
    assert Forked(script, KILLED, *arguments).wait() == -signal.SIGKILL
    assert len(list(tmp_path.glob(".checkpoint.pt.*"))) == 1
    state = read_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 2
    again = Forked(main, arguments)
    assert again.wait() == 0, again.stderr()
    assert again.stderr().startswith("step 3 of 4: loss ")
    assert {file.name for file in tmp_path.iterdir()} == {CHECKPOINT, CONFIG, LOG, WEIGHTS}
