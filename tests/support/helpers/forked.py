"""Processes of their own without the seconds that importing torch takes: forked from one that has imported ghnfast.

That one has done nothing else: none of its children has what tests left behind, or threads, or torch's state.

    process = Forked(main, ["train", "--out", folder])
    assert process.wait() == 0, process.stderr()
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ghnfast", "ghnfast.cli", "ghnfast.training"])
LONGEST = 300.0  # seconds


class Forked:
    """Calls a function of a module; what it returns is the process's exit status, as a command's is."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, folder: str | Path | None = None) -> None:
        self.streams = Path(tempfile.mkdtemp(prefix="ghnfast-test-"))
        self.process = CONTEXT.Process(
            target=run, args=(str(self.streams), dict(os.environ), folder or os.getcwd(), function, arguments)
        )
        self.process.start()
        self.number = self.process.pid

    def wait(self) -> int:
        """Its exit status; what it was killed by, negative."""
        self.process.join(LONGEST)
        assert self.process.exitcode is not None, f"it still runs after {LONGEST} seconds: {self.stderr()}"
        return self.process.exitcode

    def wait_for(self, words: str) -> None:
        """Until it has written them, and nothing else."""
        while (found := self.stdout()) != words:
            assert words.startswith(found), found
            assert self.running(), self.stderr()
            time.sleep(0.01)

    def running(self) -> bool:
        return self.process.is_alive()

    def kill(self) -> None:
        """At once, as a scheduler or a machine that has no memory left."""
        self.process.kill()
        assert self.wait() == -signal.SIGKILL

    def stdout(self) -> str:
        return self.written("stdout")

    def stderr(self) -> str:
        return self.written("stderr")

    def written(self, stream: str) -> str:
        file = self.streams / stream
        return file.read_text() if file.exists() else ""


def script(code: str, *arguments: Any) -> None:
    """What `python -c` would do with it."""
    sys.argv = ["-c", *map(str, arguments)]
    exec(code, {"__name__": "__main__"})


def run(
    streams: str, environment: Mapping[str, str], folder: str | Path, function: Callable[..., Any], arguments: Any
) -> None:
    """In the child: in the environment of the test that has started it, which may be another one than the parent's."""
    for number, stream in enumerate(("stdout", "stderr"), 1):
        os.dup2(os.open(os.path.join(streams, stream), os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    raise SystemExit(function(*arguments))
