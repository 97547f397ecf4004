"""How far something is that takes a while: a bar on a terminal, where tqdm is installed, else lines; both on stderr.

What is done within two seconds says nothing. What takes long says so before its first part is done, too.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

QUIET_SECONDS = 2.0  # in the beginning
LINE_SECONDS = 10.0  # between lines, at least
STILL_SECONDS = 60.0  # between lines that say nothing new

Progress = Callable[[int], object]  # is told how many more are done


def say(text: str) -> None:
    """A line on stderr. Where that is closed, its reader gone or its disk full, what is done goes on unsaid.

    What it has no characters for, such as a path's, is escaped, also where a stream stands there that would not.
    """
    if sys.stderr is not None:
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        with contextlib.suppress(OSError):
            print(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr, flush=True)


def on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


@contextlib.contextmanager
def progress(what: str, total: int | None, unit: str) -> Iterator[Progress]:
    """Says how far a block is.

    Args:
        what: is done; the beginning of what is said.
        total: how many there are, where it is known.
        unit: what they are, in the plural; bytes are counted in MB.
    """
    bars = kind_of_bars() if on_terminal() else None
    if bars is not None:
        scale = {"unit": "B", "unit_scale": True} if unit == "bytes" else {"unit": f" {unit}"}
        with bars(desc=what, total=total, delay=QUIET_SECONDS, file=sys.stderr, **scale) as bar, beating(bar.refresh):
            yield bar.update
        return
    lines = Lines(what, total, unit)
    with beating(lines.beat):
        yield lines.add
    lines.close()


@contextlib.contextmanager
def beating(beat: Callable[[], object]) -> Iterator[None]:
    """Calls it every `LINE_SECONDS` from a thread: a part, such as a training, may take minutes."""
    over = threading.Event()

    def run() -> None:
        with contextlib.suppress(OSError, ValueError):  # of a stream that is closed, or whose reader is gone
            while not over.wait(LINE_SECONDS):
                beat()

    thread = threading.Thread(target=run, name="ghnfast-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def kind_of_bars() -> Callable[..., Any] | None:
    """tqdm's, where it is installed: lines do without."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    bars: Callable[..., Any] = tqdm
    return bars


class Lines:
    """Says it in lines: after the first seconds, now and then, and at last."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done, self.said = 0, False
        self.start = time.monotonic()
        self.next = self.start + QUIET_SECONDS
        self.still = self.start + LINE_SECONDS
        self.lock = threading.Lock()

    def add(self, count: int) -> None:
        with self.lock:
            self.done += count
            now = time.monotonic()
            if now >= self.next and self.done != self.total:
                self.say_how_far(now)

    def beat(self) -> None:
        """Says that it goes on, where nothing has been said for long."""
        with self.lock:
            now = time.monotonic()
            if now >= self.still:
                self.say_how_far(now)

    def say_how_far(self, now: float) -> None:
        self.next, self.still = now + LINE_SECONDS, now + STILL_SECONDS
        self.say(self.so_far(now - self.start))

    def so_far(self, seconds: float) -> str:
        if not self.total:
            return f"{self.number(self.done)} {self.name}, after {in_time(seconds)}"
        if not self.done:
            return f"0 of {self.number(self.total)} {self.name}, after {in_time(seconds)}"
        left = seconds / self.done * (self.total - self.done)
        return f"{self.number(self.done)} of {self.number(self.total)} {self.name}, {in_time(left)} to go"

    @property
    def name(self) -> str:
        return "MB" if self.unit == "bytes" else self.unit

    def number(self, count: int) -> str:
        return f"{count / 1e6:.1f}" if self.unit == "bytes" else f"{count:,}"

    def close(self) -> None:
        seconds = time.monotonic() - self.start
        if self.said or seconds >= QUIET_SECONDS:
            self.say(f"{self.number(self.done)} {self.name}, {in_time(seconds)} in all")

    def say(self, text: str) -> None:
        self.said = True
        say(f"{self.what}: {text}")


def in_time(seconds: float) -> str:
    """Seconds in words: 45 s, 12 min, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
