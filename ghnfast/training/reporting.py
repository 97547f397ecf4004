"""What a run says of itself: its log, TensorBoard, callbacks, and how far it is, by a bar on a terminal or by lines."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..optional import import_optional
from ..progress import LINE_SECONDS, in_time, on_terminal, say
from .folder import append_line, cut_log
from .step import StepResult, Trainer

Callback = Callable[[dict[str, float]], object]  # takes an entry of the log


NO_UPDATE = "no update"


class Reporter:
    """The log, TensorBoard, callbacks, and how far the run is: a bar on a terminal, with tqdm, else lines."""

    def __init__(self, trainer: Trainer, path: Path | None, progress: bool, callbacks: Sequence[Callback] = ()) -> None:
        self.trainer, self.path, self.callbacks, self.results = trainer, path, callbacks, list[StepResult]()
        bar = make_bar(trainer) if progress and trainer.step < trainer.steps else None
        self.shown = Lines(trainer) if progress and bar is None else bar
        if progress and trainer.step == trainer.steps:
            say(finished(trainer, path))
        self.board = make_board(path) if path is not None and trainer.config.tensorboard else None
        if path is not None:
            cut_log(path, trainer.step)

    def add(self, result: StepResult) -> None:
        self.results.append(result)
        if self.shown is not None:
            self.shown.add(result)
        if self.trainer.step % self.trainer.config.log_every == 0 or self.trainer.step == self.trainer.steps:
            self.report()

    def report(self) -> None:
        values = summary(self.results, self.trainer)
        self.results = []
        if self.path is not None:
            append_line(self.path, values)
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, self.trainer.step)
        for callback in self.callbacks:
            callback(dict(values))

    def close(self) -> None:
        for sink in (self.shown, self.board):
            if sink is not None:
                sink.close()


def finished(trainer: Trainer, path: Path | None) -> str:
    """What is said of a run that has nothing left to do."""
    name = "steps" if trainer.config.steps else "epochs"
    return (
        f"the run in {path} is finished, with all of its {trainer.steps} steps; it goes on with more {name} than "
        f"{name}={getattr(trainer.config, name)}"
    )


def summary(results: Sequence[StepResult], trainer: Trainer) -> dict[str, float]:
    """Means since the last report; where no step had an update, there are none of `loss` and `top1`."""
    done = [result for result in results if not result.skipped]
    seconds = sum(result.seconds for result in results)
    means = {name: sum(getattr(result, name) for result in done) / len(done) for name in ("loss", "top1") if done}
    return {
        "step": trainer.step,
        **means,
        "lr": trainer.optimizer.param_groups[0]["lr"],
        "networks_per_second": sum(result.networks for result in results) / seconds,
        "ghn_share": sum(result.ghn_seconds for result in results) / seconds,
        "seconds": seconds,
        "skipped": trainer.all_skipped,
    }


class Lines:
    """Says on stderr how far a run is, where there is no terminal for a bar: first, now and then, and at last."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.first, self.results = trainer, trainer.step, list[StepResult]()
        self.start = time.monotonic()
        self.next = self.start

    def add(self, result: StepResult) -> None:
        self.results.append(result)
        say_skipped(result, self.trainer, say)
        now = time.monotonic()
        if now >= self.next or self.trainer.step == self.trainer.steps:
            self.next = now + LINE_SECONDS
            say(self.line(now - self.start))
            self.results = []

    def line(self, seconds: float) -> str:
        values, step, steps = summary(self.results, self.trainer), self.trainer.step, self.trainer.steps
        left = seconds / (step - self.first) * (steps - step)
        end = f"{in_time(left)} to go" if step < steps else f"{in_time(seconds)} in all"
        found = f"loss {values['loss']:.3f}, top1 {values['top1']:.1f} %" if "loss" in values else NO_UPDATE
        return f"step {step} of {steps}: {found}, {values['networks_per_second']:.1f} networks a second, {end}"

    def close(self) -> None:
        pass


class Bar:
    """The same, by a bar of tqdm."""

    def __init__(self, trainer: Trainer, bar: Any) -> None:
        self.trainer, self.bar, self.results = trainer, bar, list[StepResult]()

    def add(self, result: StepResult) -> None:
        self.results.append(result)
        say_skipped(result, self.trainer, functools.partial(self.bar.write, file=sys.stderr))
        if self.trainer.step % self.trainer.config.log_every == 0 or self.trainer.step == self.trainer.steps:
            values = summary(self.results, self.trainer)
            names = ("loss", "top1", "networks_per_second", "ghn_share")
            shown = {name: f"{values[name]:.3g}" if name in values else NO_UPDATE for name in names}
            self.bar.set_postfix(shown)
            self.results = []
        self.bar.update(1)

    def close(self) -> None:
        self.bar.close()


def say_skipped(result: StepResult, trainer: Trainer, write: Callable[[str], object]) -> None:
    if result.skipped:
        write(f"step {trainer.step - 1} was skipped: {result.skipped}")


def make_bar(trainer: Trainer) -> Bar | None:
    """A progress bar, where there are tqdm and a terminal."""
    if not on_terminal():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return Bar(trainer, tqdm(total=trainer.steps, initial=trainer.step, unit=" steps", file=sys.stderr))


def make_board(path: Path) -> Any:
    import_optional("tensorboard", "tensorboard = true needs")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(path))
