"""`ghnfast evaluate`: measure the accuracy of networks with predicted parameters."""

from __future__ import annotations

import argparse
import json
import warnings
from typing import Any

from ..errors import DomainWarning, UsageError
from ..nn import GHN
from ..predict import load
from ..progress import progress, say
from ..training import baseline, evaluate, format_results, load_data
from ..training.accuracy import STATISTICS
from ..training.data import DATA_SETS, IMAGE_SIZE
from ..training.evaluate import other_images
from .arguments import add_ghn, add_images, check_device, parse_count, parse_seed
from .shared import check_output, write_text


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure the accuracy of networks with predicted parameters",
        description="Predict the parameters of networks of DeepNets-1M, or of families, and measure their accuracy on "
        "test images; or, with --baseline, train the same networks from random initialization.",
    )
    add_ghn(parser)
    add_images(parser, of_the_ghn=True)
    parser.add_argument(
        "--split",
        default="test",
        help="of networks, or several: test,wide,deep; families and unseen are members of well-known families, of "
        "those that GHNs are trained on and of others; default: test",
    )
    parser.add_argument("--limit", type=parse_count, metavar="N", help="networks of each split; default: all")
    parser.add_argument(
        "--networks", metavar="N,N,...", help="these networks of each split, rather than the first ones"
    )
    parser.add_argument("--validation", action="store_true", help="on validation images, rather than on test images")
    parser.add_argument("--images", type=parse_count, metavar="N", help="on so many images; default: all")
    parser.add_argument(
        "--in-turn", action="store_true", help="each network on the next so many images, rather than on the same ones"
    )
    parser.add_argument(
        "--batch-statistics", choices=STATISTICS, default=STATISTICS[0], help="of batch normalization; default: batch"
    )
    parser.add_argument("--baseline", choices=("sgd", "adam"), help="train the networks with it")
    parser.add_argument("--epochs", type=parse_count, default=0, metavar="N", help="that --baseline trains")
    parser.add_argument("--steps", type=parse_count, default=0, metavar="N", help="that --baseline trains")
    parser.add_argument("--batch-size", type=parse_count, default=64, metavar="N", help="images at once; default: 64")
    parser.add_argument("--seed", type=parse_seed, default=0, metavar="S", help="of networks and training; default: 0")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--json", metavar="FILE", help="write the results to a file, too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    out = check_output(arguments.json, (".json",))
    check_device(arguments.device)
    splits = arguments.split.split(",")
    twice = [split for split in splits if splits.count(split) > 1]
    if twice:
        raise UsageError(f"--split has {twice[0]} twice; different ones are accepted")
    if not arguments.baseline and (arguments.epochs or arguments.steps):
        raise UsageError("--epochs and --steps say how long --baseline trains, and it was not given")
    ghn = load(arguments.ghn, device=arguments.device)
    name, size = arguments.data or images_of(ghn), arguments.image_size or size_of(ghn)
    data = load_data(name, arguments.root, validation=arguments.validation, image_size=size)
    if not arguments.baseline and (notice := other_images(ghn, data)) is not None:
        say(f"ghnfast: notice: {notice}")
    with progress("evaluating", None, "networks") as step:
        options = {
            "limit": arguments.limit,
            "networks": None if arguments.networks is None else parse_numbers(arguments.networks),
            "validation": arguments.validation,
            "images": arguments.images,
            "in_turn": arguments.in_turn,
            "batch_statistics": arguments.batch_statistics,
            "batch_size": arguments.batch_size,
            "seed": arguments.seed,
            "progress": step,
        }
        if not arguments.baseline:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DomainWarning)  # the notice has said it
                name, results = ghn.name, evaluate(ghn, data, splits, **options)
        else:
            how = {"optimizer": arguments.baseline, "epochs": arguments.epochs, "steps": arguments.steps}
            results = baseline(data, splits, device=arguments.device, **how, **options)
            length = f"{arguments.epochs} epochs" if arguments.epochs else f"{arguments.steps} steps"
            name = f"{arguments.baseline}, {length}"
    table = format_results({name: results})
    if out is not None:
        text = json.dumps(results, indent=1) + "\n"
        write_text(out, text, f"{table}\n{text}")
    return table


def images_of(ghn: GHN) -> str:
    """The data set that a GHN was trained on."""
    if ghn.trained_on is None or ghn.trained_on.data not in DATA_SETS:
        raise UsageError(f"--data is needed: {ghn.name} does not say which of {', '.join(DATA_SETS)} it was trained on")
    return ghn.trained_on.data


def size_of(ghn: GHN) -> int:
    return IMAGE_SIZE if ghn.trained_on is None else ghn.trained_on.input_shape[1]


def parse_numbers(text: str) -> list[int]:
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise UsageError(f"--networks is {text!r}; numbers, with commas between them, are accepted")
    return [int(part) for part in text.split(",")]
