"""The program: its parser, what becomes of results and errors, and exit codes."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn, TextIO

from ..errors import GhnfastError, UsageError
from ..files import in_words
from ..progress import say
from ..starting import BAD_INPUT, INTERRUPTED, has_ended, has_started
from . import (
    bench,
    completion,
    evaluate,
    finetune,
    generate,
    ghns,
    graph,
    info,
    plot,
    predict,
    properties,
    search,
    train,
    verify,
)
from .models import in_call
from .shared import Mismatch, UnwrittenError

BROKEN_PIPE = 1
LAST_STREAM = 2  # stderr's number
MISMATCH = 1
# In the order in which --help has them.
COMMANDS = (
    *(predict, graph, bench, generate, train, evaluate, finetune, properties, search),
    *(plot, verify, ghns, info, completion),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments, by default those of the process.

    Returns:
        The exit code: 0; 1 where what was to be verified is not so; 2 after an error message on stderr; or 130 where
        it was interrupted (Ctrl-C), 143 where it was to end (SIGTERM), 129 where its terminal was closed (SIGHUP).

    Raises:
        SystemExit: after `--help` and `--version`.
    """
    open_closed_streams()
    try:
        has_started()
        return outcome(argv)
    finally:
        has_ended()
        for stream in (sys.stdout, sys.stderr):
            settle(stream)


def outcome(argv: Sequence[str] | None) -> int:
    arguments = argparse.Namespace()
    try:
        arguments = make_parser().parse_args(argv)
        result = result_of(arguments)
        if result:  # processes beside the first have none
            write(result)
    except GhnfastError as error:
        words = sys.argv[1:] if argv is None else argv
        if isinstance(error, UnwrittenError) and error.result:
            with contextlib.suppress(GhnfastError, OSError):  # what comes next is said in any case
                write(error.result)
        say(f"ghnfast: error: {in_options(' '.join(str(error).split()), arguments, words)}")
        return BAD_INPUT
    except KeyboardInterrupt as error:  # whose text, if any, says what a repeated call goes on from
        has_ended()
        say("; ".join(["ghnfast: interrupted", *map(str, error.args)]))
        return INTERRUPTED + int(getattr(error, "number", signal.SIGINT))
    except BrokenPipeError:  # the reader has seen enough (`| head`)
        return BROKEN_PIPE
    return MISMATCH if isinstance(result, Mismatch) else 0


def in_options(text: str, arguments: argparse.Namespace, words: Sequence[str]) -> str:
    """An error of the library in words of the command line: what it says of arguments of Python, of its options.

    Args:
        arguments: of the command; what has an underscore is one of its options.
        words: of the command line. An option that is among them is named where the text says what it is, and one that
            is to be passed.
    """
    given = [word.partition("=")[0] for word in words if word.startswith("--") and word != "--"]
    for name in filter(lambda name: "_" in name, vars(arguments)):
        option = f"--{name.replace('_', '-')}"
        with_values = rf"\b([Pp]ass (?:the )?){name}=\((\w+(?:, \w+)*)\)"
        text = re.sub(with_values, functools.partial(hint, option), text)
        text = re.sub(rf"\b([Pp]ass (?:the )?){name}\b(?!=)", rf"\1{option}", text)
        if any(option.startswith(word) for word in given):
            text = re.sub(rf"(?<![\w.'\"-]){name}(?= is\b)", option, text)
    return text.replace(" or example_inputs=(...)", " or, in Python, example_inputs=(...)")


def hint(option: str, found: re.Match[str]) -> str:
    """`Pass --input-shape CHANNELS,HEIGHT,WIDTH`."""
    return f"{found[1]}{option} {found[2].upper().replace(' ', '')}"


def open_closed_streams() -> None:
    """Put the null device where the caller has closed stdin, stdout or stderr: else files would get their numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= LAST_STREAM:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def settle(stream: TextIO) -> None:
    """Give up what cannot be written: Python flushes once more at exit, and would fail, with a message of its own."""
    try:
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def write(result: str) -> None:
    try:
        print(printable(result), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"the result cannot be written to stdout: {in_words(error)}") from error


def result_of(arguments: argparse.Namespace) -> str:
    # What models print of themselves must not mix with the result, which may be JSON.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            result: str = arguments.run(arguments)
        except SystemExit as error:  # of a model's forward; an exit code of its own would say that all went well
            raise UsageError(f"the model calls sys.exit({in_call(error)}) when it runs") from error
    return result


def printable(text: str) -> str:
    """What stdout can write: names of files need not be text in its encoding."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see '{self.prog} --help')")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="ghnfast", description="Predict the parameters of neural networks with Graph HyperNetworks.")
    parser.add_argument("--version", action="version", version=f"ghnfast {version('ghnfast')}")
    parser.set_defaults(make_parser=make_parser)  # for the command that describes all of them
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser
