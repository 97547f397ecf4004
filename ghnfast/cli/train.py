"""`ghnfast train`: train a GHN, or go on with a run."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..errors import TrainingError, UsageError
from ..training import make_config, read_config, train
from ..training.config import RECIPES
from ..training.folder import CHECKPOINT, CONFIG
from ..training.processes import is_first
from .shared import check_folder, kept_in


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train a GHN",
        description="Train a GHN on an image data set and networks of DeepNets-1M. A run that was interrupted goes on "
        "when the command is repeated; with --out alone, from the configuration it has saved. torchrun shares the "
        "networks of each step between several processes.",
    )
    parser.add_argument("values", nargs="*", metavar="NAME=VALUE", help="of the configuration; these come last")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the run lives")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"a .toml or .yaml file with names and values, or a recipe: {', '.join(RECIPES)}",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    folder = check_folder(arguments.out)
    values: dict[str, Any] = {}
    known = folder / CONFIG
    file = arguments.config
    if file is None and os.path.exists(known):  # not Path's, which raises what is wrong with a path
        file = known
    if file is not None:
        values.update(read_config(file))
    read = dict(values)
    for text in arguments.values:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{text!r} was given; NAME=VALUE is accepted")
        values[name] = value
    try:
        config = make_config(values)
    except TrainingError as error:
        raise in_file(error, read, file) from error
    with kept_in(folder / CHECKPOINT):
        path = train(config, arguments.out)
    return f"wrote {path}" if is_first() else ""


def in_file(error: TrainingError, values: dict[str, Any], file: object) -> TrainingError:
    """An error of a configuration; with the name of the file, where its values alone lead to it."""
    try:
        make_config(values)
    except TrainingError as own:
        if str(own) == str(error):
            return TrainingError(f"{error} (in the configuration {file})")
    return error
