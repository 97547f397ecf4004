"""Before torch is imported, which takes seconds: Ctrl-C without a traceback, and a working directory that is gone. And
Ctrl-C once all is said, while Python ends.

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
INTERRUPTED = 130  # as shells have it: 128 and the number of the signal


def is_command() -> bool:
    """Whether Python was started as `ghnfast`, or as `python -m ghnfast`."""
    if sys.argv[:1] == ["-m"]:  # which stands there until the module is found
        return any(pair == ("-m", COMMAND) for pair in zip(sys.orig_argv, sys.orig_argv[1:], strict=False))
    return bool(sys.argv) and os.path.basename(sys.argv[0]) == COMMAND


def end(*_: Any) -> None:
    # Not an exception: extensions that are being imported make others of it. There is nothing yet to be undone.
    try:
        os.write(STDERR, b"ghnfast: interrupted\n")
    finally:
        os._exit(INTERRUPTED)


def has_started() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is end:
        signal.signal(signal.SIGINT, interrupt)


def interrupt(number: int, frame: Any) -> None:
    """Python's own handler; that it is ours says that the process is the command."""
    signal.default_int_handler(number, frame)


def has_ended() -> None:
    """From now on Ctrl-C ends the process at once: nobody is there any more to say what a KeyboardInterrupt is."""
    if signal.getsignal(signal.SIGINT) is interrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def start() -> None:
    if not is_command():
        return
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, end)
    try:
        os.getcwd()
    except OSError as error:
        print(f"ghnfast: error: the working directory cannot be used: {error.strerror}", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from None


start()
