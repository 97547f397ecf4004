"""`ghnfast search`: find the networks for which a predictor of a property says the most."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from ..deepnets import DeepNets1M
from ..deepnets.dataset import SIZES
from ..errors import UsageError
from ..progress import progress
from .arguments import add_ghn, parse_count, parse_seed
from .shared import Json

if TYPE_CHECKING:
    from ..properties.table import MeasuredNetworks

POOLS, METHODS = ("stats", "mean"), ("gp", "svr")


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "search",
        help="rank networks by a property that is predicted from a few labels",
        description="Fit a predictor of a property to labelled networks, and print the networks of a split of "
        "DeepNets-1M for which it says the most; or, with --evolve, genotypes that mutation and selection find. "
        "Needs scikit-learn and scipy.",
    )
    parser.add_argument(
        "--labels",
        required=True,
        metavar="FILE",
        help="CSV with a line that names columns: 'architecture' (a genotype, a cell of NAS-Bench-201, a code of "
        "NAS-Bench-Macro), or 'split', 'index' and perhaps 'seed'; and a column of numbers",
    )
    parser.add_argument("--column", metavar="NAME", help="the column of labels; default: accuracy, or the only one")
    parser.add_argument("--split", choices=list(SIZES), help="that is searched; default: search")
    parser.add_argument("--limit", type=parse_count, metavar="N", help="the first networks of it; default: all")
    parser.add_argument("--top", type=parse_count, default=20, metavar="N", help="how many to print; default: 20")
    parser.add_argument("--least", action="store_true", help="less is better, as of latency")
    parser.add_argument("--evolve", type=parse_count, metavar="N", help="evolve genotypes for N generations instead")
    parser.add_argument("--seed", type=parse_seed, default=0, metavar="S", help="of networks; default: 0")
    add_ghn(parser)
    parser.add_argument("--pool", default="stats", choices=POOLS, help="how node states are pooled; default: stats")
    parser.add_argument("--method", default="gp", choices=METHODS, help="of prediction; default: gp")
    parser.add_argument("--json", action="store_true", help="print the networks as one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    from .. import properties

    split = check_searched(arguments)
    read = properties.read_labels(arguments.labels, arguments.column)
    if read.measured is not None and arguments.evolve:
        raise UsageError(
            f"--evolve makes networks of 32 channels, and those of {arguments.labels} were measured with "
            f"{read.measured.training.channels}; --split is accepted, or labels of genotypes"
        )
    model = properties.make_model(arguments.ghn, arguments.pool, arguments.method)
    model.fit(read.networks, read.labels)
    found = evolved(model, arguments) if arguments.evolve else ranked(model, split, arguments, read.measured)
    result = {"labels": len(read.labels), "column": read.column, "networks": found}
    return json.dumps(result) if arguments.json else format_result(result)


def check_searched(arguments: argparse.Namespace) -> str:
    """The split that is searched, all of which may be asked for, and no more."""
    if arguments.evolve and (arguments.split or arguments.limit):
        given = "--split" if arguments.split else "--limit"
        raise UsageError(
            f"--evolve makes networks, and {given} chooses among those of a split; one of them is accepted"
        )
    split: str = arguments.split or "search"
    if arguments.limit and arguments.limit > SIZES[split]:
        raise UsageError(f"--limit is {arguments.limit}; the split {split} has {SIZES[split]:,} networks")
    return split


def ranked(model: Any, split: str, arguments: argparse.Namespace, measured: MeasuredNetworks | None) -> list[Json]:
    """The first networks of a split, each as the labels were measured."""
    from ..properties import search

    options: dict[str, Any] = {"top": arguments.top, "largest": not arguments.least}
    kind: dict[str, Any] = {}
    if measured is not None:
        options["as_measured"] = measured.training.network
        kind = {"large_images": measured.large_images, "num_classes": measured.classes}
    dataset = DeepNets1M(split, seed=arguments.seed, size=arguments.limit, **kind)
    with progress("searching", len(dataset), "networks") as step:
        found = search(model, dataset, progress=step, **options)
    rows = []
    for each in found:
        item = dataset[each.network]
        rows.append({
            "split": item.split, "index": each.network, "seed": arguments.seed, "predicted": each.predicted,
            "parameters": item.num_params["cifar10"], "genotype": repr(item.genotype),
        })  # fmt: skip
    return rows


def evolved(model: Any, arguments: argparse.Namespace) -> list[Json]:
    from ..properties import evolve

    options: dict[str, Any] = {"generations": arguments.evolve, "top": arguments.top, "seed": arguments.seed}
    with progress("evolving", None, "networks") as step:
        found = evolve(model, largest=not arguments.least, progress=step, **options)
    return [{"predicted": each.predicted, "genotype": repr(each.genotype)} for each in found]


def format_result(result: Json) -> str:
    rows = result["networks"]
    names = [f"{row['split']} {row['index']}" if "index" in row else "" for row in rows]
    seeds = {row["seed"] for row in rows if row.get("seed")}
    width = max(map(len, ["network", *names]))
    of_seed = "".join(f", networks of seed {seed}" for seed in seeds)
    lines = [
        f"predicted from {result['labels']:,} labels{of_seed}",
        f"{'network':{width}} {result['column']:>12}  genotype",
    ]
    pairs = zip(names, rows, strict=True)
    return "\n".join([*lines, *(f"{name:{width}} {row['predicted']:12.6g}  {row['genotype']}" for name, row in pairs)])
