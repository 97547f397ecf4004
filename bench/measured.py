"""How well properties of networks that were trained here are predicted, into bench/results/properties-measured.json.

The published protocol (four properties, from the networks of the split val to those of the split test), once as
published, once with the package's own vectors and regressor. The table of networks is what this command adds to:

    ghnfast properties bench/results/measured.csv --measure N
    python bench/measured.py --ghn "GHN-2=ghn2-fashion" --ghn "MLP=runs/mlp/ghn.safetensors"
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accuracy import RESULTS, git, machine, write

from ghnfast.cli.properties import parse_ghns
from ghnfast.properties.protocol import PERMUTATIONS, RANDOM_GHNS, Measured, compare

TABLE, TARGET = RESULTS / "measured.csv", RESULTS / "properties-measured.json"
# {what was done: how vectors are pooled, and what predicts from them}.
WAYS = {"as published": ("mean", "svr"), "by default": ("stats", "gp")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE, help="default: %(default)s")
    parser.add_argument("--ghn", action="append", metavar="NAME=SOURCE", required=True)
    parser.add_argument("--random-ghns", type=int, default=RANDOM_GHNS, help="default: %(default)s")
    parser.add_argument("--permutations", type=int, default=PERMUTATIONS, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=TARGET, help="default: %(default)s")
    given = parser.parse_args(arguments)
    dirty = bool(git("status", "--porcelain", "--untracked-files=no", "--", "../ghnfast"))
    measured, ghns = Measured(given.table), parse_ghns(given.ghn)
    found: dict[str, Any] = {
        way: compare(
            measured,
            ghns,
            pool=pool,
            method=method,
            permutations=given.permutations,
            random_ghns=given.random_ghns,
        )
        for way, (pool, method) in WAYS.items()
    }
    found["networks"] = {split: len(graphs) for split, graphs in measured.graphs.items()}
    found["about"] = {
        "machine": machine(), "torch": version("torch"), "scikit-learn": version("scikit-learn"),
        "python": platform.python_version(), "commit": git("rev-parse", "HEAD"), "dirty": dirty,
        "date": time.strftime("%Y-%m-%d"), "ghns": ghns, "permutations": given.permutations,
        "random_ghns": given.random_ghns,
    }  # fmt: skip
    write(given.out, found)


if __name__ == "__main__":
    main()
