"""`ghnfast generate`: sample and write networks of DeepNets-1M."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from ..deepnets.dataset import SIZES
from ..deepnets.files import hdf5_path
from ..deepnets.generate import format_statistics, gather_statistics, parts_of, splits_to_write, write_splits
from ..progress import progress
from .arguments import parse_count, parse_seed
from .shared import check_folder, kept_in

GENERATED = ("eval", *SIZES)  # `eval` is all evaluation splits, which share a file


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "generate",
        help="generate networks of DeepNets-1M",
        description="Sample the networks of a split and print the published statistics of them; with --out also write "
        "them in the published HDF5 and JSON format. A call that was interrupted goes on where it was when it is "
        "repeated.",
    )
    parser.add_argument("split", metavar="SPLIT", choices=GENERATED, help=f"one of {', '.join(GENERATED)}")
    parser.add_argument("--count", type=parse_count, metavar="N", help="networks of each split; default: as published")
    parser.add_argument("--seed", type=parse_seed, default=0, metavar="S", help="another seed gives others; default: 0")
    parser.add_argument("--out", metavar="FOLDER", help="write deepnets1m_*.hdf5 and deepnets1m_*_meta.json into it")
    parser.add_argument("--json", action="store_true", help="print the statistics as one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    counts = splits_to_write(arguments.split, arguments.count)
    total, threads = sum(counts.values()), torch.get_num_threads()
    written: tuple[Path, ...] = ()
    if arguments.out is not None:
        check_folder(arguments.out)
        parts_of(hdf5_path(arguments.out, next(iter(counts))), counts, arguments.seed)
    # First, for a call that is interrupted after it has written everything would find files that are there already.
    with progress("statistics", total, "networks") as step:
        columns = {
            split: gather_statistics(split, count, arguments.seed, threads, step) for split, count in counts.items()
        }
    if arguments.out is not None:
        with kept_in(Path(arguments.out)), progress("writing", total, "networks") as step:
            written = write_splits(arguments.out, counts, arguments.seed, step)
    if arguments.json:
        return json.dumps({"seed": arguments.seed, "files": [str(path) for path in written], "statistics": columns})
    return "\n".join([format_statistics(columns), *(f"wrote {path}" for path in written)])
