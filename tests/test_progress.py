"""How far something is: nothing where it is quick, a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import errno
import io
import sys
import time
from typing import Any

import pytest

from ghnfast.progress import in_time, progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_what_is_quick_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("drawing", 20, "networks") as told:
        for _ in range(20):
            clock[0] += 0.09
            told(1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("total", "unit", "each", "wanted"),
    [
        (
            25, "networks", 1,
            ["2 of 25 networks, 23 s to go", "12 of 25 networks, 13 s to go",
             "22 of 25 networks, 3 s to go", "25 networks, 25 s in all"],
        ),
        (
            None, "networks", 1,
            ["2 networks, after 2 s", "12 networks, after 12 s", "22 networks, after 22 s", "25 networks, 25 s in all"],
        ),
        (
            25_000_000, "bytes", 1_000_000,
            ["2.0 of 25.0 MB, 23 s to go", "12.0 of 25.0 MB, 13 s to go", "22.0 of 25.0 MB, 3 s to go",
             "25.0 MB, 25 s in all"],
        ),
    ],
)  # fmt: skip
def test_lines_come_at_most_every_ten_seconds(
    clock: list[float], capsys: pytest.CaptureFixture[str], total: int | None, unit: str, each: int, wanted: list[str]
) -> None:
    with progress("reading", total, unit) as told:
        for _ in range(25):
            clock[0] += 1
            told(each)
    assert capsys.readouterr().err.splitlines() == [f"reading: {line}" for line in wanted]


def test_a_failure_is_no_end(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with progress("reading", 10, "files") as told:
            clock[0] += 5
            told(3)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        work()
    assert capsys.readouterr().err == "reading: 3 of 10 files, 12 s to go\n"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("ghnfast.progress.QUIET_SECONDS", 0.0)
    with progress("reading", 4, "files") as told:
        told(4)
    assert "4/4" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with progress("reading", 4, "files") as told:
        told(4)
    assert capsys.readouterr().err.startswith("reading: 4 files, 0 s in all")


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("stream", [None, Full()], ids=["closed", "full"])
def test_what_cannot_be_said_is_no_end(stream: Any, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("reading", 10, "files") as told:
        for _ in range(10):
            clock[0] += 5
            told(1)


def test_times_in_words() -> None:
    assert [in_time(seconds) for seconds in (0.4, 59, 60, 3599, 3600, 90_000)] == [
        "0 s", "59 s", "1 min", "1 h 0 min", "1 h 0 min", "25 h 0 min",
    ]  # fmt: skip


@pytest.mark.parametrize(("total", "wanted"), [(3, "0 of 3 trainings, after 0 s"), (None, "0 trainings, after 0 s")])
@pytest.mark.parametrize("terminal", [False, True])
def test_what_takes_long_says_so_before_its_first_part_is_done(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, total: int | None, wanted: str
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("ghnfast.progress.LINE_SECONDS", 0.01)
    with progress("fine-tuning", total, "trainings"):
        limit = time.monotonic() + 5
        while not stream.getvalue() and time.monotonic() < limit:
            time.sleep(0.005)
        said = stream.getvalue()
        time.sleep(0.05)
        assert terminal or stream.getvalue() == said  # nothing new: not again for a minute
    assert "fine-tuning: " in said if terminal else said == f"fine-tuning: {wanted}\n"
