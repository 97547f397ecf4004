"""The program: its parser, what becomes of results and errors, and exit codes."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from ..errors import GhnfastError, UsageError
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
from .shared import Mismatch

BAD_INPUT = 2  # the exit code
BROKEN_PIPE = 1
INTERRUPTED = 130  # as shells have it: 128 and the number of the signal
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
        it was interrupted (Ctrl-C).

    Raises:
        SystemExit: after `--help` and `--version`.
    """
    try:
        arguments = make_parser().parse_args(argv)
        result = result_of(arguments)
        print(printable(result), flush=True)
    except GhnfastError as error:
        print("ghnfast: error:", " ".join(str(error).split()), file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt as error:  # whose text, if any, says what a repeated call goes on from
        print("; ".join(["ghnfast: interrupted", *map(str, error.args)]), file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough (`| head`). Python flushes stdout once more at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return MISMATCH if isinstance(result, Mismatch) else 0


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
