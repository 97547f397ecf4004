"""`ghnfast finetune`: train a model from predicted or random parameters, on few images or on all."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..progress import progress
from ..training import load_data
from ..training.accuracy import STATISTICS
from ..training.finetune import finetune, format_finetuning
from ..training.inits import ACCEPTED, DEFAULT_GHN
from ..training.recipe import RUNNING, Recipe
from .arguments import add_images, add_model, check_device, parse_count, parse_seed
from .models import adapt, find_model, is_factory
from .shared import check_output, kept_in

DEFAULTS = Recipe()
LARGE = 100  # images of more pixels a side are large ones, for which networks of DeepNets-1M have other stems


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "finetune",
        help="train a model from predicted or random parameters, on few images or on all",
        description="Fine-tune a model by the published recipe: the first images of each class, SGD at the best of "
        "several learning rates, chosen on images that are held out, with several seeds. With --out, a call that was "
        "interrupted goes on when it is repeated.",
    )
    add_model(parser, with_input_shape=False)
    add_images(parser)
    parser.add_argument("--init", default=DEFAULT_GHN, help=f"{ACCEPTED}; default: {DEFAULT_GHN}")
    parser.add_argument("--shots", default=DEFAULTS.shots, type=parse_shots, help="images of each class, or 'all'; 100")
    numbers = {"epochs": "passes over the images", "batch-size": "images of a step"}
    numbers |= {"held-out": "images that rates are chosen on", "search-seeds": "seeds that all rates are tried with"}
    for name, what in numbers.items():
        default = getattr(DEFAULTS, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=parse_count, default=default, metavar="N", help=f"{what}; {default}")
    parser.add_argument("--steps", type=parse_count, default=0, metavar="N", help="rather than --epochs")
    parser.add_argument("--test-images", type=parse_count, metavar="N", help="so many; default: all")
    rates = ",".join(map(str, DEFAULTS.rates))
    parser.add_argument("--rates", type=parse_rates, default=DEFAULTS.rates, metavar="R,R,...", help=rates)
    parser.add_argument("--weight-decay", type=float, default=DEFAULTS.weight_decay, metavar="W", help="default: 1e-3")
    parser.add_argument("--seeds", type=parse_count, default=len(DEFAULTS.seeds), metavar="N", help="how many; 3")
    parser.add_argument("--seed", type=parse_seed, default=0, metavar="S", help="the first of them; default: 0")
    parser.add_argument(
        "--evaluate-at", type=parse_steps, default=(), metavar="N,N,...", help="also measure after these steps"
    )
    parser.add_argument(
        "--batch-statistics", choices=(RUNNING, *STATISTICS), default=RUNNING, help="when measuring; default: running"
    )
    parser.add_argument("--postprocess", action="store_true", help="noise and orthogonal weights before the first step")
    parser.add_argument("--beta", type=float, default=DEFAULTS.beta, metavar="B", help="scale of that noise; 3e-5")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--out", metavar="FILE", help="a .json file for the results, which repeated calls go on from")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    out = check_output(arguments.out, (".json",))
    device = check_device(arguments.device)
    data = load_data(arguments.data, arguments.root, validation=False, image_size=arguments.image_size)
    classes = arguments.num_classes or (None if is_factory(arguments.model) else data.num_classes)
    build = find_model(arguments.model, classes, large_images=data.input_shape[1] > LARGE)
    names = "shots epochs steps batch_size held_out search_seeds test_images rates weight_decay evaluate_at".split()
    names += "batch_statistics postprocess beta".split()
    options = {name: getattr(arguments, name) for name in names}
    options["seeds"] = range(arguments.seed, arguments.seed + arguments.seeds)
    with kept_in(out), progress("fine-tuning", Recipe(**options).runs, "trainings") as step:
        results = finetune(
            lambda: adapt(build(), arguments.small_images),
            data,
            arguments.init,
            out=out,
            device=device,
            progress=step,
            **options,
        )
    if arguments.json:
        return json.dumps(results)
    return format_finetuning({results["settings"]["init"]: results})


def parse_shots(text: str) -> int | None:
    return None if text == "all" else parse_count(text)


def parse_rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' has no rates; numbers such as 0.01,0.1 are accepted") from None


def parse_steps(text: str) -> tuple[int, ...]:
    return tuple(map(parse_count, text.split(",")))
