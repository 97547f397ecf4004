"""`ghnfast completion`: what makes a shell complete commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ..optional import import_optional

SHELLS = ("bash", "zsh", "tcsh")


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "completion",
        help="print what makes a shell complete commands",
        description="Print a script that makes a shell complete the commands and options of ghnfast, without running "
        'it: eval "$(ghnfast completion bash)", or into the shell\'s folder of completions. Needs the package shtab.',
    )
    parser.add_argument("shell", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    make_parser: Callable[[], argparse.ArgumentParser] = arguments.make_parser
    script: str = import_optional("shtab", "ghnfast completion needs").complete(make_parser(), arguments.shell)
    return script.rstrip("\n")
