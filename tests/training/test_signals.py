"""What ends a command: Ctrl-C, a scheduler that is going to kill it (SIGTERM), a terminal that is closed (SIGHUP)."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny import FAST, TINY, tiny_config

from ghnfast import starting
from ghnfast.cli import main
from ghnfast.errors import TrainingError
from ghnfast.training import Trainer, optimizers, train
from ghnfast.training.folder import CHECKPOINT, read_checkpoint

pytestmark = pytest.mark.usefixtures("restored_signals")


@pytest.fixture
def restored_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in starting.DEFAULTS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# What an interruption comes within: after the first it takes effect at once, after the other when the step is whole.
DURING: dict[str, tuple[Any, str]] = {"step": (Trainer, "train_step"), "update": (optimizers.Adam, "step")}


@pytest.mark.parametrize("during", DURING)
@pytest.mark.parametrize("number", starting.DEFAULTS)
@pytest.mark.usefixtures("quick")
def test_what_ends_a_run_keeps_its_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, during: str
) -> None:
    command = ["train", "--out", str(tmp_path), *(f"{key}={value}" for key, value in {**TINY, **FAST}.items())]
    owner, name = DURING[during]
    own, made = getattr(owner, name), [0]

    def ended(self: Any, *arguments: Any, **options: Any) -> Any:
        found = own(self, *arguments, **options)
        made[0] += 1
        if made[0] == 3:  # checkpoints are of even steps
            signal.raise_signal(number)
        return found

    signal.signal(number, starting.end)  # as where the process is the command
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, ended)
        assert main(command) == 128 + number
    assert signal.getsignal(number) is signal.SIG_DFL
    assert f"interrupted; the same command goes on from {tmp_path / CHECKPOINT}" in capsys.readouterr().err
    state = read_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 3
    assert main(command) == 0


KILLED = {"all": True, "what reads images": False}


@pytest.mark.parametrize("killed", KILLED)
@pytest.mark.usefixtures("quick")
def test_a_run_with_processes_keeps_its_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str) -> None:
    """They may end with it, and before it; torch's handler would raise that wherever the run is."""
    config = tiny_config(**FAST | {"steps": 40, "save_every": 20, "workers": 1})
    own = Trainer.train_step

    def step(self: Trainer, *arguments: Any) -> Any:
        found = own(self, *arguments)
        if self.step == 3:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
                child.join()
            if KILLED[killed]:
                signal.raise_signal(signal.SIGTERM)
        return found

    signal.signal(signal.SIGTERM, starting.interrupt)
    heard = signal.getsignal(signal.SIGCHLD)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step)
        ended = pytest.raises(KeyboardInterrupt if KILLED[killed] else TrainingError)
        with ended as error:
            train(config, tmp_path, progress=False)
    assert KILLED[killed] or "a process that reads images has ended" in str(error.value)
    state = read_checkpoint(tmp_path)
    assert state is not None
    assert 3 <= state["step"] < 20
    if heard is not signal.SIG_DFL:
        assert signal.getsignal(signal.SIGCHLD) is heard


def test_what_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `nohup` starts does not hear that its terminal is closed."""
    monkeypatch.setattr(starting, "is_command", lambda: True)
    for number, default in starting.DEFAULTS.items():
        signal.signal(number, default)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    starting.start()
    found = {number: signal.getsignal(number) for number in starting.DEFAULTS}
    assert found == {signal.SIGINT: starting.end, signal.SIGTERM: starting.end, signal.SIGHUP: signal.SIG_IGN}
