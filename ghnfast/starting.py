"""Before torch is imported, which takes seconds: Ctrl-C without a traceback, and a working directory that is gone. And
Ctrl-C once all is said, while Python ends.

What schedulers send before they kill (SIGTERM), and terminals that are closed (SIGHUP), is as Ctrl-C: what was made is
kept, and said. Who ignores them, as what `nohup` starts, goes on.

In one that is gone MKL, of which torch is made, ends the process with words of its own.

The package imports this before anything else. It acts where the process is the command, and nowhere else: a program
that imports ghnfast keeps what it does about signals.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

COMMAND = "ghnfast"
STDERR = 2
BAD_INPUT = 2  # the exit code
INTERRUPTED = 128  # and the number of the signal, as shells have it
# What ends a command, by what Python does about it.
DEFAULTS: dict[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


class Interrupted(KeyboardInterrupt):
    """By a signal; its text, if any, says what a repeated call goes on from."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def is_command() -> bool:
    """Whether Python was started as `ghnfast`, or as `python -m ghnfast`."""
    if sys.argv[:1] == ["-m"]:  # which stands there until the module is found
        return any(pair == ("-m", COMMAND) for pair in zip(sys.orig_argv, sys.orig_argv[1:], strict=False))
    return bool(sys.argv) and os.path.basename(sys.argv[0]) == COMMAND


def end(number: int, frame: Any) -> None:
    # Not an exception: extensions that are being imported make others of it. There is nothing yet to be undone.
    try:
        os.write(STDERR, b"ghnfast: interrupted\n")
    finally:
        os._exit(INTERRUPTED + number)


def has_started() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt."""
    replace(end, interrupt)


def interrupt(number: int, frame: Any) -> None:
    """As Python's own handler; that it is ours says that the process is the command."""
    raise Interrupted(number)


def has_ended() -> None:
    """From now on Ctrl-C ends the process at once: nobody is there any more to say what a KeyboardInterrupt is."""
    replace(interrupt, signal.SIG_DFL)


def replace(old: Any, new: Any) -> None:
    for number in DEFAULTS:
        if signal.getsignal(number) is old:
            signal.signal(number, new)


def start() -> None:
    if not is_command():
        return
    if threading.current_thread() is threading.main_thread():
        for number, default in DEFAULTS.items():
            if signal.getsignal(number) is default:
                signal.signal(number, end)
    try:
        os.getcwd()
    except OSError as error:
        print(f"ghnfast: error: the working directory cannot be used: {error.strerror}", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from None


start()
