"""Runs one fuzz target, case after case: python -m fuzzing.driver TARGET --seed S (--cases N | --seconds T).

A case is a function of the target, the seed and its number alone, so that `--first I --cases 1` runs it again. It fails
where anything but the errors that a target accepts comes out of it, where it crashes or does not end, and where it
takes more memory than it may. Its number is kept in a file: who survives a crash can read it there.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import importlib.util
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

SECONDS_OF_A_CASE = 60.0
MEGABYTES = 700  # beyond what the process has when it starts: room for the allocator's arenas and a core's threads


class Target(NamedTuple):
    """What is fuzzed: prepare() in the beginning, then run(random) for each case; `accepted` are its errors."""

    run: Callable[[np.random.Generator], object]
    accepted: tuple[type[Exception], ...]
    prepare: Callable[[], object] = lambda: None


# Each in the module of the name before the slash.
TARGETS = (
    "core/build_graph", "core/hop_bands", "core/reversed_bands", "core/sweep", "core/attention", "core/lay_out",
    "core/decode", "core/decode_backward", "core/ghn", "core/search_space", "core/arguments",
    "files/checkpoint_bytes", "files/checkpoint_values", "files/deepnets_json", "files/deepnets_hdf5", "files/run",
    "files/graph",
)  # fmt: skip


def find(name: str) -> Target:
    module, _, function = name.partition("/")
    own = f"{__package__}.{module}_targets"  # its own tests bring others, which are no part of the package
    name = own if importlib.util.find_spec(own) else f"{module}_targets"
    targets: dict[str, Target] = importlib.import_module(name).TARGETS
    return targets[function]


def limit_memory() -> None:
    """Not under the address sanitizer, whose shadow takes terabytes of addresses."""
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEGABYTES * 2**20,) * 2)


def run_case(target: Target, seed: int, number: int) -> None:
    with contextlib.suppress(*target.accepted):
        target.run(np.random.default_rng((seed, number)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, default=sys.maxsize)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--progress", type=Path, default=Path(os.devnull))
    options = parser.parse_args()
    target = find(options.target)
    target.prepare()
    limit_memory()
    end = time.monotonic() + options.seconds
    with open(options.progress, "w") as progress:
        for number in range(options.first, options.first + options.cases):
            if time.monotonic() > end:
                break
            progress.seek(0)
            progress.write(str(number))
            progress.flush()
            faulthandler.dump_traceback_later(SECONDS_OF_A_CASE, exit=True)
            run_case(target, options.seed, number)
            faulthandler.cancel_dump_traceback_later()
        print(f"{options.target}: {number - options.first + 1} cases")


if __name__ == "__main__":
    faulthandler.enable()
    main()
