"""`ghnfast properties`: compare embeddings on networks whose properties were measured, and measure them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints import DEFAULT
from ..errors import UsageError
from ..optional import import_optional
from ..predict import load
from ..progress import progress
from ..training import load_data
from .arguments import add_images, parse_count, parse_seed
from .search import METHODS, POOLS
from .shared import check_output, kept_in, write_text

if TYPE_CHECKING:
    from ..properties.table import Training


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "properties",
        help="compare how well embeddings predict properties of networks",
        description="Predict four properties of the test networks of DeepNets-1M from those of validation networks, by "
        "the published protocol, with GHNs, with GHNs of random weights, and without any; print Kendall's tau, and "
        "draw it. With --measure, train networks and measure their properties first: this takes hours, and goes on "
        "where it was when it is repeated. Needs scikit-learn and scipy.",
    )
    parser.add_argument("file", metavar="FILE", help="CSV of measured networks, which --measure writes")
    parser.add_argument(
        "--ghn", action="append", metavar="NAME=SOURCE", help=f"a GHN and the name of its row, or several; {DEFAULT}"
    )
    parser.add_argument("--pool", default="mean", choices=POOLS, help="how node states are pooled; default: mean")
    parser.add_argument("--method", default="svr", choices=METHODS, help="of prediction; default: svr, as published")
    parser.add_argument("--permutations", type=parse_count, default=5, metavar="N", help="default: 5")
    parser.add_argument("--random", type=parse_count, default=3, metavar="N", help="GHNs of random weights; default: 3")
    parser.add_argument("--svg", metavar="FILE", help="draw the bars; needs matplotlib")
    parser.add_argument("--json", action="store_true", help="print the table as one JSON object")
    measured = parser.add_argument_group("measuring")
    measured.add_argument("--measure", type=parse_count, metavar="N", help="first, N networks of either split")
    measured.add_argument("--channels", type=parse_count, default=8, metavar="N", help="of all networks; default: 8")
    measured.add_argument("--epochs", type=parse_count, default=5, metavar="N", help="of training; default: 5")
    measured.add_argument("--seed", type=parse_seed, default=0, metavar="S", help="of training; default: 0")
    add_images(measured)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    from ..properties.drawing import draw_bars
    from ..properties.protocol import Measured, compare, format_comparison
    from ..properties.table import Training

    svg = check_output(arguments.svg, (".svg",))
    training = Training(arguments.channels, arguments.epochs, arguments.seed)
    sources = parse_ghns(arguments.ghn or [f"GHN-2={DEFAULT}"])
    # All that may be missing, before hours of measuring.
    if svg is not None:
        import_optional("matplotlib.figure", "--svg needs")
    ghns = {name: load(source) for name, source in sources.items()}
    if arguments.measure:
        with kept_in(Path(arguments.file)):
            measure(arguments, training)
    measured = Measured(arguments.file)
    options = {"pool": arguments.pool, "method": arguments.method, "random_ghns": arguments.random}
    with progress("comparing", None, "trials") as step:
        results = compare(measured, ghns, permutations=arguments.permutations, progress=step, **options)
    text = json.dumps(results) if arguments.json else format_comparison(results)
    if svg is not None:
        write_text(svg, draw_bars(results), text)
    return text


def parse_ghns(texts: Sequence[str]) -> dict[str, str]:
    """Sources by the names of their rows, each of which there is once."""
    from ..properties.protocol import OWN_ROWS

    found: dict[str, str] = {}
    for text in texts:
        name, _, source = text.partition("=")
        if not name or not source:
            raise UsageError(f"--ghn is {text!r}; NAME=SOURCE is accepted, such as GHN-1=runs/ghn1/ghn.safetensors")
        if name in found or name in OWN_ROWS:
            raise UsageError(f"--ghn is {text!r}; there is another row {name!r}, and a name of its own is accepted")
        found[name] = source
    return found


def measure(arguments: argparse.Namespace, training: Training) -> None:
    from ..properties.measuring import measure_into

    check_output(arguments.file, (".csv",))
    data = load_data(arguments.data, arguments.root, validation=False, image_size=arguments.image_size)
    splits = {"val": arguments.measure, "test": arguments.measure}
    with progress("measuring", sum(splits.values()), "networks") as step:
        measure_into(Path(arguments.file), data, splits, training, step)
